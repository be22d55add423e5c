"""Hypercalls, judged: the fold of each, by status and list, and every way in which a platform may lie about one.

The world is the emulator's, with the laws alone as the judge; it lies on request.
"""

from __future__ import annotations

import pytest
from msgspec import structs

import hcallkit
from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.judge import Judge
from tcelab.judge.models.fold import Fold
from tcelab.program import (
    Buffer,
    Call,
    Checkpoint,
    Fill,
    Frames,
    Hcall,
    HcallBatch,
    Open,
    Program,
    Put,
    Read,
    Tag,
    Tce,
)
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome, Step

SMALL = topology("two-small")
ONE, TWO, SPARE = 0x80000100, 0x80000200, 0x80001E00
PAGE, ENTRIES = 4096, 4096
LAST = (ENTRIES - 1) * PAGE
ODD = 0xFFFF_0000_0000_0FFC
TOP = (1 << 64) - 1
NO_RAM = 1 << 45
BEGIN = [
    Read(what="pins"),
    Buffer(name="m", pages=8, seed=3),
    Frames(buffer="m"),
    Tag(buffer="m", count=8, liobn=ONE, ioba=0x10000, sequence=1),
]


def put(liobn, ioba, tce, **more):
    return Hcall(call=Call("H_PUT_TCE", [liobn, ioba, tce]), **more)


def get(liobn, ioba):
    return Hcall(call=Call("H_GET_TCE", [liobn, ioba]))


def stuff(liobn, ioba, tce, npages):
    return Hcall(call=Call("H_STUFF_TCE", [liobn, ioba, tce, npages]))


def indirect(liobn, ioba, tces, npages=None, offset=0):
    return Hcall(call=Call("H_PUT_TCE_INDIRECT", [liobn, ioba, offset, len(tces) if npages is None else npages], tces))


class World(EmulatorSession):
    """Tampers once, after the operation of that number; an outcome that is returned replaces its own."""

    def __init__(self, at=-1, tamper=lambda _session, _outcome: None):
        super().__init__(SMALL, seed=11)
        self._at, self._tamper, self._number = at, tamper, -1

    def perform(self, ops):
        out = []
        for op in ops:
            self._number += 1
            (outcome,) = super().perform([op])
            if self._number == self._at:
                outcome = self._tamper(self, outcome) or outcome
            out.append(outcome)
        return out

    def intervene(self, op, frames):
        self._number += 1
        return super().intervene(op, frames)

    def table(self, liobn):
        return next(pe.table for pe in self.machine.pes.values() if pe.phb.liobn == liobn)

    def entry(self, liobn, number):
        return self.table(liobn).get(number)


def judged(*ops, at=-1, tamper=lambda _session, _outcome: None, reference=False):
    program = Program(name="p", topology=SMALL, ops=[*BEGIN, *ops, Read(what="pins"), Checkpoint(label="end")])
    session = World(at, tamper)
    judge = Judge(program, session.facts, references=EmulatorReferences(SMALL, session.facts) if reference else None)
    done = perform_program(program, session, judge)
    assert done.ending is None, done.ending.error.report()
    return judge.verdict(done), judge, session


def expect_pass(*ops):
    verdict, judge, session = judged(*ops, reference=True)
    assert [each.message for each in verdict.findings] == []
    assert judge.fold.unknown == []
    return judge.fold, session


def held(fold, liobn=ONE):
    return {number << 12: entry.tce for number, entry in fold.tables[liobn].live.items()}


def findings(*ops, at, tamper):
    """Of the operation of that number after the first ones: (law, LIOBN, IOBA) of all that was found."""
    verdict, _, _ = judged(*ops, at=len(BEGIN) + at, tamper=tamper)
    assert verdict.exit_code == 1
    return [(each.law, each.liobn, each.ioba, each.message) for each in verdict.findings]


# -- the fold


