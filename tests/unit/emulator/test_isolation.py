"""The emulated machine isolates PEs: what each device then does, and what is told of it, as literals."""

from __future__ import annotations

import pytest
from ideal import ONES
from isolation_story import (
    CONFIGURE,
    DETAIL,
    EEH,
    END,
    RESET,
    STATE,
    TWO_DEVICES,
    VIOLATION,
    looks,
    opened,
    read,
    rtas,
    write,
)
from msgspec.structs import replace

from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.program import Checkpoint, Close, Exit, Fill, Ioctl, Master, Spawn, Together, is_host
from tcelab.program.pagetags import data

DEAD, MASTERS, WAITS = 0xFFFFFFFF, 0x6, 0x2
EDU = 0x010000ED


class Stand:
    """The story's machine, all set up."""

    def __init__(self, guard="freeze", topology=TWO_DEVICES, ops=None):
        self.session = EmulatorSession(topology, isolates=guard == "freeze", guard=guard, nonce=bytes(16))
        self.frames = {}
        self.events = []
        for op in opened() if ops is None else ops:
            if not isinstance(op, Checkpoint):
                outcome = self.outcome(op)
                assert not outcome.errno
                self.frames.update({getattr(op, "buffer", ""): outcome.frames} if outcome.frames else {})
        assert self.events == []

    def outcome(self, op):
        outcome = self.session.intervene(op, []) if is_host(op) else self.session.perform([op])[0]
        self.events += outcome.events
        return outcome

    def do(self, *ops):
        """Their values."""
        return [self.outcome(op).value for op in ops]

    def took(self):
        """Events since the last call, each by kind and device."""
        events, self.events = self.events, []
        return [(event.kind, event.device) for event in events]

    def page(self, number):
        return self.session.machine.ram.read(self.frames["m"][number], 4096)

    def refusals(self):
        return [(each.direction, each.address, each.size) for each in self.checkpoint().refusals]

    def checkpoint(self):
        return self.session.intervene(Checkpoint(), [])

    def looks(self, *devices):
        return self.do(*looks(*devices))


@pytest.fixture
def stand():
    return Stand()


@pytest.fixture
def frozen(stand):
    assert stand.do(VIOLATION) == [0]
    stand.events.clear()
    return stand


# -- what a violation does


def test_every_device_of_the_pe_is_out_of_reach_and_off_the_bus_and_no_other_is(stand):
    assert stand.looks("pe1", "pe1b", "pe2") == [EDU, MASTERS] * 3
    assert stand.do(VIOLATION) == [0]
    assert stand.looks("pe1", "pe1b", "pe2") == [DEAD, WAITS, DEAD, WAITS, EDU, MASTERS]


def test_no_device_of_the_pe_does_dma_in_either_direction_and_the_others_do(frozen):
    before = frozen.page(1)
    assert frozen.do(write("pe1"), read("pe1"), write("pe1b"), read("pe1b")) == [ONES] * 4
    assert frozen.page(1) == before
    assert frozen.do(Fill(buffer="m", offset=3 * 4096, size=64, seed=77), read("pe2"), write("pe2", 0x20800)) == [0] * 3
    assert frozen.page(3)[0x800:0x840] == data(bytes(16), 77, 64)
    assert frozen.took() == []


@pytest.mark.parametrize(
    ("op", "told"),
    [
        (write("pe1", END), (0x400000, "write", "outside the window", None, ["empty"])),
        (read("pe1", END), (0x400000, "read", "outside the window", None, ["empty"])),
        (read("pe1", END + 4096), (0x401000, "read", "outside the window", None, [])),
        (write("pe1", END - 8, 16), (0x3FFFF8, "write", "no entry", "empty", ["empty"])),
        (write("pe1b", 0x1F000), (0x1F000, "write", "no entry", "empty", ["empty", 1])),
        (write("pe1", 0x20FFF, 2), (0x21000, "write", "no entry", "empty", [1, "empty"])),
        (read("pe1", 0x21000, 1), (0x21000, "read", "no entry", "empty", [1, "empty"])),
        (read("pe1", 0x1FF0, 4), (0x1FF0, "read", "no entry", "empty", ["empty", "empty"])),
        (write("pe1", 0x30010, 4), (0x30010, "write", "permission", 2, ["empty", "empty"])),
        (read("pe1", 0, 4000), (0x0, "read", "no entry", "empty", ["empty"])),
    ],
)
def test_each_violation_is_told_with_its_place_and_what_the_table_holds_there(stand, op, told):
    iova, direction, reason, entry, neighbours = told

    def raw(page):
        return 0 if page == "empty" else stand.frames["m"][page] | (1 if page == 2 else 3)

    (event,) = stand.outcome(op).events
    assert (event.kind, event.pe, event.liobn, event.device) == ("isolated", 1, 0x80000100, op.file)
    assert (event.iova, event.start, event.size) == (iova, op.iova, op.size)
    assert (event.direction, event.reason) == (direction, reason)
    assert event.entry == (None if entry is None else raw(entry))
    assert event.neighbours == [raw(page) for page in neighbours]
    assert event.count == 1


