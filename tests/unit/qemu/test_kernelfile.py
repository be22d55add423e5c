"""A file that is no ppc64 vmlinux is named for what it is, before any boot."""

import pytest
from kerneltoy import elf, vmlinux

from tcelab.errors import UsageError
from tcelab.qemu import kernelfile


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [2, 3], ids=["ET_EXEC", "ET_DYN"])
def test_a_ppc64_elf_is_a_kernel(tmp_path, big, kind):
    path = tmp_path / "vmlinux"
    path.write_bytes(elf(21, big=big, kind=kind))
    kernelfile.check(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (elf(21, sections={".kernel:vmlinux.strip": bytes(4096)}), "a zImage"),
        (elf(62), "ELF file for x86_64"),
        (elf(21, kind=1), "an object file or a module"),
        (elf(21, kind=1, big=True), "an object file or a module"),
        (elf(62, kind=1), "ELF file for x86_64"),
        (elf(20, big=True), "ELF file for 32-bit PowerPC"),
        (b"MZ" + bytes(0x200) + b"HdrS" + bytes(64), "an x86 bzImage"),
        (b"\x1f\x8b\x08rest", "gzip data"),
        (b"garbage in", "no kernel"),
        (b"", "no kernel"),
        (b"\x28\xb5\x2f\xfdrest", "zstd data"),
        (b"\x7fELF\x02\x01", "a damaged ELF file"),
        (vmlinux()[:-1], r"a damaged ELF file \(its section headers lie behind its end; is it whole\?\)"),
        (elf(4711), "ELF file for machine 4711"),
        (elf(183), "ELF file for arm64"),
    ],
)
def test_what_it_is_instead_is_said_in_one_line(tmp_path, content, said):
    path = tmp_path / "kernel"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        kernelfile.check(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_kernel_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot read the kernel"):
        kernelfile.check(tmp_path / "none")


@pytest.mark.parametrize(
    "call", [kernelfile.release, kernelfile.little_endian, lambda path: kernelfile.holds(path, b"")]
)
def test_whatever_is_asked_of_a_kernel_that_is_not_there(tmp_path, call):
    with pytest.raises(UsageError, match="cannot read the kernel"):
        call(tmp_path / "none")


def test_a_folder_is_no_kernel(tmp_path):
    with pytest.raises(UsageError, match="cannot read the kernel"):
        kernelfile.check(tmp_path)


@pytest.mark.parametrize("release", ["6.12.95+deb12-powerpc64le-64k", "6.12.0-rc1-00012-gabc~x-dirty", "7.0.0", ""])
def test_the_release_is_the_banners(tmp_path, release):
    """And not that of the format that the banner in /proc is printed with."""
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(release))
    assert kernelfile.release(path) == release


@pytest.mark.parametrize("big", [False, True])
def test_the_byte_order_is_told(tmp_path, big):
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(big=big))
    assert kernelfile.little_endian(path) is not big


def test_texts_are_found_and_what_lies_between_two(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(texts=[b"</here>", b"<here>", b"it", b"</here>"]))
    assert kernelfile.holds(path, b"it")
    assert not kernelfile.holds(path, b"not it")
    assert kernelfile.between(path, b"<here>", b"</here>") == b"\0it\0"
    assert kernelfile.between(path, b"<here>", b"no end") == b""
    assert kernelfile.between(path, b"no start", b"</here>") == b""