def test_what_succeeded_is_in_the_table_as_it_was_given():
    fold, session = expect_pass(put(ONE, 0x10000, Tce("m")), put(ONE, 0x11FFF, ODD), put(TWO, LAST, Tce("m", 1, 1)))
    frame = session.entry(ONE, 0x10)
    assert held(fold) == {0x10000: frame, 0x11000: ODD}
    assert held(fold, TWO) == {LAST: session.entry(TWO, ENTRIES - 1)}
    assert frame & 3 == 3


def test_zero_clears():
    fold, _ = expect_pass(
        stuff(ONE, 0, ODD, 5), put(ONE, 0x2000, 0), stuff(ONE, 0, 0, 1), indirect(ONE, 0x3000, [0, 7])
    )
    assert held(fold) == {0x1000: ODD, 0x4000: 7}


def test_a_list_is_stored_one_by_one_and_what_it_is_short_of_is_zero():
    fold, _ = expect_pass(stuff(ONE, 0, ODD, 5), indirect(ONE, 0, [1, ODD + 3, 0xFFC], 4))
    assert held(fold) == {0: 1, 0x1000: ODD + 3, 0x2000: 0xFFC, 0x4000: ODD}


@pytest.mark.parametrize("npages", [3, 32, 512])
def test_what_lies_inside_the_window_stays_although_the_hypercall_failed(npages):
    fold, session = expect_pass(stuff(ONE, LAST - PAGE, ODD, npages))
    assert held(fold) == {LAST - PAGE: ODD, LAST: ODD}
    assert session.entry(ONE, ENTRIES - 1) == ODD
    fold, _ = expect_pass(indirect(ONE, LAST, [ODD, 5, *[6] * (npages - 2)]))
    assert held(fold) == {LAST: ODD}


@pytest.mark.parametrize(
    "op",
    [
        put(ONE, ENTRIES * PAGE, 3),
        put(ONE, TOP, 3),
        put(1 << 32 | ONE, 0, 3),
        put(ONE | 1, 0, 3),
        put(5, 0, 3),
        stuff(ONE, 0, 3, 0),
        stuff(ONE, 0, 3, ENTRIES + 1),
        stuff(ONE, LAST, 3, TOP),
        stuff(ONE, ENTRIES * PAGE, 3, 1),
        indirect(ONE, LAST, [3] * 512, 513),
        indirect(ONE, LAST, [3, 3], offset=8),
        indirect(ONE, 0, [3], 0),
        put(ONE, 0, 3, problem_state=True),
        Hcall(call=Call(0x21, [ONE, 0, 3])),
    ],
    ids=lambda op: str(op.call)[:90],
)
def test_any_other_failure_changes_nothing(op):
    fold, _ = expect_pass(put(ONE, 0, ODD), put(ONE, LAST, ODD), op)
    assert held(fold) == {0: ODD, LAST: ODD}


def test_a_list_may_lie_in_a_page_of_the_process_or_nowhere():
    own = Call("H_PUT_TCE_INDIRECT", [ONE, 0, Tce("m", 7, 0), 2])
    nowhere = Call("H_PUT_TCE_INDIRECT", [ONE, 0x3000, NO_RAM, 2])
    fold, session = expect_pass(
        Fill(buffer="m", offset=7 * PAGE, size=PAGE, seed=9),
        stuff(ONE, 0x3000, ODD, 3),
        Hcall(call=own),
        Hcall(call=nowhere),
    )
    assert held(fold).keys() == {0, 0x1000, 0x5000}
    assert held(fold)[0] == session.entry(ONE, 0)


@pytest.mark.parametrize(("liobn", "ioba", "npages"), hcallkit.UNREADABLE)
def test_reads_of_a_list_outside_ram_are_refused_and_no_others(liobn, ioba, npages):
    """QEMU reads a TCE before it sees whether there is a place for it, and says that it refused that."""
    fold, _ = expect_pass(Hcall(call=Call("H_PUT_TCE_INDIRECT", [liobn, ioba, NO_RAM, npages])))
    assert held(fold) == {}
    verdict, _, _ = judged(Hcall(call=Call("H_PUT_TCE_INDIRECT", [liobn, ioba, NO_RAM, npages])))
    assert verdict.evidence.laws["refusals"].judged == 1


