"""Kexec and kdump on a real guest: what the second kernel inherits is judged, and each lie about it is found.

The lies are told in QEMU's memory, once the event is over: an entry is put back that the second kernel has cleared, or
one is emptied that the crash kernel has left.
"""

from contextlib import closing

import msgspec
import pytest
from turnedentry import TurnedEntry

from tcelab.emulator.reference import second_opinion
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.papr import isolationrules
from tcelab.program import Checkpoint, Crash, Dma, Kexec, Look, Page, Program, Spawn
from tcelab.program.topology import topology
from tcelab.qemu.fork import Forks
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

pytestmark = pytest.mark.guest

TOPOLOGY = topology("two-small-kdump")
ONE, TWO = b.pes(TOPOLOGY, "second")
PAGES, FIRST = 16, 0x20000
LEFT = FIRST + 5 * b.PAGE
"""The entry that is lied about."""


def owned():
    """A child's container has entries on the first PE."""
    ops = [
        *b.open_container(ONE),
        *b.enable(ONE),
        *b.buffer("theirs", PAGES, 1),
        *b.tag(Page("theirs"), PAGES, ONE.liobn, FIRST, 1),
        *b.map_dma(ONE, Page("theirs"), FIRST, PAGES, 3),
    ]
    theirs = [msgspec.structs.replace(op, by="child") for op in ops]
    return [*b.bind(ONE), Spawn(process="child", expect="ok"), *theirs, *b.checkpoint("before", stream=True)]


@pytest.fixture
def fresh(_tcelab_guests):
    with _tcelab_guests.fresh(TOPOLOGY.name, 0) as session:
        yield session


def judged(session, event):
    ops = [*owned(), event, *b.checkpoint("after it", stream=True), *b.checkpoint("after the lie", stream=True)]
    program = Program(name="second", topology=TOPOLOGY, ops=ops)
    judge = Judge(program, session.facts, references=second_opinion(TOPOLOGY, session.facts))
    return program, judge.verdict(perform_program(program, TurnedEntry(session, ONE.liobn, LEFT), judge))


def only_the_lie(program, verdict):
    """Every finding is about the entry, and was seen where the lie was told."""
    last = len(program.ops) - 1
    assert {(each.liobn, each.ioba, each.step) for each in verdict.findings} == {(ONE.liobn, LEFT, last)}
    return {each.law: each.message for each in verdict.findings}


def test_a_second_kernel_clears_what_it_finds_and_an_entry_that_stays_is_named_with_its_owner(fresh):
    found = only_the_lie(*judged(fresh, Kexec(append="quiet", expect="ok")))
    assert found.keys() == {"outliving", "difference"}
    assert f"container {ONE.container} of process child" in found["outliving"]
    assert fresh.boot == 2
    assert fresh.facts.versions["guest"]["cmdline"].endswith(" quiet")
    assert fresh.alive


def test_a_crash_kernel_leaves_what_it_finds_and_one_entry_that_it_clears_is_named(fresh):
    found = only_the_lie(*judged(fresh, Crash(expect="ok")))
    assert found.keys() == {"table", "difference"}
    assert "an entry that was mapped is missing" in found["table"]
    assert "elfcorehdr=" in fresh.facts.versions["guest"]["cmdline"]
    assert "panic" not in "".join(each for each in found.values()), "the crash was asked for"


class Thawing:
    """A session whose guard thaws the first PE before the checkpoint `after the lie`, though nobody asked for it."""

    def __init__(self, session):
        self._session = session

    def __getattr__(self, name):
        return getattr(self._session, name)

    def intervene(self, op, frames):
        if isinstance(op, Checkpoint) and op.label == "after the lie":
            guard = self._session._guard
            guard.thaw(guard.pes[ONE.phb.index], isolationrules.Isolation())
        return self._session.intervene(op, frames)


def test_an_isolated_pe_stays_isolated_over_kexec_and_one_that_thaws_is_found(tmp_path):
    """The second kernel's driver sees it too: its device is out of reach."""
    look = Look(file=ONE.device, what="identity")
    state = b.rtas(ONE.name, isolationrules.READ_STATE, 0, isolationrules.SUCCESS)
    mapped = [
        *b.bind(ONE),
        *b.open_container(ONE),
        *b.enable(ONE),
        *b.buffer("b", PAGES, 1),
        *b.map_dma(ONE, Page("b"), FIRST, 1, 3),
        *b.open_device(ONE),
    ]
    violation = Dma(file=ONE.device, iova=ONE.end, size=64, to_memory=True, expect="refused")
    ops = [*mapped, violation, Kexec(expect="ok"), *state, *mapped, look, *b.checkpoint("after it")]
    ops += [*b.checkpoint("after the lie"), look, *state]
    program = Program(name="second", topology=TOPOLOGY, ops=ops, isolation=True)
    ready = setup.prepare(setup.MachineChoice(topology=TOPOLOGY, isolates=True, guard="freeze"))
    forks = Forks(ready.qemu, ready.options, digest=ready.digest)
    with closing(forks), forks.open(tmp_path) as session:
        judge = Judge(program, session.facts)
        verdict = judge.verdict(perform_program(program, Thawing(session), judge))
    lie = next(number for number, op in enumerate(ops) if getattr(op, "label", "") == "after the lie")
    assert {(each.law, each.step > lie) for each in verdict.findings} == {("isolation", True)}
    assert session.boot == 2
