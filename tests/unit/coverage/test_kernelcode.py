"""The functions of a kernel are found by its symbols; those of a module by its own."""

from __future__ import annotations

import io
import struct

import pytest
from codes import BLR, NOP, bl, code
from tiny_elf import module

from tcelab.coverage.kernelcode import LINEAR, KernelCode
from tcelab.errors import Unsupported, UsageError
from tcelab.image import cpio

AT = LINEAR + 0x1000
SYMBOLS = f"""\
{LINEAR:016x} T _stext
{AT:016x} t iommu_alloc
{AT + 0x20:016x} t __iommu_free.constprop.0
{AT + 0x28:016x} T other
{AT + 0x40:016x} T _mcount
{AT + 0x100:016x} R _etext
{AT + 0x200:016x} T _sinittext
{AT + 0x200:016x} t iommu_init_table
{AT + 0x300:016x} T _einittext
{AT + 0x400:016x} d iommu_map_page
"""
TEXT = [NOP, bl(0x3C), NOP, BLR, 0, 0, 0, 0, NOP, BLR, NOP, BLR]


def vmlinux(words, *, big=False):
    """An ELF file with one segment at physical address 0x1000."""
    order = ">" if big else "<"
    data = struct.pack(f"{order}{len(words)}I", *words)
    ident = b"\x7fELF" + bytes([2, 2 if big else 1, 1]) + bytes(9)
    head = struct.pack(f"{order}HHIQQQIHHHHHH", 2, 21, 1, 0, 64, 0, 2, 64, 56, 1, 0, 0, 0)
    segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 120, LINEAR + 0x1000, 0x1000, len(data), len(data), 4)
    return ident + head + segment + data


@pytest.fixture
def made(tmp_path):
    def make(symbols=SYMBOLS, *, members=(), big=False):
        kernel, initrd = tmp_path / "vmlinux", tmp_path / "initrd"
        kernel.write_bytes(vmlinux(TEXT, big=big))
        stream = io.BytesIO()
        cpio.write_archive(stream, [cpio.file("init", b"x"), *members])
        initrd.write_bytes(stream.getvalue())
        return KernelCode(kernel, initrd, symbols)

    return make


def test_functions_of_a_source_file_are_found_by_name_without_what_a_compiler_appends(made):
    (target,), missing = made().targets(["kernel/iommu.c"])
    assert [(each.name, each.start) for each in target.functions] == [
        ("iommu_alloc", AT),
        ("__iommu_free.constprop.0", AT + 0x20),
    ]
    assert missing == []


def test_the_code_ends_with_the_function_and_calls_have_names(made):
    (target,), _ = made().targets(["iommu_alloc"])
    (function,) = target.functions
    assert function.code == code(TEXT[:4])
    assert function.calls == {4: "_mcount"}


def test_a_pattern_is_taken(made):
    (target,), _ = made().targets(["iommu_*"])
    assert [each.name for each in target.functions] == ["iommu_alloc"]


def test_a_name_of_nothing_is_wrong_usage(made):
    with pytest.raises(UsageError, match=r"--coverage-of nothing_\*") as raised:
        made().targets(["nothing_*"])
    assert "kernel/iommu.c" in raised.value.next_step


def test_a_unit_that_a_kernel_lacks_is_missing_with_a_reason(made):
    targets, missing = made().targets(["pseries/iommu.c"])
    assert targets == []
    assert missing == ["pseries/iommu.c: this kernel has none of its functions, built in or in the initrd's modules"]


def test_a_kernel_without_symbols_is_told(made):
    with pytest.raises(Unsupported, match="CONFIG_KALLSYMS"):
        made("")


def test_a_big_endian_kernel_is_told(made):
    with pytest.raises(Unsupported, match="big-endian"):
        made(big=True).targets(["iommu_alloc"])


def test_a_module_is_found_in_the_initrd(made):
    functions = {"tce_iommu_open": [NOP, BLR], "tce_iommu_release": [NOP, bl(0), BLR]}
    ko = module(functions, {("tce_iommu_release", 4): "__stack_chk_fail"})
    member = cpio.file("lib/modules-tcelab/vfio_iommu_spapr_tce.ko", ko)
    (target,), missing = made(members=[member]).targets(["vfio_iommu_spapr_tce"])
    assert (target.module, missing) == ("vfio_iommu_spapr_tce", [])
    assert [(each.name, each.start, each.code) for each in target.functions] == [
        ("tce_iommu_open", 0, code([NOP, BLR])),
        ("tce_iommu_release", 8, code([NOP, bl(0), BLR])),
    ]
    assert target.functions[1].calls == {4: "__stack_chk_fail"}


def test_a_damaged_module_is_a_reason(made):
    member = cpio.file("lib/modules/vfio.ko", b"\x7fELF no module")
    with pytest.raises(Unsupported, match="vfio"):
        made(members=[member]).targets(["vfio"])