@pytest.mark.parametrize(
    "args", [[5, 0, NO_RAM, 3], [ONE, 0, NO_RAM, 513], [ONE, 0, NO_RAM + 8, 3], [ONE, 0, NO_RAM, 0]]
)
def test_a_list_outside_ram_that_nobody_reads_is_not_refused(args):
    expect_pass(Hcall(call=Call("H_PUT_TCE_INDIRECT", args)))


def test_that_a_list_in_ram_is_refused_is_a_finding():
    """As the emulator does, which has no RAM where the program has none."""
    verdict, judge, _ = judged(Hcall(call=Call("H_PUT_TCE_INDIRECT", [ONE, 0, 0x8000, 2])))
    assert [each.ioba for each in verdict.findings if each.law == "refusals"] == [0x8000]
    assert any("took a list that nobody knows" in reason for reason in judge.fold.unknown)


def test_a_page_that_only_a_hypercall_told_of_is_looked_at_afterwards():
    program = [op for op in BEGIN if not isinstance(op, Frames)]
    ops = [*program, put(ONE, 0x17000, Tce("m", 7)), put(ONE, 0x17000, 0)]
    whole = Program(name="p", topology=SMALL, ops=[*ops, Checkpoint(label="end")])
    session = World(len(ops) - 1, lambda world, _: overwrite_page(world, 7))
    judge = Judge(whole, session.facts)
    verdict = judge.verdict(perform_program(whole, session, judge))
    assert [(each.law, "buffer m page 7" in each.message) for each in verdict.findings] == [("memory", True)]


def overwrite_page(world, number):
    """Behind everybody's back."""
    memory, _ = world._state.buffers["m"]
    frame = world.kernel.frames(memory.address + number * PAGE, 1)[0]
    world.machine.ram.write(frame, b"!")


def test_a_list_that_nobody_knows_cannot_be_judged():
    own = Call("H_PUT_TCE_INDIRECT", [ONE, 0, Tce("m", 7, 0), 2])
    unknown = Put(buffer="m", request="MAP_DMA", offset=7 * PAGE, fields={"vaddr": "f"})
    _, judge, _ = judged(Open(file="f", path="/dev/null"), unknown, Hcall(call=own))
    assert any("took a list that nobody knows" in reason for reason in judge.fold.unknown)


def test_each_of_a_batch_finds_what_those_before_it_left():
    batch = HcallBatch(
        calls=[
            Call("H_GET_TCE", [ONE, 0]),
            Call("H_PUT_TCE", [ONE, 0, ODD]),
            Call("H_GET_TCE", [ONE, 0]),
            Call("H_STUFF_TCE", [ONE, 0, 0, 2]),
            Call("H_PUT_TCE", [ONE, 0x1000, Tce("m", 2)]),
        ]
    )
    fold, session = expect_pass(batch)
    assert held(fold) == {0x1000: session.entry(ONE, 1)}


def test_rounds_leave_what_the_last_one_left():
    calls = [Call("H_GET_TCE", [ONE, 0x1000]), Call("H_PUT_TCE", [ONE, 0x1000, Tce("m", 2)])]
    fold, _ = expect_pass(HcallBatch(calls=calls, times=1000))
    assert list(held(fold)) == [0x1000]


def test_no_page_is_pinned_for_an_entry_of_a_hypercall():
    verdict, judge, _ = judged(stuff(ONE, 0, Tce("m"), 9))
    assert verdict.findings == []
    assert judge.fold.live == 0
    assert verdict.evidence.pins == 2


def test_an_entry_that_leads_to_a_buffer_is_proven_by_its_tag():
    verdict, _, _ = judged(put(ONE, 0x12000, Tce("m", 2)), put(ONE, 0x13000, NO_RAM | 3))
    assert verdict.evidence.tags == 1
    assert verdict.findings == []


# -- lies


def drop(liobn, number):
    def tamper(session, _outcome):
        session.table(liobn).put(number, 0)

    return tamper


