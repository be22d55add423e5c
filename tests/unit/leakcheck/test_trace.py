"""What QEMU's trace tells of hypercalls, followed entry by entry, and counted."""

import pytest

from tcelab.leakcheck.counts import Counts, Row
from tcelab.leakcheck.dmaapi import Asked, Lost, Mark, Raw, Reader, Turned
from tcelab.leakcheck.trace import Hypercall, NewTable, parse
from tcelab.leakcheck.tracereplay import Replay, Shared

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
    assert now.origin(LIOBN, 0x2000, 0x6003) == last
    assert now.origin(LIOBN, 0x9000, 0x7003) is None


@pytest.mark.parametrize(
    "refused",
    [
        stuff(0x2000, 0, status=-4),
        stuff(0x2000, 1, status=-4),
        put(0x2000, 0x5003, status=-4),
        indirect(0x1000, 2, 0, -4),
    ],
    ids=["a STUFF of no entry", "a STUFF", "a PUT", "a list"],
)
def test_a_call_that_was_refused_made_no_entry_that_another_one_accounts_for(refused):
    stored = put(0x2000, 0x5003)
    now = replayed(stored, refused, refused)
    assert now.origin(LIOBN, 0x2000, 0x5003) == stored
    assert now.differences(LIOBN, {0x2000: 0x5003}) == []


def test_a_call_that_failed_half_way_made_what_nothing_else_accounts_for():
    half = indirect(0x1000, 4, 0, status=-4)
    now = replayed(put(0x2000, 0x5003), half)
    assert now.origin(LIOBN, 0x2000, 0x9003) == half
    assert now.origin(LIOBN, 0x1000, 0x9003) == half


def test_a_refused_call_that_names_no_entry_leaves_nothing_uncertain():
    now = replayed(put(0x2000, 0x5003), stuff(0x2000, 0, status=-4))
    assert len(now.differences(LIOBN, {0x2000: 0x6003})) == 1


# -- entries that are stored over


def over(*events, before=None):
    replay = Replay({LIOBN: before or {}})
    return [shared for event in events for shared in replay.feed(event)]


def test_what_is_stored_where_nothing_stands_is_shared_with_nobody():
    assert (
        over(put(0x1000, 0x5003), stuff(0x1000, 1), indirect(0x1000, 2, 0x6003), NewTable(LIOBN), put(0x1000, 1)) == []
    )
    assert over(put(0x1000, 0x5003), put(0x1000, 0), put(0x1000, 0x5003)) == []


def test_what_is_stored_where_entries_stand_is_told_with_who_had_them():
    first, second, third = put(0x1000, 0x5003), indirect(0x2000, 2, 0x6003), indirect(0x1000, 4, 0x9003)
    assert over(first, second, third) == [Shared(third, first, 0x1000, 1), Shared(third, second, 0x2000, 2)]
    assert over(first, before={0x1000: 0x7003}) == [Shared(first, None, 0x1000, 1)]


def test_where_nobody_can_tell_whether_an_entry_stands_nothing_is_shared():
    assert over(indirect(0x1000, 2, 0, status=-4), put(0x1000, 0x5003)) == []


# -- what drivers ask for


def told(*lines, page_size=4096):
    reader = Reader(page_size)
    return list(
        reader.feed("".join(f"   kworker/0:1H-45   [000] d..1.  1.234567: {line}\n" for line in lines).encode())
    )


# As Linux 6.12.95 prints them.
PAGE = "dma_map_page: 0001:00:01.0 dir=TO_DEVICE dma_addr=3ff8 size=4112 phys_addr=50c3ff8 attrs="
ALLOC = (
    "dma_alloc: 0002:00:02.0 dir=BIDIRECTIONAL dma_addr=10000 size=4096 virt_addr=0000000008f5d315"
    " flags=GFP_KERNEL|__GFP_NOWARN|__GFP_ZERO attrs=NO_WARN"
)
SG = (
    "dma_map_sg: 0001:00:01.0 dir=FROM_DEVICE nents=2/2 ents=2/2 dma_addrs={0x1000,0x5000} sizes={0x1000,0x2000}"
    " phys_addrs={0x7000,0x9000} attrs="
)


def test_a_mapping_has_every_page_that_it_touches():
    assert told(PAGE) == [Asked("0001:00:01.0", "TO_DEVICE", 0x3000, 3)]


def test_what_is_allocated_are_whole_pages_of_the_kernel():
    assert told(ALLOC) == [Asked("0002:00:02.0", "BIDIRECTIONAL", 0x10000, 1)]
    assert told(ALLOC, page_size=65536) == [Asked("0002:00:02.0", "BIDIRECTIONAL", 0x10000, 16)]


def test_each_piece_of_a_list_is_a_mapping_and_a_list_that_is_cut_is_told():
    first, second = Asked("0001:00:01.0", "FROM_DEVICE", 0x1000, 1), Asked("0001:00:01.0", "FROM_DEVICE", 0x5000, 2)
    assert told(SG) == [first, second]
    cut = told(SG.replace("ents=2/2 dma", "ents=2/9 [TRUNCATED] dma"))
    assert [type(each) for each in cut] == [Lost, Asked, Asked]


def test_a_mapping_that_the_driver_did_not_get_is_none():
    assert told(PAGE.replace("3ff8 size", "ffffffffffffffff size")) == []


def test_lines_may_come_in_pieces_and_what_nobody_understands_is_lost():
    reader = Reader(4096)
    line = f" a-1 [000] ..... 1.0: {PAGE}\n".encode()
    assert [*reader.feed(line[:40]), *reader.feed(line[40:])] == told(PAGE)
    assert [type(each) for each in told("dma_map_page: something else")] == [Lost]
    assert [type(each) for each in reader.feed(b"CPU:0 [LOST 3 EVENTS]\nnothing of that\n")] == [Lost, Lost]
    assert told("dma_unmap_page: 0001:00:01.0 dir=TO_DEVICE dma_addr=3000 size=16 attrs=") == []


def test_a_programs_own_hypercall_is_told_with_its_place_and_a_batch_is_not():
    raw = (
        "tcelab_raw: (tce_hcall_write+0xc/0x75c [tce_hcall]) version=1 count=1 opcode=312 liobn=2147483904 ioba=4096"
        " value=0 entries=9"
    )
    assert told(raw) == [Raw(1, 0x138, LIOBN, 0x1000, 0, 9)]
    assert told(raw.replace("entries=9", "entries=(fault)")) == [Raw(0, 0, 0, 0, 0, 0)]
    assert told(raw.replace("count=1", "count=7")) == [Raw(7, 0x138, LIOBN, 0x1000, 0, 9)]
    # The rest of a batch that a shell has written in two pieces: the module refuses it.
    assert told(raw.replace("version=1", "version=50331648")) == told(raw.replace("count=1", "count=196608")) == []
    assert told("hcall_exit: opcode=316 retval=-4", "tracing_mark_write: x") == [Turned(0x13C, -4), Mark("x")]


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