def test_the_legal_bytes_of_the_transfer_that_violates_still_arrive(stand):
    assert stand.do(Fill(buffer="m", offset=2 * 4096, size=64, seed=9), read("pe1", 0x30000)) == [0, 0]
    assert stand.do(write("pe1", 0x20FF0)) == [0]
    assert stand.page(1)[0xFF0:] == data(bytes(16), 9, 64)[:16]
    assert stand.took() == [("isolated", "pe1")]


def test_a_transfer_of_nothing_violates_nothing(stand):
    assert stand.do(write("pe1", END, 0)) == [0]
    assert stand.took() == []


def test_a_device_that_its_driver_keeps_off_the_bus_violates_nothing(stand):
    assert stand.do(Master(file="pe1", on=False), VIOLATION) == [WAITS, 0]
    assert stand.took() == []
    assert stand.looks("pe1b") == [EDU, MASTERS]
    assert stand.refusals() == [("write", END, 64)]


def test_the_table_of_the_pe_is_as_it_was(stand):
    before = {table.liobn: table.tce.tolist() for table in stand.checkpoint().tables}
    stand.do(VIOLATION)
    assert {table.liobn: table.tce.tolist() for table in stand.checkpoint().tables} == before


def test_registers_that_are_written_while_nobody_hears_it_are_lost(frozen):
    """A transfer that was prepared before the isolation is not begun by it, nor after it."""
    before = frozen.page(1)
    assert frozen.do(write("pe1b"), rtas(EEH, 2), rtas(EEH, 3)) == [ONES, 0, 0]
    frozen.session.machine.sleep(1.0)
    assert frozen.page(1) == before
    assert frozen.session.machine.guard.take() == []


# -- several at a time


def test_transfers_that_are_done_together_all_end_before_the_isolation(stand):
    both = Together(ops=[VIOLATION, write("pe1b", 0x20100), write("pe2", 0x20100)])
    outcome = stand.outcome(both)
    assert (outcome.value, outcome.fields) == (0, {"ends": [0, 0, 0]})
    assert stand.took() == [("isolated", "pe1")]
    assert stand.page(1)[0x100:0x140] == stand.page(3)[0x100:0x140] == bytes(64)
    assert stand.do(write("pe1b")) == [ONES]


def test_two_that_violate_in_two_pes_isolate_both(stand):
    assert stand.do(Together(ops=[VIOLATION, read("pe2", 0)])) == [0]
    assert stand.took() == [("isolated", "pe1"), ("isolated", "pe2")]
    assert stand.looks("pe1b", "pe2") == [DEAD, WAITS] * 2


@pytest.mark.parametrize("devices", [("pe1", "pe1b"), ("pe1b", "pe1")])
def test_of_two_that_violate_in_one_pe_the_first_isolates_it(stand, devices):
    first, second = devices
    outcome = stand.outcome(Together(ops=[write(first, END), read(second, END + 8192, 32)]))
    assert [(event.kind, event.device, event.reason) for event in outcome.events] == [
        ("isolated", first, "outside the window"),
        ("blocked", second, "the PE is isolated"),
    ]


def test_they_are_done_in_the_order_in_which_they_were_begun(stand):
    """Both write the same bytes: those of the last remain."""
    fills = [Fill(buffer="m", offset=page * 4096, size=8, seed=page) for page in (0, 2)]
    assert stand.do(*fills, read("pe1", 0x10000, 8), read("pe1b", 0x30000, 8)) == [0] * 4
    stand.do(Together(ops=[write("pe1b", size=8), write("pe1", size=8)]))
    assert stand.page(1)[:8] == data(bytes(16), 0, 8)
    stand.do(Together(ops=[write("pe1", size=8), write("pe1b", size=8)]))
    assert stand.page(1)[:8] == data(bytes(16), 2, 8)


def test_one_that_cannot_be_reached_does_not_keep_the_others_from_it(frozen):
    outcome = frozen.outcome(Together(ops=[write("pe1b"), write("pe2")]))
    assert (outcome.value, outcome.fields) == (ONES, {"ends": [ONES, 0]})