def store(liobn, number, tce):
    def tamper(session, _outcome):
        session.table(liobn).put(number, tce)

    return tamper


def say(**fields):
    def tamper(_session, outcome):
        return structs.replace(outcome, **fields)

    return tamper


def registers(at, value):
    def tamper(_session, outcome):
        told = [*outcome.fields["registers"]]
        told[at] = value
        return structs.replace(outcome, fields={**outcome.fields, "registers": told})

    return tamper


THREE = indirect(ONE, 0x10000, [Tce("m"), Tce("m", 1), Tce("m", 2)])
OVER = stuff(ONE, LAST - PAGE, ODD, 3)
LIES = {
    "an entry of a list is lost": (THREE, drop(ONE, 0x11), ("table", ONE, 0x11000, "missing")),
    "one entry too many is written": (THREE, store(ONE, 0x13, ODD), ("table", ONE, 0x13000, "no operation made")),
    "an entry shows in another PE's table": (
        THREE,
        store(TWO, 0x10, ODD),
        ("table", TWO, 0x10000, "no operation made"),
    ),
    "an entry shows in the spare PE's table": (THREE, store(SPARE, 0, ODD), ("table", SPARE, 0, "no operation made")),
    "a permission is lost": (put(ONE, 0, ODD | 3), store(ONE, 0, ODD | 1), ("table", ONE, 0, "wrong permissions")),
    "a reserved bit is lost": (put(ONE, 0, ODD), store(ONE, 0, ODD & ~8), ("table", ONE, 0, "")),
    "what lies inside the window is rolled back": (
        OVER,
        drop(ONE, ENTRIES - 2),
        ("table", ONE, LAST - PAGE, "missing"),
    ),
    "a failed hypercall writes": (put(ONE, TOP, ODD), store(ONE, 0, ODD), ("table", ONE, 0, "no operation made")),
    "a process writes": (
        put(ONE, 0, ODD, problem_state=True),
        store(ONE, 0, ODD),
        ("table", ONE, 0, "no operation made"),
    ),
    "H_GET_TCE gives another TCE": (get(ONE, 0), registers(0, 5), ("hypercalls", ONE, 0, "gives another TCE")),
    "H_GET_TCE changes another register": (get(ONE, 0), registers(1, 5), ("hypercalls", ONE, 0, "changed r5")),
    "H_PUT_TCE changes a register": (put(ONE, 0, 3), registers(0, 5), ("hypercalls", ONE, 0, "changed r4")),
    "a process may": (
        put(ONE, 0, 0, problem_state=True),
        say(value=0),
        ("hypercalls", ONE, 0, "a hypercall of a process: expected H_PRIVILEGE"),
    ),
    "what has no place succeeds": (put(ONE, TOP, 0), say(value=0), ("hypercalls", ONE, TOP, "must have stored")),
    "a table that is not there is written": (put(5, 0, 3), say(value=0), ("hypercalls", 5, 0, "must have stored")),
    "no pages are stored": (stuff(ONE, 0, 3, 0), say(value=0), ("hypercalls", ONE, 0, "must have stored")),
    "an entry that is not there is read": (get(ONE, TOP), say(value=0), ("hypercalls", ONE, TOP, "there is not")),
}


@pytest.mark.parametrize(("op", "tamper", "where"), LIES.values(), ids=LIES)
def test_a_lie_is_found_where_it_was_told(op, tamper, where):
    law, liobn, ioba, text = where
    found = findings(op, at=0, tamper=tamper)
    assert [each[:3] for each in found] == [(law, liobn, ioba)]
    assert text in found[0][3]


def test_the_operation_that_wrote_an_entry_last_is_blamed():
    verdict, _, _ = judged(put(ONE, 0, 3), stuff(ONE, 0, ODD, 4), get(TWO, 0), at=len(BEGIN) + 2, tamper=drop(ONE, 2))
    assert verdict.findings[0].operation.startswith(f'#{len(BEGIN) + 1} {{"op":"hcall","call":{{"opcode":"H_STUFF_TCE"')


