"""A guest that is saved and loaded into a fresh QEMU goes on as it was, and whatever does not arrive is found.

What is broken here is broken in what QEMU saved, in the fresh QEMU's memory before it goes on, or on its command line.
"""

import mmap
import struct

import pytest

from tcelab import scenarios
from tcelab.emulator.reference import second_opinion
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.papr import tce, window
from tcelab.papr.isolationrules import Isolation
from tcelab.program import Load, Look, Op, Page, Program, Save
from tcelab.program.topology import topology
from tcelab.qemu import machine
from tcelab.qemu.fork import Forks
from tcelab.qemu.guard import Guard
from tcelab.qemu.movable import MovableSession
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

pytestmark = pytest.mark.guest

TOPOLOGY = topology("two-small")
(ONE, _) = b.pes(TOPOLOGY, "moved")
HIGH = ONE.liobn | 1
PAGES = 16
LOW_AT, HIGH_AT = ONE.iova(0x30), window.SECOND_START
PAGE = Page("moved")


def story(*after: Op) -> Program:
    """A container with entries in both windows of its PE is moved."""
    ops = [
        *b.buffer("moved", PAGES, 1),
        *b.bind(ONE),
        *b.open_container(ONE, b.SPAPR_TCE_V2),
        *b.ask(ONE, "SPAPR_REGISTER_MEMORY", vaddr=PAGE, size=PAGES * b.PAGE),
        *b.ask(ONE, "SPAPR_TCE_CREATE", page_shift=12, window_size=1 << 24, levels=1),
        *b.tag(PAGE, PAGES, ONE.liobn, LOW_AT, 1),
        *b.map_dma(ONE, PAGE, LOW_AT, PAGES, tce.PERMISSIONS),
        *b.map_dma(ONE, PAGE, HIGH_AT, PAGES, tce.PERMISSIONS),
        *b.checkpoint("before", stream=True),
        Save(expect="ok"),
        Load(expect="ok"),
        *after,
        *b.checkpoint("after", stream=True),
    ]
    return Program(name="moved", topology=TOPOLOGY, ops=ops)


def judged(session, program, references=None):
    """By the laws alone, if nothing else is said: they have to find it without the emulator."""
    judge = Judge(program, session.facts, references=references)
    return judge.verdict(perform_program(program, session, judge))


@pytest.fixture
def fresh(_tcelab_guests):
    with _tcelab_guests.fresh(TOPOLOGY.name, 0) as session:
        yield session


@pytest.fixture
def before_it_goes_on(monkeypatch):
    """Does something to the fresh QEMU, which has the guest and stands still."""

    def doing(what):
        real = MovableSession.go_on_moved

        def then(session):
            what(session)
            real(session)

        monkeypatch.setattr(MovableSession, "go_on_moved", then)

    return doing


def test_containers_entries_and_processes_go_on_in_a_fresh_qemu(fresh):
    program = scenarios.build("migration", TOPOLOGY, 7)
    verdict = judged(fresh, program, second_opinion(TOPOLOGY, fresh.facts))
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    assert verdict.evidence.dma.refused > 0
    assert fresh.guest.folder.name == "loaded-2"


def number(finding):
    """Of the operation that is blamed."""
    return int(finding.operation.partition(" ")[0].removeprefix("#"))


def _first(program, kind):
    """Number of the first operation of a kind."""
    return next(place for place, op in enumerate(program.ops) if isinstance(op, kind))


def _entry(stream, liobn, number):
    """Where an entry of a table is in what QEMU saved."""
    name = b"\x0bspapr_iommu" + struct.pack(">II", liobn, 3)
    found = stream.rfind(name)
    assert found >= 0
    return found + len(name) + 9 + 8 * number


def test_one_byte_of_an_entry_in_what_qemu_saved_is_found_by_its_entry(fresh, monkeypatch):
    real = MovableSession.succeed

    def changed(session, other):
        with mmap.mmap(session.saved.stream, 0) as stream:
            at = _entry(stream, HIGH, 3)
            stream[at + 5] ^= 0x10
        real(session, other)

    monkeypatch.setattr(MovableSession, "succeed", changed)
    program = story()
    verdict = judged(fresh, program)
    (found,) = [each for each in verdict.findings if each.law == "table"]
    assert (found.liobn, found.ioba, number(found)) == (HIGH, HIGH_AT + 3 * b.PAGE, _first(program, Load))
    assert "an entry leads to the wrong page" in found.message
    assert set(found.view.split(", ")) == {"live", "stream"}


def test_an_entry_that_a_load_loses_is_found_by_its_entry(fresh, before_it_goes_on):
    def lose(session):
        at = session.guest.log.tables.at[ONE.liobn]
        session.views.live._memory.write(at + 8 * 0x31, bytes(8))

    before_it_goes_on(lose)
    program = story()
    verdict = judged(fresh, program)
    (found,) = [each for each in verdict.findings if each.law == "table"]
    assert (found.liobn, found.ioba, number(found)) == (ONE.liobn, LOW_AT + b.PAGE, _first(program, Load))
    assert "an entry that was mapped is missing" in found.message


def _elsewhere(monkeypatch, was, instead):
    """The fresh QEMU is given another property of its PHB."""
    real = machine.arguments

    def arguments(options, abilities, fds):
        words = real(options, abilities, fds)
        if fds.stream is None:
            return words
        (at,) = [number for number, word in enumerate(words) if "id=phb1," in word]
        assert was in words[at]
        words[at] = words[at].replace(was, instead)
        return words

    monkeypatch.setattr(machine, "arguments", arguments)


def test_a_default_window_that_arrives_elsewhere_is_found_by_its_load(fresh, monkeypatch):
    """QEMU says nothing: a place of 0 is not in what it saves, and so the window is where the fresh one has it."""
    _elsewhere(monkeypatch, "ddw=on", "ddw=on,dma_win_addr=0x1000000")
    program = story()
    verdict = judged(fresh, program)
    found = [each for each in verdict.findings if each.law == "inventory"]
    assert {(each.liobn, number(each)) for each in found} == {(ONE.liobn, _first(program, Load))}
    assert "does not arrive as it was: expected 4096 entries, page shift 12, bus offset 0x0" in found[0].message
    assert "seen 4096 entries, page shift 12, bus offset 0x1000000" in found[0].message


@pytest.fixture(scope="module")
def _guarded():
    choice = setup.MachineChoice(topology=TOPOLOGY, isolates=True, guard="freeze")
    ready = setup.prepare(choice)
    forks = Forks(ready.qemu, ready.options, digest=ready.digest)
    yield forks
    forks.close()


@pytest.fixture
def guarded(_guarded, tmp_path):
    """A guest whose PEs are guarded."""
    tmp_path.chmod(0o700)
    with _guarded.open(tmp_path) as session:
        yield session


def test_a_pe_that_is_isolated_stays_so_in_a_fresh_qemu_and_no_other_is(guarded):
    program = scenarios.build("migration-isolation", TOPOLOGY, 7)
    verdict = judged(guarded, program, second_opinion(TOPOLOGY, guarded.facts))
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")


def test_a_pe_that_a_load_thaws_is_found(guarded, monkeypatch):
    def thawed(guard, before):
        for each in before.pes.values():
            each.isolation = Isolation()
        real(guard, before)

    real = Guard.resume
    monkeypatch.setattr(Guard, "resume", thawed)
    program = scenarios.build("migration-isolation", TOPOLOGY, 7)
    verdict = judged(guarded, program)
    assert ("isolation", _first(program, Look)) in {(each.law, number(each)) for each in verdict.findings}