# -- recovery


def test_registers_come_back_before_dma_and_dma_comes_back_whole(frozen):
    assert frozen.do(rtas(EEH, 3), rtas(EEH, 2)) == [-1, 0]
    assert frozen.looks("pe1", "pe1b") == [EDU, WAITS] * 2
    before = frozen.page(1)
    assert frozen.do(write("pe1b"), read("pe1")) == [0, 0]
    assert frozen.took() == [("blocked", "pe1b"), ("blocked", "pe1")]
    assert frozen.page(1) == before
    assert frozen.refusals() == [("write", END, 64), ("write", 0x20000, 64), ("read", 0x20000, 64)]
    assert frozen.do(rtas(EEH, 3), *looks("pe1", "pe1b")) == [0, EDU, MASTERS, EDU, MASTERS]
    assert frozen.do(write("pe1b")) == [0]
    assert frozen.page(1)[:64] == bytes(64)
    assert frozen.took() == []


def test_a_blocked_read_gives_zeros(frozen):
    frozen.do(rtas(EEH, 2), read("pe1"), rtas(EEH, 3), write("pe1", 0x20100))
    assert frozen.page(1)[0x100:0x140] == bytes(64)


def test_a_blocked_access_is_told_with_its_place(frozen):
    frozen.do(rtas(EEH, 2))
    (event,) = frozen.outcome(write("pe1b", 0x20010, 4)).events
    assert (event.kind, event.pe, event.liobn, event.device) == ("blocked", 1, 0x80000100, "pe1b")
    assert (event.iova, event.start, event.size, event.direction) == (0x20010, 0x20010, 4, "write")
    assert event.reason == "the PE is isolated"
    assert (event.entry, event.neighbours) == (frozen.frames["m"][1] | 3, [0, 0])


@pytest.mark.parametrize("option", [1, 3])
def test_a_reset_takes_bus_mastering_from_every_device_of_the_pe(frozen, option):
    assert frozen.do(rtas(RESET, option)) == [0]
    assert frozen.looks("pe1", "pe1b", "pe2") == [DEAD, WAITS, DEAD, WAITS, EDU, MASTERS]
    assert frozen.do(rtas(CONFIGURE), rtas(RESET)) == [-1, 0]
    assert frozen.looks("pe1") == [DEAD, WAITS]
    assert frozen.do(rtas(CONFIGURE)) == [0]
    assert frozen.looks("pe1", "pe1b") == [EDU, WAITS] * 2
    assert frozen.do(Master(file="pe1b"), write("pe1b"), write("pe1")) == [MASTERS, 0, 0]
    assert frozen.took() == []
    assert frozen.refusals()[1:] == [("write", 0x20000, 64)], "pe1 is off the bus"


def test_a_pe_that_nobody_isolated_can_be_reset_as_well(stand):
    assert stand.do(rtas(RESET, 1, "pe2")) == [0]
    assert stand.looks("pe2", "pe1") == [DEAD, WAITS, EDU, MASTERS]
    assert stand.do(write("pe2"), rtas(RESET, 0, "pe2"), rtas(CONFIGURE, 0, "pe2")) == [ONES, 0, 0]
    assert stand.do(Master(file="pe2"), write("pe2")) == [MASTERS, 0]


def test_the_state_is_told_and_so_is_the_error_once(frozen):
    def state(device="pe1"):
        return frozen.outcome(rtas(STATE, 0, device)).fields

    assert frozen.do(rtas(STATE)) == [0]
    assert state() == state("pe1b") == {"state": 2, "supported": 1, "wait": 0, "recovery": 0}
    assert state("pe2") == {"state": 0, "supported": 1, "wait": 0, "recovery": 0}
    assert frozen.do(rtas(DETAIL, 1), rtas(DETAIL, 1), rtas(EEH, 9)) == [0, 1, -3]
    frozen.do(rtas(EEH, 2))
    assert state()["state"] == 4
    frozen.do(rtas(RESET, 1))
    assert state()["state"] == 1
    assert frozen.outcome(rtas(EEH, 2)).fields == {}


def test_a_pe_that_is_given_up_never_comes_back(frozen):
    assert frozen.do(rtas(DETAIL, 2), rtas(EEH, 2), rtas(RESET, 1), rtas(CONFIGURE)) == [0, -1, -1, -1]
    assert frozen.outcome(rtas(STATE)).fields["state"] == 5
    assert frozen.looks("pe1", "pe1b", "pe2") == [DEAD, WAITS, DEAD, WAITS, EDU, MASTERS]


