"""Whom the guard blames where a PE has windows of 64 bits: by the PE, whichever of its windows was violated."""

import pytest

from tcelab.papr import window
from tcelab.papr.window import Shape
from tcelab.program.topology import Device, Phb
from tcelab.qemu.guardeddevice import Flight
from tcelab.qemu.tableaddresses import TableAddresses

PHB = Phb(1, (Device("pe1", 1),), 16 << 20)
OTHER = Phb(2, (Device("pe2", 2),), 16 << 20, window_start=16 << 20)
LOW, HIGH = PHB.liobn, PHB.liobn | 1
UP = window.SECOND_START
CREATED = (
    "spapr_iommu_ddw_create buid=0x800000020000001 addr=0x0, page size=0x10000, requested=0x100000,"
    " start addr=800000000000000, liobn=80000101"
)
MADE = ("spapr_iommu_new_table liobn=80000101 table=0x7000 fd=-1", CREATED)
GONE = ("spapr_iommu_ddw_remove liobn=80000101",)
LOW_GONE = ("spapr_iommu_ddw_remove liobn=80000100",)


def told(*lines):
    tables = TableAddresses()
    tables.line("spapr_iommu_new_table liobn=80000100 table=0x1000 fd=-1")
    for line in lines:
        tables.line(line)
    return tables


@pytest.mark.parametrize(
    ("lines", "windows"),
    [
        ((), {LOW: Shape(4096)}),
        (MADE, {LOW: Shape(4096), HIGH: Shape(16, 16, UP)}),
        ((*MADE, *GONE), {LOW: Shape(4096)}),
        ((*MADE, *LOW_GONE), {HIGH: Shape(16, 16, UP)}),
        (LOW_GONE, {LOW: Shape(0)}),
    ],
    ids=["at first", "made", "removed", "alone", "none"],
)
def test_the_windows_of_a_pe_are_those_of_the_trace_so_far(lines, windows):
    assert told(*lines).windows(PHB) == windows


def test_a_window_that_does_not_begin_at_0_has_its_place():
    tables = told("spapr_iommu_new_table liobn=80000200 table=0x2000 fd=-1")
    assert tables.windows(OTHER) == {OTHER.liobn: Shape(4096, start=16 << 20)}


@pytest.mark.parametrize(
    ("iova", "told_as", "found"),
    [
        (UP + 0x12000, 0x12000, UP + 0x12000),  # the table refused it: QEMU tells the offset in the window
        (UP + 0x100000, UP + 0x100000, UP + 0x100000),  # behind the window: the bus address
        (UP + 0xFFFC0, 0xFFFC0, UP + 0xFFFC0),  # its last bytes
        (UP - 0x1000, UP - 0x1000, UP - 0x1000),
        (0x12000, 0x12000, 0x12000),
        (UP + 0x12000, 0x22000, None),
        (0x12000, UP + 0x12000, None),
    ],
)
def test_a_refused_access_belongs_to_a_transfer_in_any_window(iova, told_as, found):
    windows = told(*MADE).windows(PHB).values()
    assert Flight("write", iova, 64).located("write", told_as, 4, windows) == found
    assert Flight("read", iova, 64).located("write", told_as, 4, windows) is None


def test_an_offset_in_a_window_that_is_gone_belongs_to_nobody():
    flight = Flight("write", UP + 0x12000, 64)
    assert flight.located("write", 0x12000, 4, told(*MADE, *GONE).windows(PHB).values()) is None
    assert flight.located("write", UP + 0x12000, 4, told(*MADE, *GONE).windows(PHB).values()) == UP + 0x12000
