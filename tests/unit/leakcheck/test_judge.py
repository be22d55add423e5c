"""Which entries are leaks, and which laws an entry can break."""

import pytest

from tcelab.leakcheck.judge import LeakJudge, Stayed, describe, occupancy
from tcelab.leakcheck.leakresult import Origin
from tcelab.leakcheck.trace import Hypercall
from tcelab.leakcheck.tracereplay import Replay

DISK, OTHER = 0x80000100, 0x80000300
RAM = 0x1F000000
BASELINE = {DISK: {0x1000: 0x5003, 0x2000: 0x6003}}


@pytest.fixture
def judge():
    return LeakJudge({DISK: "disk1"}, RAM, baseline_at=100.0)


def leaks(judge, after, unbound, *calls, baseline=BASELINE):
    replay = Replay(baseline)
    for call in calls:
        replay.feed(call)
    return list(judge.leaks(Stayed(baseline, after), replay.freeze(), unbound))


# -- leaks


def test_rings_that_were_there_at_the_baseline_are_no_leaks(judge):
    assert leaks(judge, BASELINE, {}) == []


def test_an_entry_that_stayed_is_told_with_its_tce_and_the_call_that_stored_it(judge):
    call = Hypercall("H_PUT_TCE_INDIRECT", DISK, 0x8000, 4, 0xC001, 0, 101.5)
    (leak,) = leaks(judge, {DISK: {**BASELINE[DISK], 0xA000: 0xB001}}, {}, call)
    assert (leak.law, leak.liobn, leak.device, leak.ioba, leak.tce) == ("leak", DISK, "disk1", 0xA000, 0xB001)
    assert not leak.outlived
    assert leak.origin == Origin(hypercall="H_PUT_TCE_INDIRECT", seconds=1.5, ioba=0x8000, entries=4, number=3)
    assert "entries from IOBA 0x8000 on, the entry number 3" in describe(leak.origin)


def test_an_entry_in_the_place_of_another_one_is_no_leak(judge):
    assert leaks(judge, {DISK: {0x1000: 0x5003, 0x9000: 0x7003}}, {}) == []
    assert leaks(judge, {DISK: {0x1000: 0x5003, 0x2000: 0x7003}}, {}) == []


def test_where_others_have_gone_there_is_no_excess():
    assert Stayed(BASELINE, {DISK: {0x1000: 0x5003, 0x9000: 0x7003}}).excess == {}
    assert Stayed(BASELINE, {DISK: {**BASELINE[DISK], 0x9000: 0x7003}}).excess == {(DISK, 3): 1}


def test_an_entry_that_has_got_other_permissions_is_another_entry(judge):
    (leak,) = leaks(judge, {DISK: {0x1000: 0x5003, 0x2000: 0x6001}}, {})
    assert (leak.ioba, leak.tce) == (0x2000, 0x6001)


def test_an_entry_takes_no_place_of_one_with_other_permissions_or_in_another_table(judge):
    assert [leak.ioba for leak in leaks(judge, {DISK: {0x1000: 0x5003, 0x9000: 0x7001}}, {})] == [0x9000]
    assert [leak.liobn for leak in leaks(judge, {DISK: {0x1000: 0x5003}, OTHER: {0: 0x7003}}, {})] == [OTHER]


def test_among_entries_that_took_anothers_place_the_surplus_is_told(judge):
    (leak,) = leaks(judge, {DISK: {0x1000: 0x5003, 0x8000: 0x7003, 0x9000: 0x8003}}, {})
    assert "1 of these 2 entries" in leak.message
    assert "0x8000, 0x9000" in leak.message


def test_the_one_that_outlives_the_driver_is_the_leak_whatever_came_and_went(judge):
    after = {DISK: {0x1000: 0x5003, 0x8000: 0x7003, 0x9000: 0x8003}}
    (leak,) = leaks(judge, after, {DISK: {0x9000: 0x8003}})
    assert (leak.ioba, leak.outlived) == (0x9000, True)
    exchanged = {DISK: {0x1000: 0x5003, 0x8000: 0x7003}}
    (leak,) = leaks(judge, exchanged, {DISK: {0x8000: 0x7003}})
    assert (leak.ioba, leak.outlived) == (0x8000, True)


def test_an_entry_of_a_pe_that_has_no_driver_of_the_kernel_outlives_none(judge):
    (leak,) = leaks(judge, {**BASELINE, OTHER: {0x5000: 0x7003}}, {OTHER: {0x5000: 0x7003}})
    assert (leak.device, leak.outlived) == ("", False)


# -- after the unbind


def test_what_the_driver_itself_leaves_behind_is_told_once(judge):
    now = {DISK: {0x1000: 0x5003, 0x9000: 0x8003}}
    told = leaks(judge, {DISK: {**BASELINE[DISK], 0x9000: 0x8003}}, now)
    (left,) = judge.unbound(now, told, Replay(BASELINE).freeze())
    assert (left.law, left.ioba) == ("unbind", 0x1000)
    assert describe(left.origin) == "stored before the trace began"


def test_tables_of_other_pes_need_not_be_empty(judge):
    assert list(judge.unbound({OTHER: {0: 0x7003}}, [], Replay({}).freeze())) == []


# -- laws of every entry


@pytest.mark.parametrize(
    ("word", "law"),
    [
        (RAM | 3, "memory"),
        (RAM - 0x1000 | 3, None),
        (0x5001, None),
        (0x5002, "permission"),
        (0x5000, "permission"),
        (0x5803, "permission"),
    ],
    ids=["beyond RAM", "last page", "read", "write only", "no permission", "reserved bit"],
)
def test_a_tce_of_the_dma_api_leads_to_ram_and_lets_the_device_read(judge, word, law):
    found = list(judge.entries({DISK: {0x1000: word}}, Replay({}).freeze()))
    assert [each.law for each in found] == ([] if law is None else [law])


def test_permissions_that_a_program_asked_vfio_for_are_its_own(judge):
    assert list(judge.entries({OTHER: {0: 0x5002}}, Replay({}).freeze())) == []
    (found,) = judge.entries({OTHER: {0: RAM | 2}}, Replay({}).freeze())
    assert found.law == "memory"


def test_a_tce_is_judged_when_it_is_stored_however_soon_it_goes(judge):
    (found,) = judge.call(Hypercall("H_PUT_TCE_INDIRECT", DISK, 0x8000, 4, 0xC002, 0, 101.5))
    assert (found.law, found.ioba, found.origin.number) == ("permission", 0xB000, 4)
    assert list(judge.call(Hypercall("H_STUFF_TCE", DISK, 0x8000, 4, 0, 0, 101.5))) == []
    assert list(judge.call(Hypercall("H_PUT_TCE", DISK, 0x8000, 1, 0xC002, -4, 101.5))) == []


def test_tables_that_ever_held_an_entry_are_told_and_those_of_devices():
    rows = occupancy({DISK: "disk1"}, {}, {OTHER: {0: 0x7003}, 0x80000400: {}}, {})
    assert [(row.liobn, row.device, row.after) for row in rows] == [(DISK, "disk1", 0), (OTHER, "", 1)]
