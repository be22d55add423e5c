"""H_PUT_TCE_INDIRECT with a list in RAM that no buffer has: the entries hold whatever was there, and nobody knows what.

The world is the emulator's, with a page of RAM that no program made: QEMU reads such a page like any other. What it
stored is adopted as seen: nothing about these entries is a finding before, all is afterwards, and no run passes.
"""

from __future__ import annotations

import pytest
from msgspec import structs

import hcallkit
from hcallkit import ONE, PAGE, SMALL, TWO, put, stuff
from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.judge import Judge
from tcelab.program import Burst, Call, Checkpoint, Dma, Hcall, HcallBatch, Page, Program, Read, Tce, Transfer
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

LIST = 0x10000
ODD = 0xFFFF_0000_0000_0FFC
HELD = [0, ODD, (1 << 45) | 1, 7, 0]
"""What is there: an empty entry, and some with all, one and no permissions."""
LOOK = Checkpoint(label="look")
BEGIN = [*hcallkit.begin(), put(ONE, 0x10000, Tce("m"))]
FIRST = len(BEGIN)


def stored(ioba=0x20000, npages=5, address=LIST):
    return Hcall(call=Call("H_PUT_TCE_INDIRECT", [ONE, ioba, address, npages]))


def get(ioba):
    return Hcall(call=Call("H_GET_TCE", [ONE, ioba]))


class World(EmulatorSession):
    """Tampers after operations of those numbers. `number`: of the last one, counted from the test's own on."""

    def __init__(self, at, tamper, guard):
        super().__init__(SMALL, seed=11, guard=guard)
        self._at, self._tamper, self.number = at, tamper, -1 - FIRST
        self.machine.ram.pages[LIST] = bytearray(self.machine.ram.page_size)
        self.machine.ram.write(LIST, b"".join(word.to_bytes(8, "big") for word in HELD))

    def perform(self, ops):
        out = []
        for op in ops:
            self.number += 1
            (outcome,) = super().perform([op])
            out.append((self._tamper(self, outcome) or outcome) if self.number in self._at else outcome)
        return out

    def intervene(self, op, frames):
        self.number += 1
        return super().intervene(op, frames)

    def put(self, number, tce, liobn=ONE):
        next(pe.table for pe in self.machine.pes.values() if pe.phb.liobn == liobn).put(number, tce)


def judged(*ops, at=(), tamper=lambda _session, _outcome: None, reference=True, guard="off"):
    program = Program(name="p", topology=SMALL, ops=[*BEGIN, *ops, LOOK])
    session = World({at} if isinstance(at, int) else at, tamper, guard)
    judge = Judge(program, session.facts, references=EmulatorReferences(SMALL, session.facts) if reference else None)
    done = perform_program(program, session, judge)
    assert done.ending is None, done.ending.error.report()
    return judge.verdict(done), judge


def cannot(*ops, **more):
    """No finding, and no verdict: what the tables must hold now."""
    verdict, judge = judged(*ops, **more)
    assert [(each.law, each.message) for each in verdict.findings] == []
    assert verdict.exit_code == 125
    return {number: entry.tce for number, entry in judge.fold.tables[ONE].live.items() if number != 0x10}


def found(*ops, at, tamper, **more):
    verdict, _ = judged(*ops, at=at, tamper=tamper, **more)
    assert verdict.exit_code == 1
    return [(each.law, each.liobn, each.ioba) for each in verdict.findings]


def holds(number, tce, liobn=ONE):
    def tamper(session, _outcome):
        session.put(number, tce, liobn)

    return tamper


SEEN = {0x21: ODD, 0x22: (1 << 45) | 1, 0x23: 7}


def test_what_nobody_knows_is_adopted_and_the_run_does_not_pass():
    assert cannot(stored()) == SEEN
    assert cannot(stuff(ONE, 0x20000, ODD, 5), LOOK, stored(), LOOK) == SEEN
    verdict, _ = judged(stored())
    assert any("took a list that nobody knows" in reason for reason in verdict.could_not)
    assert any("the reference cannot follow from operation" in reason for reason in verdict.could_not)


def test_what_lies_inside_the_window_of_a_list_that_nobody_knows():
    assert cannot(stored(ioba=0xFFE000)) == {0xFFF: ODD}


@pytest.mark.parametrize("args", [[ONE, 0, LIST, 0], [ONE, 0, LIST, 513], [ONE, 0, LIST + 8, 1], [5, 0, LIST, 1]])
def test_a_list_that_is_not_read_is_nothing_to_know(args):
    verdict, _ = judged(Hcall(call=Call("H_PUT_TCE_INDIRECT", args)))
    assert (verdict.exit_code, verdict.findings, verdict.could_not) == (0, [], [])


def test_a_list_of_which_no_entry_is_stored_is_read_and_only_the_reference_does_not_know_it():
    verdict, judge = judged(stored(ioba=0x1000000))
    assert (verdict.exit_code, verdict.findings, judge.fold.unknown) == (125, [], [])


@pytest.mark.parametrize(
    ("number", "tce", "liobn"), [(0x1F, ODD, ONE), (0x25, ODD, ONE), (0x21, ODD, TWO), (0x10, 0, ONE)]
)
def test_what_lies_beside_is_judged_as_ever(number, tce, liobn):
    where = found(stored(), at=0, tamper=holds(number, tce, liobn), reference=False)
    assert where == [("table", liobn, number * PAGE)]


