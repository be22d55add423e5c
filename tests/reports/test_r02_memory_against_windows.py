"""R02: what becomes of windows when memory comes or goes."""

import msgspec
import pytest
from publicreports import Report

from tcelab import scenarios
from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.papr import window
from tcelab.program import Checkpoint, Flip, MemoryAdd, MemoryRemove
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program

REPORT = Report(
    id="R02",
    title="memory that comes or goes against windows",
    reported="When memory was plugged in or pulled, the kernel took every window of 64 bits for one in which it"
    " maps all RAM: it stored entries beyond the end of a window, or emptied entries of live DMA.",
    where=("Linux d61cd13e732c (2023-06)", "Linux 6aa989ab2bd0 (2025-01)", "QEMU d0e5a8f2937d"),
    versions="Right on 6.12.95 with QEMU 7.2, 10.0 and 11.1.",
    right="In the window in which all RAM is mapped, exactly the entries of that memory come or go; in no other window"
    " does anything change.",
    shown="It runs the scenario `memory`, in which a container has pages mapped in two windows of its own meanwhile."
    " Broken on purpose, in QEMU's memory: the last page of the memory that came is not mapped; a page of memory that"
    " went stays mapped; a page of the container is not mapped any more.",
)

pytestmark = pytest.mark.guest

TOPOLOGY = topology("memory")
DIRECT, OWN = 0x80000201, 0x80000101
UNIT = 1 << window.DIRECT_SHIFT
ONE = window.SECOND_START + (1 << 30)
"""Bus address of the first page of memory that is plugged in: above RAM, from the next GiB on."""
LAST = ONE + (512 << 20) - UNIT


def scenario(until):
    """The scenario until the look that has this label."""
    program = scenarios.build("memory", TOPOLOGY, 5)
    labels = [op.label if isinstance(op, Checkpoint) else "" for op in program.ops]
    return msgspec.structs.replace(program, ops=program.ops[: labels.index(f"memory: {until}") + 1])


class Meddling:
    """A session in which an entry becomes another word, behind everybody's back, once something was done.

    :ivar after: the operation's class; `ioba`: of the entry, None: of one that is live.
    """

    def __init__(self, session, after, liobn, ioba, word):
        self._session, self._after, self._place, self._word = session, after, (liobn, ioba), word
        self.broken = None

    def __getattr__(self, name):
        return getattr(self._session, name)

    def intervene(self, op, frames):
        result = self._session.intervene(op, frames)
        if isinstance(op, self._after):
            liobn, ioba = self._place
            (table,) = [each for each in self._session.intervene(Checkpoint(), ()).tables if each.liobn == liobn]
            shown = {
                table.ioba(number): word for number, word in zip(table.index.tolist(), table.tce.tolist(), strict=True)
            }
            ioba = next(iter(shown)) if ioba is None else ioba
            bits = [bit for bit in range(64) if (shown.get(ioba, 0) ^ self._word) >> bit & 1]
            assert bits
            for bit in bits:
                self._session.intervene(Flip(liobn=liobn, ioba=ioba, bit=bit), ())
            self.broken = ioba
        return result


def judged(program, session):
    judge = Judge(program, session.facts, references=second_opinion(TOPOLOGY, session.facts))
    return judge.verdict(perform_program(program, session, judge))


@pytest.fixture
def fresh(_tcelab_guests):
    with _tcelab_guests.fresh("memory", 0) as session:
        yield session


def test_exactly_the_entries_of_the_memory_come_and_go(fresh):
    verdict = judged(scenarios.build("memory", TOPOLOGY, 5), fresh)
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")


LIES = {
    "a page short": (MemoryAdd, DIRECT, LAST, 0, "512 MiB more", "an entry that was mapped is missing", "one:31"),
    "a page stays": (MemoryRemove, DIRECT, LAST, 0x5F000003, "the lower of them gone", "survived its removal", "empty"),
    "live DMA's is wiped": (
        MemoryAdd,
        OWN,
        None,
        0,
        "512 MiB more",
        "an entry that was mapped is missing",
        "memory-pe1:2",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_entry_that_is_wrong_after_the_event_is_named(fresh, lie):
    after, liobn, ioba, word, until, said, expected = LIES[lie]
    meddling = Meddling(fresh, after, liobn, ioba, word)
    verdict = judged(scenario(until), meddling)
    broken = meddling.broken
    assert verdict.could_not == []
    assert [(each.law, each.liobn, each.ioba) for each in verdict.findings] == [
        ("table", liobn, broken),
        ("difference", liobn, broken),
    ]
    assert said in verdict.findings[0].message
    assert expected in verdict.findings[0].expected
    assert after.__name__.lower() in verdict.findings[0].operation.lower()
