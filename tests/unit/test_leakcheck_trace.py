"""What QEMU's trace tells of hypercalls, followed entry by entry, and counted."""

import pytest

from tcelab.leakcheck.counts import Counts, Row
from tcelab.leakcheck.replay import Replay
from tcelab.leakcheck.trace import Hypercall, NewTable, parse

LIOBN = 0x80000100

# As QEMU 11.1.3 and 7.2.22 print them.
PUT = "2026-11-24T02:17:18.532750Z spapr_iommu_pci_put liobn=0x80000100 ioba=0x10000 tce=0x2e66001 ret=0"
STUFF = "2026-11-24T02:17:18.534858Z spapr_iommu_pci_stuff liobn=0x80000100 ioba=0x42000 tcevalue=0x0 npages=2 ret=0"
INDIRECT = (
    "2026-11-24T02:17:18.492555Z spapr_iommu_pci_indirect liobn=0x80000100 ioba=0x2000 tcelist=0x2487000 iobaN=0x1"
    " tceN=0x3fb7003 ret=0"
)


def put(ioba, tce, status=0):
    return Hypercall("H_PUT_TCE", LIOBN, ioba, 1, tce, status, 1.0)


def stuff(ioba, entries, tce=0, status=0):
    return Hypercall("H_STUFF_TCE", LIOBN, ioba, entries, tce, status, 2.0)


def indirect(ioba, entries, last, status=0):
    return Hypercall("H_PUT_TCE_INDIRECT", LIOBN, ioba, entries, last, status, 3.0)


def replayed(*events, before=None):
    replay = Replay({LIOBN: before or {}})
    for event in events:
        replay.feed(event)
    return replay.freeze()


# -- lines


def test_a_put_names_its_entry():
    assert parse(PUT) == Hypercall("H_PUT_TCE", LIOBN, 0x10000, 1, 0x2E66001, 0, 1795486638.53275)


def test_a_stuff_tells_the_address_after_its_last_entry():
    call = parse(STUFF)
    assert (call.ioba, call.entries, call.tce) == (0x40000, 2, 0)


def test_an_indirect_tells_the_number_of_its_last_entry_and_that_entrys_tce():
    call = parse(INDIRECT)
    assert (call.ioba, call.entries, call.tce) == (0x2000, 2, 0x3FB7003)


def test_an_address_between_two_entries_is_that_of_the_first():
    assert parse(INDIRECT.replace("ioba=0x2000", "ioba=0x2fff")).ioba == 0x2000


def test_an_older_qemus_clock_and_plain_numbers_are_read_as_well():
    line = "4711@1795486638.250000:spapr_iommu_pci_put liobn=80000100 ioba=0x10000 tce=0x2e66001 ret=-4"
    assert parse(line) == Hypercall("H_PUT_TCE", LIOBN, 0x10000, 1, 0x2E66001, -4, 1795486638.25)


def test_a_trace_without_a_clock_tells_no_time():
    assert parse(PUT.partition(" ")[2]).at == 0


def test_a_new_table_is_told_and_other_lines_are_nothing():
    assert parse("2026-11-24T02:16:32.115286Z spapr_iommu_new_table liobn=0x80001e00 table=0x5555 fd=-1") == NewTable(
        0x80001E00
    )
    assert parse("spapr_iommu_ddw_reset buid=0x800000020000001 addr=0x0") is None


# -- replay


def test_the_replay_equals_a_table_that_was_written_so():
    now = replayed(put(0x1000, 0x5003), indirect(0x8000, 2, 0x9001), stuff(0x1000, 1), before={0x4000: 0x7003})
    assert now.differences(LIOBN, {0x4000: 0x7003, 0x8000: 0x123001, 0x9000: 0x9001}) == []


@pytest.mark.parametrize(
    ("read", "ioba"),
    [
        ({}, 0x1000),
        ({0x1000: 0x5001}, 0x1000),
        ({0x1000: 0x5003, 0x2000: 0x6003}, 0x2000),
    ],
    ids=["missing", "other permissions", "nobody wrote it"],
)
def test_each_entry_that_is_otherwise_is_told(read, ioba):
    (line,) = replayed(put(0x1000, 0x5003)).differences(LIOBN, read)
    assert f"LIOBN {LIOBN:#x} IOBA {ioba:#x}" in line


def test_of_a_list_only_the_last_tce_is_known_and_the_others_must_be_something():
    now = replayed(indirect(0x1000, 3, 0x9003))
    assert now.differences(LIOBN, {0x1000: 0x1003, 0x2000: 0x2003, 0x3000: 0x9003}) == []
    assert len(now.differences(LIOBN, {0x1000: 0x1003, 0x3000: 0x9003})) == 1
    assert len(now.differences(LIOBN, {0x1000: 0x1003, 0x2000: 0x2003, 0x3000: 0x9001})) == 1


def test_a_stuff_stores_the_same_in_each_entry():
    now = replayed(stuff(0x1000, 2, 0x5003))
    assert now.differences(LIOBN, {0x1000: 0x5003, 0x2000: 0x5003}) == []


def test_nobody_can_tell_what_a_call_that_failed_has_stored():
    now = replayed(indirect(0x1000, 1, 0x9003, status=-4))
    assert now.differences(LIOBN, {}) == now.differences(LIOBN, {0x1000: 0x9003, 0x2000: 0x7003}) == []
    assert len(now.differences(LIOBN, {0x3000: 0x7003})) == 1


def test_a_new_table_is_empty():
    assert replayed(put(0x1000, 0x5003), NewTable(LIOBN)).differences(LIOBN, {}) == []


def test_an_entry_comes_from_the_call_that_stored_it_last():
    first, last = put(0x2000, 0x5003), indirect(0x1000, 4, 0x9003)
    now = replayed(first, last, before={0x9000: 0x7003})
    assert now.origin(LIOBN, 0x2000) == last
    assert now.origin(LIOBN, 0x9000) is None


def test_what_is_frozen_does_not_move():
    replay = Replay({})
    before = replay.freeze()
    replay.feed(put(0x1000, 0x5003))
    assert before.differences(LIOBN, {}) == []


# -- counts


def test_calls_are_counted_by_table_kind_and_size():
    counts = Counts()
    for call in (stuff(0, 8), put(0, 0x1001), stuff(0, 8), stuff(0, 1), indirect(0, 8, 0x1003)):
        counts.add(call)
    assert list(counts.rows()) == [
        Row(LIOBN, "H_PUT_TCE", 1, 1),
        Row(LIOBN, "H_PUT_TCE_INDIRECT", 8, 1),
        Row(LIOBN, "H_STUFF_TCE", 1, 1),
        Row(LIOBN, "H_STUFF_TCE", 8, 2),
    ]
    assert counts.total == 5
    assert counts.permissions == {(LIOBN, 1): 1, (LIOBN, 3): 1}


def test_a_call_that_failed_is_counted_by_its_status_alone():
    counts = Counts()
    counts.add(put(0, 0x1001, status=-4))
    assert (counts.total, dict(counts.refused), dict(counts.permissions)) == (0, {(LIOBN, -4): 1}, {})