@pytest.mark.parametrize(("number", "tce"), [(0x20, ODD), (0x21, 0), (0x22, 3)])
def test_what_was_adopted_must_stay(number, tce):
    tamper = holds(number, tce)
    assert found(stored(), LOOK, get(0), at=2, tamper=tamper) == [("table", ONE, number * PAGE)]


def test_an_entry_that_was_read_is_known_from_then_on():
    assert cannot(stored(), *[get(0x20000 + PAGE * i) for i in range(5)]) == SEEN
    assert found(stored(), get(0x21000), at=1, tamper=holds(0x21, 3)) == [("table", ONE, 0x21000)]
    assert found(stored(), get(0x20000), at=1, tamper=holds(0x20, 3)) == [("table", ONE, 0x20000)]


def test_what_is_read_of_an_adopted_entry_is_judged():
    def lie(_session, outcome):
        return structs.replace(outcome, fields={**outcome.fields, "registers": [5, *outcome.fields["registers"][1:]]})

    assert found(stored(), LOOK, get(0x21000), at=2, tamper=lie) == [("hypercalls", ONE, 0x21000)]
    assert found(stored(), LOOK, get(0x20000), at=2, tamper=lie) == [("hypercalls", ONE, 0x20000)]


def test_what_is_stored_over_them_is_known():
    assert cannot(stored(), stuff(ONE, 0x20000, 0, 3), put(ONE, 0x24000, ODD)) == {0x23: 7, 0x24: ODD}
    over = [stored(), stuff(ONE, 0x20000, 0, 3)]
    assert found(*over, at=1, tamper=holds(0x21, ODD)) == [("table", ONE, 0x21000)]
    assert found(*over[:1], LOOK, *over[1:], at=2, tamper=holds(0x21, ODD)) == [("table", ONE, 0x21000)]


def test_in_a_batch_and_again():
    calls = [stored().call, Call("H_GET_TCE", [ONE, 0x22000]), Call("H_PUT_TCE", [ONE, 0x23000, 0])]
    assert cannot(HcallBatch(calls=calls, times=3)) == {0x21: ODD, 0x22: (1 << 45) | 1}
    assert cannot(stored(), Read(what="pins")) == SEEN


# -- a device that goes by them

PE = b.pes(SMALL, "h")[0]
OPEN = [*b.bind(PE), *b.open_container(PE), *b.open_device(PE)]


def into_a_buffer(number):
    """Entry 0x21 will lead to a page of the buffer."""

    def tamper(session, _outcome):
        memory, _ = session._state.buffers["m"]
        frame = session.kernel.frames(memory.address + number * PAGE, 1)[0]
        session.machine.ram.write(LIST + 8, (frame | 3).to_bytes(8, "big"))

    return tamper


def through(iova, *, to_memory):
    return [Dma(file=PE.device, iova=iova, size=64, to_memory=to_memory)]


@pytest.mark.parametrize("isolates", ["off", "freeze", "observe"])
@pytest.mark.parametrize("to_memory", [False, True])
@pytest.mark.parametrize("iova", [0x20000, 0x21000, 0x22000, 0x23000])
def test_what_a_device_did_by_an_entry_that_nobody_knew_is_not_judged(iova, to_memory, isolates):
    ops = [*OPEN, stored(), *through(iova, to_memory=to_memory), *through(0x10000, to_memory=False), LOOK]
    cannot(*ops, at=0, tamper=into_a_buffer(5), guard=isolates)
    many = Burst(
        file=PE.device, transfers=[Transfer(iova, 64, to_memory), Transfer(0x10000, 64, to_memory=False, offset=64)]
    )
    cannot(*OPEN, stored(), many, LOOK, at=0, tamper=into_a_buffer(5), guard=isolates)


def test_what_a_device_does_by_an_adopted_entry_is_judged():
    moved = [*OPEN, stored(), LOOK, *through(0x10000, to_memory=False), *through(0x21000, to_memory=True), LOOK]
    refused = [*moved, *through(0x20000, to_memory=True)]
    cannot(*refused, at=0, tamper=into_a_buffer(5), guard="observe")

    def lie(session, outcome):
        session.machine.refusals.clear()
        return structs.replace(outcome, events=[])

    where = found(*refused, at=len(refused) - 1, tamper=lie, guard="observe", reference=False)
    assert ("refusals", ONE, 0x20000) in where


def test_how_many_pins_a_container_gave_back_of_entries_that_nobody_knew_is_not_known():
    start = [*b.bind(PE), *b.open_container(PE), *b.enable(PE), *b.map_dma(PE, Page("m"), 0x30000, 1, 3)]
    clear = [stored(), *b.unmap_dma(PE, 0x20000, 5), Read(what="pins")]
    again = [*b.map_dma(PE, Page("m", 1), 0x31000, 1, 3), Read(what="pins")]

    def no_permissions(session, _outcome):
        session.machine.ram.write(LIST, b"".join(word.to_bytes(8, "big") for word in (ODD, 4, 0, 0, 0)))

    assert cannot(*start, *clear, at=0, tamper=no_permissions).keys() == {0x30}
    cannot(*start, *clear, *again, at=0, tamper=no_permissions)

    def counted_less(session, outcome):
        no_permissions(session, outcome)
        return structs.replace(outcome, value=outcome.value - 1) if session.number > 1 else None

    reads = [*start, *clear]
    cannot(*reads, at={0, len(reads) - 1}, tamper=counted_less)


def test_an_event_may_tell_anything_of_an_entry_that_nobody_knows():
    cannot(*OPEN, stored(), *through(0x1F000, to_memory=False), guard="observe")
