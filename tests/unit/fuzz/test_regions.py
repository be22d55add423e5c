"""Random programs with containers of type v2: what they reach, and what a kernel would not survive."""

import random

import pytest

from tcelab.emulator.effects_v1 import SpaprTce
from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.fuzz import moves, world
from tcelab.fuzz.generate import generate
from tcelab.judge import Judge
from tcelab.program import Ioctl, from_json
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.quirks import CREATE_CHARGES, QUIRKS, UNREGISTERS_IN_USE
from tcelab.run.loop import perform_program
from thorough import often

SMALL = topology("two-small")
ALL = frozenset(QUIRKS)
V2 = 7
SEEDS = (0, 1, 16, 32)


def made(seed, where=SMALL, steps=1500, *, v2=True, hypercalls=False):
    return generate(random.Random(seed), where, steps, every=50, quirks=ALL, hypercalls=hypercalls, v2=v2).program


def judged(program, quirks=ALL):
    session = EmulatorSession(program.topology, quirks=quirks)
    judge = Judge(program, session.facts, references=EmulatorReferences(program.topology, session.facts))
    done = perform_program(program, session, judge)
    return done, judge.verdict(done)


@pytest.fixture(scope="module")
def in_vain():
    """For each window that was made for several groups, and not set: how many CPU pages it cost until then."""
    cost = []
    with pytest.MonkeyPatch.context() as patch:
        original = SpaprTce.not_shared
        patch.setattr(SpaprTce, "not_shared", lambda it, pages: (cost.append(pages), original(it, pages))[1])
        yield cost


@pytest.fixture(scope="module")
def lived(in_vain):
    """A few programs, and what came of them on a kernel with all known defects."""
    programs = [made(seed, hypercalls=seed == 0) for seed in often(SEEDS, (*SEEDS, *range(2, 6)))]
    return [judged(program) for program in programs]


def test_the_same_seed_gives_the_same_program():
    assert [made(seed, steps=300) for seed in range(3)] == [made(seed, steps=300) for seed in range(3)]


def test_a_kernel_without_such_containers_is_asked_for_none():
    for seed in range(5):
        assert [
            op
            for op in made(seed, v2=False).ops
            if isinstance(op, Ioctl) and (op.request, op.value) == ("SET_IOMMU", V2)
        ] == []


@pytest.mark.parametrize("name", ["two-small", "three-pe", "fast", "one-pe", "pair", "narrow-mask"])
def test_every_program_is_whole_and_the_same_once_it_was_a_file(name):
    for seed in range(often(2, 5)):
        program = made(seed, topology(name))
        validate(program)
        assert from_json(program.to_json(), "file") == program


def test_a_window_that_does_not_begin_at_0_is_left_to_type_v1():
    where = topology("high-window")
    for seed in range(often(2, 5)):
        session = EmulatorSession(where, quirks=ALL)
        done = perform_program(made(seed, where), session)
        assert done.ending is None


def test_no_kernel_dies_and_every_law_holds(lived):
    for done, verdict in lived:
        assert done.ending is None
        assert ([finding.message for finding in verdict.findings], verdict.could_not) == ([], [])


@pytest.mark.parametrize("seed", range(100, 103))
def test_every_law_holds_on_a_kernel_without_defects_too(seed):
    _, verdict = judged(made(seed, steps=often(700, 1500)), frozenset())
    assert ([finding.message for finding in verdict.findings], verdict.could_not) == ([], [])


WANTED = {
    "SPAPR_REGISTER_MEMORY": {"ok", "EBUSY", "EFAULT", "EINVAL", "EPERM"},
    "SPAPR_UNREGISTER_MEMORY": {"ok", "ENOENT", "EINVAL", "EPERM"},
    "SPAPR_TCE_CREATE": {"ok", "EINVAL", "ENODEV", "ENOSPC", "EPERM"},
    "SPAPR_TCE_REMOVE": {"ok", "EINVAL", "EPERM"},
}


@pytest.mark.parametrize("request_", WANTED)
def test_every_way_of_a_request_is_gone(lived, request_):
    steps = [step for done, _ in lived for step in done.steps if isinstance(step.op, Ioctl)]
    ended = {step.outcome.errno or "ok" for step in steps if step.op.request == request_}
    assert ended >= WANTED[request_]


def test_entries_are_made_in_windows_of_every_page_size_above_the_low_one(lived):
    tables = [table for done, _ in lived for step in done.steps if step.snapshot for table in step.snapshot.tables]
    assert {table.page_shift for table in tables if table.liobn & 1 and table.index.size} >= {12, 16, 21}


@pytest.mark.usefixtures("lived")
def test_windows_are_asked_for_by_containers_with_several_groups(in_vain):
    assert len(in_vain) > 20


def test_defects_are_met(lived):
    met = {quirk for _, verdict in lived for quirk, times in verdict.evidence.quirks.items() if times}
    assert met >= {UNREGISTERS_IN_USE, CREATE_CHARGES}


def test_every_move_of_the_tables_can_be_made():
    """A move that is never possible would be one that nobody misses."""
    made_by = dict.fromkeys([move for table, _ in moves.TABLES[False, True, False] for move in table], 0)
    for seed in range(12):
        w = world.World(random.Random(seed), SMALL, ALL, v2=True)
        w.allocate(w.agent, 64)
        w.allocate(w.agent, 512)
        for _ in range(400):
            moves.step(w)
            move = w.pick(list(made_by))
            made_by[move] += move.make(w)
        if all(made_by.values()):
            break
    assert [move for move, times in made_by.items() if not times] == []
