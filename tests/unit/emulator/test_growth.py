"""The window of all RAM, on the emulator: by the laws alone, and each lie about it is found."""

import msgspec
import pytest

from tcelab import scenarios
from tcelab.emulator import EmulatorSession
from tcelab.emulator.growth import Growth
from tcelab.emulator.reference import EmulatorReferences
from tcelab.judge import Judge
from tcelab.papr import window
from tcelab.program import Checkpoint, Flip, MemoryAdd, MemoryRemove, Program, Read, Reset
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome

TOPOLOGY = topology("memory")
DIRECT = 0x80000201
GIB = 1 << 30
PLUGGED = window.SECOND_START + GIB
ADD = MemoryAdd(dimm="one", mib=512, expect="ok")
LOOK = Checkpoint(stream=True)


def judged(*ops, session=None):
    session = session or EmulatorSession(TOPOLOGY)
    program = Program(name="growth", topology=TOPOLOGY, ops=[*ops])
    judge = Judge(program, session.facts)
    return judge.verdict(perform_program(program, session, judge))


def found(verdict):
    return [(each.law, each.liobn, each.ioba) for each in verdict.findings]


@pytest.mark.parametrize("page_size", [4096, 1 << 16])
def test_the_scenario_breaks_no_law(page_size):
    program = scenarios.build("memory", TOPOLOGY, 3)
    session = EmulatorSession(TOPOLOGY, page_size=page_size)
    judge = Judge(program, session.facts)
    verdict = judge.verdict(perform_program(program, session, judge))
    assert (found(verdict), verdict.could_not) == ([], [])


@pytest.mark.parametrize(
    ("ops", "ioba", "said"),
    [
        ([Flip(liobn=DIRECT, ioba=window.SECOND_START, bit=1)], window.SECOND_START, "RAM:0"),
        ([ADD, Flip(liobn=DIRECT, ioba=PLUGGED, bit=25)], PLUGGED, "one:0"),
        ([ADD, MemoryRemove(dimm="one"), Flip(liobn=DIRECT, ioba=PLUGGED, bit=0)], PLUGGED, "survived its removal"),
        (
            [Flip(liobn=DIRECT, ioba=window.SECOND_START + (1 << 29), bit=0)],
            window.SECOND_START + (1 << 29),
            "no operation",
        ),
    ],
    ids=["permission", "page", "stale", "beyond"],
)
def test_one_wrong_entry_is_named(ops, ioba, said):
    verdict = judged(*ops, LOOK)
    assert found(verdict) == [("table", DIRECT, ioba)]
    assert said in verdict.findings[0].message


class Keeping(EmulatorSession):
    """A guest that keeps memory; with `maps`, not all of its entries."""

    maps = True

    def intervene(self, op, frames):
        if not isinstance(op, MemoryRemove):
            return super().intervene(op, frames)
        if not self.maps:
            super().intervene(Flip(liobn=DIRECT, ioba=PLUGGED, bit=0), frames)
        return Outcome(errno="EBUSY")


@pytest.mark.parametrize("maps", [True, False])
def test_memory_that_the_guest_keeps_stays_mapped(maps):
    program = Program(name="growth", topology=TOPOLOGY, ops=[ADD, MemoryRemove(dimm="one"), LOOK])
    session = Keeping(TOPOLOGY)
    session.maps = maps
    judge = Judge(program, session.facts, references=EmulatorReferences(TOPOLOGY, session.facts))
    verdict = judge.verdict(perform_program(program, session, judge))
    wrong = [(law, DIRECT, PLUGGED) for law in ("table", "difference")]
    assert found(verdict) == ([] if maps else wrong)
    assert [each for each in verdict.could_not if "memoryremove" in each] == []


def test_memory_takes_the_lowest_place_that_is_free():
    windows = EmulatorSession(TOPOLOGY).machine.windows
    growth = Growth(TOPOLOGY)
    sizes = {"a": 512, "b": 256, "c": 256}
    assert [growth.plug(windows, name, mib << 20) - GIB for name, mib in sizes.items()] == [0, 512 << 20, 768 << 20]
    growth.pull(windows, "a")
    assert growth.plug(windows, "d", 768 << 20) == 2 * GIB
    assert growth.plug(windows, "e", 256 << 20) == GIB
    assert growth.blocks == [0, 1, 4, 6, 7, 8, 9, 10]


def test_a_counter_tells_the_memory_and_how_much_there_may_be():
    ops = [Read(what="memory", expect=512), ADD, Read(what="memory", expect=1024), Read(what="limit", expect=4096)]
    assert found(judged(*ops, LOOK)) == []


def test_all_ram_is_mapped_again_after_a_reset_and_what_was_plugged_in_is_not():
    two = MemoryAdd(dimm="two", mib=256, expect="ok")
    ops = [ADD, Reset(), Read(what="memory", expect=512), LOOK, two, Read(what="memory", expect=768), LOOK]
    verdict = judged(*ops)
    assert (found(verdict), "RAM" in "".join(verdict.could_not)) == ([], False)
    stale = Flip(liobn=DIRECT, ioba=PLUGGED, bit=0)
    assert found(judged(ADD, Reset(), stale, LOOK)) == [("table", DIRECT, PLUGGED)]


def test_a_kernel_that_needs_a_limit_makes_no_window_without_one():
    fixed = msgspec.structs.replace(TOPOLOGY, maxmem=0, slots=0)
    for blind, limit, there in ((True, 0, False), (True, None, True), (False, 0, True)):
        session = EmulatorSession(fixed, memory=Growth(fixed, limit=limit, blind=blind))
        liobns = {each.liobn for each in session.intervene(LOOK, ()).tables}
        assert (DIRECT in liobns) is there
        assert bool(session.take_quirk_hits()) is not there