def test_a_long_list_is_told_in_a_line():
    verdict, _, _ = judged(indirect(ONE, 0, [Tce("m")] * 512), at=len(BEGIN), tamper=drop(ONE, 9))
    assert len(verdict.findings[0].operation) < 300
    assert "and 509 more" in verdict.findings[0].operation


def test_a_batch_that_tells_of_fewer_hypercalls_than_it_has_cannot_be_judged():
    batch = HcallBatch(calls=[Call("H_PUT_TCE", [ONE, 0, ODD])] * 2)
    tamper = say(fields={"statuses": [0], "registers": [[ONE, 0, ODD, 0]], "ticks": [1]})
    _, judge, _ = judged(batch, at=len(BEGIN), tamper=tamper)
    assert any("gave 1 statuses for 2 hypercalls" in reason for reason in judge.fold.unknown)


# -- the second opinion


def told(op, tamper):
    verdict, _, _ = judged(op, at=len(BEGIN), tamper=tamper, reference=True)
    return [each.message for each in verdict.findings if each.law == "difference"]


def test_another_status_than_the_emulators_is_a_difference():
    assert told(stuff(ONE, 0, 3, 0), say(value=-2)) == ["operation 4 gives value -2, emulator gives value -4"]


def test_tces_in_registers_are_compared_by_the_page_that_they_lead_to():
    # The two machines' frames differ: by their numbers, every register with a TCE would.
    verdict, _, session = judged(put(ONE, 0, Tce("m", 3)), get(ONE, 0), indirect(ONE, 0, [Tce("m")]), reference=True)
    assert verdict.findings == []
    other = session.entry(ONE, 0) & -PAGE
    assert len(told(get(ONE, 0), registers(0, other | 3))) == 1


def test_the_answer_of_firmware_is_its_own():
    query = Hcall(call=Call(0x1000, [0, 1, 2]))
    answer = Outcome(value=-3, fields={"registers": [9, 9, 9, 9], "ticks": 1})
    fold = Fold(Program(name="p", topology=SMALL, ops=[query]), World().facts)
    fold.apply(Step(0, query, answer))
    assert (fold.hypercalls.wrong, fold.unknown) == ([], [])


def test_ticks_are_not_compared():
    op = put(ONE, 0, 3)
    verdict, _, _ = judged(
        op,
        at=len(BEGIN),
        tamper=lambda _, outcome: structs.replace(outcome, fields={**outcome.fields, "ticks": 99999}),
        reference=True,
    )
    assert verdict.findings == []


# -- beside VFIO


def test_a_device_does_what_the_entry_of_a_hypercall_lets_it():
    verdict, _, _ = judged(*hcallkit.device_story(), reference=True)
    assert [each.message for each in verdict.findings] == []
    assert verdict.evidence.dma.allowed == 2
    assert verdict.evidence.dma.refused == 3


def test_the_first_map_makes_the_window_anew():
    fold, _ = expect_pass(*hcallkit.window_anew())
    assert held(fold) == {}


def test_an_entry_of_a_hypercall_is_nothing_that_vfio_may_unmap():
    """It has no pin to give back: a real kernel would give one back that it never took."""
    program = hcallkit.whole(*hcallkit.begin(), *hcallkit.unmapped_by_vfio())
    done = perform_program(program, World())
    assert done.ending.in_flight is None
    assert "given back that nobody took" in done.ending.error.message


def test_what_a_failed_hypercall_would_have_stored_it_concerned_and_no_more():
    fold, _ = expect_pass(indirect(ONE, 0x20000, [3, 3], offset=8), stuff(ONE, 0x40000, 3, ENTRIES + 1))
    last = fold.tables[ONE].last_operation
    assert [last(number) for number in (0x1F, 0x20, 0x21, 0x22)] == [None, len(BEGIN), len(BEGIN), None]
    assert [last(number) for number in (0x40, 0x40 + ENTRIES - 1, 0x40 + ENTRIES)] == [len(BEGIN) + 1] * 2 + [None]