def test_a_second_violation_isolates_again(frozen):
    for device in ("pe1", "pe1b", "pe1"):
        frozen.do(rtas(EEH, 2), rtas(EEH, 3), write(device, END))
        assert frozen.took() == [("isolated", device)]


# -- a driver that does not give up


def test_a_driver_that_wants_the_bus_while_its_pe_is_isolated_gets_it_once_dma_is_thawed(frozen):
    assert frozen.do(Master(file="pe1", on=False), Master(file="pe1b", on=False)) == [WAITS, WAITS]
    assert frozen.took() == []
    assert frozen.do(Master(file="pe1b"), Master(file="pe1b")) == [WAITS, WAITS]
    assert frozen.took() == [("reapplied", "pe1b")] * 2
    assert frozen.do(rtas(EEH, 2), rtas(EEH, 3), *looks("pe1", "pe1b")) == [0, 0, EDU, WAITS, EDU, MASTERS]


def test_of_what_was_undone_only_the_device_is_told(frozen):
    (event,) = frozen.outcome(Master(file="pe1b")).events
    assert (event.kind, event.pe, event.liobn, event.device) == ("reapplied", 1, 0x80000100, "pe1b")
    assert (event.iova, event.start, event.size, event.direction, event.reason) == (0, 0, 0, "", "")
    assert (event.entry, event.neighbours) == (None, [])


def test_a_device_that_is_closed_and_opened_again_is_as_isolated_as_before(frozen):
    again = Ioctl(file="s-pe1-group", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="anew")
    frozen.do(Close(file="pe1"), again)
    assert frozen.looks("anew") == [DEAD, WAITS]
    assert frozen.do(replace(write("pe1"), file="anew"), Master(file="anew")) == [ONES, WAITS]
    assert frozen.took() == [("reapplied", "pe1")]


def test_a_child_finds_the_device_as_its_parent_does(frozen):
    frozen.do(Spawn(process="c"))
    assert frozen.do(*[replace(each, by="c") for each in [*looks("pe1b"), write("pe1b"), write("pe2")]]) == [
        DEAD,
        WAITS,
        ONES,
        0,
    ]
    frozen.do(Exit(process="c"))


def test_a_child_that_violates_isolates_the_pe_of_its_device(stand):
    stand.do(Spawn(process="c"), replace(VIOLATION, by="c"))
    assert stand.took() == [("isolated", "pe1")]
    assert stand.looks("pe1b") == [DEAD, WAITS]


# -- other guards


@pytest.mark.parametrize(("guard", "kinds"), [("observe", [("violation", "pe1")]), ("off", [])])
def test_where_nobody_isolates_all_goes_on_and_firmware_has_no_services(guard, kinds):
    stand = Stand(guard)
    assert stand.do(VIOLATION) == [0]
    assert stand.took() == kinds
    assert stand.looks("pe1", "pe1b") == [EDU, MASTERS] * 2
    assert stand.do(write("pe1b"), rtas(STATE), rtas(EEH, 2), rtas(RESET, 1)) == [0, -3, -3, -3]
    assert stand.outcome(rtas(STATE)).fields == {}
    assert stand.do(Master(file="pe1")) == [MASTERS]
    assert stand.took() == []


def test_a_session_says_what_it_was_asked_to_do():
    facts = EmulatorSession(TWO_DEVICES, isolates=True, guard="observe").facts
    assert (facts.isolates, facts.guard) == (True, "observe")
    facts = EmulatorSession(TWO_DEVICES).facts
    assert (facts.isolates, facts.guard) == (False, "off")


@pytest.mark.parametrize(
    ("isolates", "guard", "does"),
    [
        (True, "freeze", "freeze"),
        (True, "observe", "freeze"),
        (True, "off", "freeze"),
        (False, "freeze", "freeze"),
        (False, "observe", "observe"),
        (False, "off", "off"),
    ],
)
def test_an_oracle_isolates_where_the_program_demands_it_whatever_the_guard_does(isolates, guard, does):
    facts = EmulatorSession(TWO_DEVICES, isolates=isolates, guard=guard).facts
    assert EmulatorReferences(TWO_DEVICES, facts).open(frozenset()).facts.guard == does


def test_another_program_finds_no_pe_isolated(frozen):
    frozen.session.renew()
    assert frozen.checkpoint().refusals == ()
    anew = [op for op in opened() if type(op).__name__ != "Bind"]
    frozen.do(*[op for op in anew if not isinstance(op, Checkpoint)])
    assert frozen.looks("pe1", "pe1b", "pe2") == [EDU, MASTERS] * 3
    assert frozen.do(rtas(DETAIL, 1)) == [1], "what happened before is forgotten"
