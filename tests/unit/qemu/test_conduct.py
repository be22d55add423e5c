"""What a guest asks of its platform, from QEMU's trace and the kernel's lines."""

from tcelab.papr import window
from tcelab.qemu.conduct import Heard

STUFF = "2026-11-30T13:00:00.123456Z spapr_iommu_pci_stuff liobn=0x80000100 ioba={:#x} tcevalue={:#x} npages={} ret={}"
INDIRECT = "spapr_iommu_pci_indirect liobn=80000101 ioba={:#x} tcelist=0x7000 iobaN=0x{:x} tceN={:#x} ret=0"
QUERIED = (
    "[    0.8] pci 0002:00:03.0: ibm,query-pe-dma-windows(2026) 1800 8000000 20000002 returned 0, lb={:x} ps={:x} wn={}"
)
ASKED = (
    "[    1.94] virtio-pci 0002:00:03.0: ibm,create-pe-dma-window(2027) 1800 8000000 20000002 {:x} {:x} returned {}"
    " (liobn = 0x80000201 starting addr = 8000000 0)"
)
MADE = (
    "spapr_iommu_ddw_create buid=0x800000020000002 addr=0x1800, page size={:#x}, requested={:#x}, start"
    " addr=0x800000000000000, liobn=0x80000201"
)


def heard(*lines):
    """All lines: of the kernel's, those with a stamp."""
    of = Heard()
    of.shapes = {0x80000101: window.Shape(4096, 16, 1 << 59)}
    for line in lines:
        (of.said if line.startswith("[") else of.trace)(line)
    return of


def broken(*lines):
    return [(each.call, each.ioba, each.entries, each.why, times) for each, times in heard(*lines).take().breaches]


def test_calls_within_the_rules_are_counted_and_no_more():
    lines = [STUFF.format(0x200000, 0, 512, 0)] * 3, [INDIRECT.format(1 << 59, 511, 0x10003)]
    told = heard(*lines[0], *lines[1], "spapr_iommu_pci_put liobn=0x80000100 ioba=0x1001 tce=0x7fc ret=0").take()
    assert (told.calls, told.breaches) == ({"H_STUFF_TCE": 3, "H_PUT_TCE_INDIRECT": 1}, [])


def test_more_than_512_entries_in_a_call_are_told_with_the_first_ones_address():
    why = "513 entries, and one call may have 512"
    assert broken(STUFF.format(0x301000, 0, 513, 0)) == [("H_STUFF_TCE", 0x100000, 513, why, 1)]
    # It was refused midway: where it began, the trace does not tell.
    assert broken(*[STUFF.format(0x301000, 0, 513, -4)] * 2) == [("H_STUFF_TCE", None, 513, why, 2)]


def test_an_address_amidst_a_page_of_the_window_is_told():
    ((call, ioba, entries, why, _),) = broken(INDIRECT.format((1 << 59) + 0x1000, 1, 0x10003))
    assert (call, ioba, entries) == ("H_PUT_TCE_INDIRECT", (1 << 59) + 0x1000, 2)
    assert why == "IOBA 0x800000000001000, which is not a multiple of the window's pages of 0x10000 bytes"


def test_reserved_bits_are_told():
    (stuffed,) = broken(STUFF.format(0x1000, 0x7004, 1, 0))
    (listed,) = broken(INDIRECT.format(1 << 59, 0, 0x10803))
    assert stuffed[3] == "a TCE 0x0000000000007004, whose bits 0x4 are reserved"
    assert listed[3] == "a TCE 0x0000000000010803, whose bits 0x800 are reserved"


def test_a_window_that_is_refused_is_told_by_the_kernel_and_one_that_is_made_by_the_trace():
    offer = QUERIED.format(0x80000000, 0x107, 1)
    made = ASKED.format(24, 33, 0), MADE.format(1 << 24, 1 << 33)
    told = heard(offer, *made).take()
    assert (told.calls, told.breaches) == ({"ibm,query-pe-dma-window": 1, "ibm,create-pe-dma-window": 1}, [])
    assert broken(offer, ASKED.format(24, 0, -3)) == [
        (
            "ibm,create-pe-dma-window",
            None,
            0,
            "a window of 2^0 bytes, which is smaller than its pages of 2^24",
            1,
        )
    ]


def test_a_window_must_be_as_the_query_offered():
    def why(offer, asked):
        return [each[3] for each in broken(QUERIED.format(*offer), asked)]

    assert why((1 << 31, 0x7, 1), ASKED.format(21, 30, -3)) == [
        "pages of 2^21 bytes, and the query offered the sizes of mask 0x7"
    ]
    assert why((0x100, 0x7, 1), ASKED.format(16, 25, -1)) == ["2^9 entries, and the query offered 0x100 at most"]
    assert why((0x100, 0x7, 1), MADE.format(1 << 16, 1 << 25)) == ["2^9 entries, and the query offered 0x100 at most"]
    assert why((1 << 31, 0x7, 0), ASKED.format(16, 30, -1)) == ["a window, and the query offered none"]
    assert why((1 << 31, 0x7, 0), MADE.format(1 << 16, 1 << 30)) == []  # it may have asked again
    # Of another PHB, nobody has asked.
    assert why((1 << 31, 0, 0), ASKED.replace("20000002", "20000001").format(16, 30, -1)) == []


def test_each_program_on_a_guest_is_told_of_the_boot_and_of_nothing_before_itself():
    of = heard(STUFF.format(0x1000000, 0, 4096, 0))
    of.booted()
    of.trace(STUFF.format(0x1000, 0, 1, 0))
    first, more = of.take(), of.take()
    assert (first.calls, [(each.boot, times) for each, times in first.breaches]) == ({"H_STUFF_TCE": 2}, [(True, 1)])
    assert (more.calls, more.breaches) == ({}, [])
    of.trace(STUFF.format(0x1000000, 0, 600, 0))
    of.renew()
    assert of.take() == of.boot
    fork = Heard()
    fork.said(QUERIED.format(0x100, 0x7, 1))  # of its base's console
    fork.forked(of.boot)
    assert fork.take() == of.boot
    fork.said(ASKED.format(21, 30, -3))
    assert len(fork.take().breaches) == 1  # the offer is known all the same


def test_however_many_are_wrong_memory_is_bounded_and_none_is_left_out():
    of = heard(*(STUFF.format((1000 + i) << 12, 0, 600, 0) for i in range(20000)))
    breaches = of.take().breaches
    assert len(breaches) <= (1 << 14) + 1
    assert sum(times for _, times in breaches) == 20000
