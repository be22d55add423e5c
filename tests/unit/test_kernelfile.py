"""A file that is no ppc64 vmlinux is named for what it is, before any boot."""

import struct

import pytest

from tcelab.errors import UsageError
from tcelab.qemu import kernelfile


def elf(machine, *, big=False, rest=b""):
    order = ">" if big else "<"
    return b"\x7fELF\x02" + (b"\x02" if big else b"\x01") + bytes(10) + struct.pack(order + "HH", 2, machine) + rest


@pytest.mark.parametrize("big", [False, True])
def test_a_ppc64_elf_is_a_kernel(tmp_path, big):
    path = tmp_path / "vmlinux"
    path.write_bytes(elf(21, big=big))
    kernelfile.check(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (elf(21, rest=bytes(4096) + b".kernel:vmlinux.strip"), "a zImage"),
        (elf(62), "ELF file for x86_64"),
        (elf(20, big=True), "ELF file for 32-bit PowerPC"),
        (b"MZ" + bytes(0x200) + b"HdrS" + bytes(64), "an x86 bzImage"),
        (b"\x1f\x8b\x08rest", "gzip data"),
        (b"garbage in", "no kernel"),
        (b"", "no kernel"),
        (b"\x7fELF\x02\x01", "no kernel"),
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
