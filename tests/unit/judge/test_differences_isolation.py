"""What befell the PEs of two runs is held side by side: all of it but times, entries by the pages they lead to."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from two_runs import Two, ours, theirs

from tcelab.program import Dma, Look, Master, Rtas, Together
from tcelab.run.record import Event, Outcome, Step

DMA = Dma(file="d", iova=0x3000, size=64, to_memory=True)
EVENT = Event(
    kind="isolated",
    pe=1,
    liobn=0x80000100,
    device="pe1",
    iova=0x4000,
    start=0x3FF0,
    size=64,
    direction="write",
    reason="permission",
    entry=ours(1, 1),
    neighbours=[ours(0), 0],
    at=1.0,
    took=0.002,
)
SEEN = replace(EVENT, entry=theirs(1, 1), neighbours=[theirs(0), 0], at=7.5, took=0.004, count=3)


@pytest.fixture
def two():
    it = Two()
    it.buffer()
    return it


def done(*events, value=0):
    return Outcome(value=value, events=list(events))


def test_the_same_event_at_another_time_and_with_other_frames_is_no_difference(two):
    assert two.done(DMA, done(EVENT), done(SEEN)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "violation"},
        {"kind": "blocked"},
        {"pe": 2},
        {"liobn": 0x80000200},
        {"device": "pe1b"},
        {"iova": 0x4008},
        {"start": 0x3FF8},
        {"size": 60},
        {"direction": "read"},
        {"reason": "no entry"},
        {"entry": theirs(2, 1)},
        {"entry": theirs(1, 3)},
        {"entry": 0},
        {"entry": None},
        {"entry": 0x5555001},
        {"neighbours": [theirs(0)]},
        {"neighbours": [0, theirs(0)]},
        {"neighbours": [theirs(0), theirs(3)]},
        {"neighbours": []},
    ],
    ids=str,
)
def test_whatever_else_is_another_one(two, change):
    (message,) = two.done(DMA, done(EVENT), done(replace(SEEN, **change)))
    assert message.startswith("operation 2 gives PE ")
    assert (
        "reference gives PE 1 isolated: pe1 writes 0x4000 of 64 bytes from 0x3ff0 on (permission, entry m:1 (read"
        in message
    )


def test_an_event_that_one_of_them_does_not_have_is_told(two):
    text = "PE 1 isolated: pe1 writes 0x4000 of 64 bytes from 0x3ff0 on (permission, entry m:1 (read) beside m:0 "
    text += "(read-write) and 0 (empty))"
    assert two.done(DMA, done(EVENT), done()) == [f"operation 2 gives no event, reference gives {text}"]
    assert two.done(DMA, done(), done(SEEN)) == [f"operation 3 gives {text}, reference gives no event"]
    steps = (Step(4, DMA, each) for each in (done(EVENT), done()))
    assert [(each.expected, each.seen) for each in two.comparison.compare(*steps)] == [(text, "no event")]


def test_an_event_outside_the_window_has_no_entry_and_perhaps_no_neighbour(two):
    outside = replace(EVENT, entry=None, neighbours=[])
    (message,) = two.done(DMA, done(outside), done())
    assert "(permission, entry none beside nothing)" in message


def test_frames_that_belong_to_no_buffer_are_compared_as_they_are(two):
    raw = replace(EVENT, entry=0x5555001, neighbours=[])
    assert two.done(DMA, done(raw), done(raw)) == []
    assert len(two.done(DMA, done(raw), done(replace(raw, entry=0x5556001)))) == 1


def test_what_befalls_two_pes_at_once_has_no_order_and_what_befalls_one_has(two):
    other = Event(kind="isolated", pe=2, liobn=0x80000200, device="pe2", direction="read", reason="no entry")
    op = Together(ops=[DMA, DMA])
    assert two.done(op, done(EVENT, other), done(other, SEEN)) == []
    blocked = replace(EVENT, kind="blocked")
    assert len(two.done(op, done(EVENT, blocked), done(replace(SEEN, kind="blocked"), SEEN))) == 2


def test_a_refusal_without_blame_is_nobodys_difference(two):
    assert two.done(DMA, done(), done(Event(kind="unblamed", pe=-1, reason="nobody"))) == []


def test_the_value_of_a_master_that_was_undone_depends_on_when_it_looked(two):
    undone = Event(kind="reapplied", pe=1, liobn=0x80000100, device="pe1")
    op = Master(file="d")
    assert two.done(op, done(undone, value=2), done(replace(undone, at=3.0), value=6)) == []
    assert two.done(op, done(undone, value=2), done(value=6)) == [
        "operation 3 gives no event, reference gives PE 1 reapplied: pe1"
    ]
    assert len(two.done(op, done(value=2), done(value=6))) == 1


def test_values_and_events_that_differ_are_told_side_by_side(two):
    first, second = two.done(DMA, done(EVENT), done(value=(1 << 64) - 1))
    assert first == "operation 2 gives value 0xffffffffffffffff, reference gives value 0"
    assert second.startswith("operation 2 gives no event")


def test_what_a_look_and_firmware_give_is_compared(two):
    look = Look(file="d", what="identity")
    assert two.done(look, done(value=0xFFFFFFFF), done(value=0x010000ED)) == [
        "operation 2 gives value 0x10000ed, reference gives value 0xffffffff"
    ]
    state = Rtas(call="ibm,read-slot-reset-state2", device="pe1")
    assert two.done(state, Outcome(value=0, fields={"state": 2}), Outcome(value=0, fields={"state": 0})) == [
        "operation 3 gives state 0x0, reference gives state 0x2"
    ]
    both = Together(ops=[DMA, DMA])
    assert (
        len(two.done(both, Outcome(value=0, fields={"ends": [0, 0]}), Outcome(value=0, fields={"ends": [0, 1]}))) == 1
    )
