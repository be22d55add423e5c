"""Random programs with a driver of the kernel's DMA API: what they reach, and what a driver must not do."""

import random
from collections import Counter

import pytest

from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.fuzz import drivers, moves, simpler, world
from tcelab.fuzz.generate import generate
from tcelab.fuzz.samefailure import signature, survived
from tcelab.fuzz.shrink import shrink
from tcelab.judge import Finding, Judge
from tcelab.program import (
    Bind,
    Buffer,
    Checkpoint,
    DmaAlloc,
    DmaBind,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaMove,
    DmaOp,
    DmaRepeat,
    DmaUnbind,
    DmaUnmap,
    Fill,
    Hcall,
    HcallBatch,
    Ioctl,
    Page,
    Part,
    from_json,
)
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.quirks import QUIRKS
from tcelab.run.loop import perform_program
from thorough import often

WHERE = topology("dma-api")
ALL = frozenset(QUIRKS)


def made(seed, where=WHERE, steps=700, **more):
    more = {"v2": True, "hypercalls": True, "drivers": True} | more
    return generate(random.Random(seed), where, steps, every=50, quirks=ALL, **more).program


def judged(program):
    session = EmulatorSession(program.topology, quirks=ALL)
    judge = Judge(program, session.facts, references=EmulatorReferences(program.topology, session.facts))
    done = perform_program(program, session, judge)
    return done, judge.verdict(done)


@pytest.fixture(scope="module")
def programs():
    return [made(seed) for seed in range(often(8, 30))]


@pytest.fixture(scope="module")
def lived(programs):
    return [judged(program) for program in programs[: often(1, 12)]]


def of(programs, kind):
    return [op for program in programs for op in program.ops if isinstance(op, kind)]


@pytest.mark.parametrize("name", ["dma-api", "dma-api-default", "two-small", "pair", "narrow-mask", "hotplug"])
def test_every_program_is_whole_and_the_same_once_it_was_a_file(name):
    for seed in range(often(2, 8)):
        program = made(seed, topology(name), 400)
        validate(program)
        assert from_json(program.to_json(), "file") == program


def test_no_kernel_dies_and_every_law_holds(lived):
    for done, verdict in lived:
        assert done.ending is None
        assert ([finding.message for finding in verdict.findings], verdict.could_not) == ([], [])


def test_a_kernel_survives_what_is_left_of_a_program(programs):
    for program in programs[1:2]:
        assert survived(program)


def test_there_is_every_kind_of_operation_and_vfio_and_hypercalls_beside_them(programs):
    kinds = Counter(type(op) for program in programs for op in program.ops)
    assert all(kinds[kind] for kind in DmaOp.__args__)
    assert all(kinds[kind] for kind in (Ioctl, Hcall, HcallBatch))


def test_vfio_and_the_driver_have_pes_of_their_own(programs):
    """The validator would refuse anything else: here is who has what."""
    assert {op.device for op in of(programs, DmaBind)} == {"pe1", "test1"}
    assert {op.device for op in of(programs, Bind)} == {"pe2"}


def test_of_two_pes_the_driver_has_the_one_that_hypercalls_would_have():
    program = made(3, topology("two-small"))
    assert {op.device for op in of([program], DmaBind)} == {"pe2"}
    assert of([program], Hcall | HcallBatch) == []
    assert of([made(3, topology("one-pe"))], DmaOp) == []


def test_a_kernel_without_such_a_driver_is_asked_for_none():
    assert of([made(seed, drivers=False) for seed in range(3)], DmaOp) == []


def test_masks_come_in_every_width_and_order(programs):
    bits = [op.bits for op in of(programs, DmaMask)]
    assert {32, 33, 40, 47, 63, 64} <= {*bits}
    assert {op.which for op in of(programs, DmaMask)} == {"streaming", "coherent", "both"}
    assert 64 not in {op.bits for op in of([made(seed, topology("two-small")) for seed in range(6)], DmaMask)}


def test_lists_have_odd_starts_and_lengths(programs):
    parts = [part for op in of(programs, DmaMapSg) for part in op.parts]
    assert {part.page.plus % 2 for part in parts} == {part.size % 2 for part in parts} == {0, 1}
    assert max(len(op.parts) for op in of(programs, DmaMapSg)) > 8
    assert (
        {op.direction for op in of(programs, DmaMapSg)}
        == {op.direction for op in of(programs, DmaMap)}
        == {
            "both",
            "to-device",
            "from-device",
        }
    )


def test_what_is_mapped_is_unmapped_in_another_order_also_late(programs):
    late = 0
    for program in programs:
        bound, owner, order = set(), {}, []
        for op in program.ops:
            match op:
                case DmaBind():
                    bound.add(op.device)
                case DmaUnbind():
                    bound.discard(op.device)
                case DmaMap() | DmaMapSg():
                    owner[op.name] = op.device
                case DmaUnmap():
                    late += owner[op.name] not in bound
                    order.append(int(op.name[1:]))
        assert order != sorted(order)
    assert late


def test_the_device_moves_both_ways_within_and_beside_and_where_nothing_is_any_more(lived):
    went = Counter()
    for done, _ in lived:
        for step in done.steps:
            if isinstance(step.op, DmaMove) and step.outcome is not None:
                went[step.op.to_memory] += 1
                went[step.op.plus < 0] += 1
                went[step.outcome.fields.get("refused")] += 1
    assert {True, False} <= {*went}


def test_a_window_is_filled_until_it_refuses():
    w = world.World(random.Random(1), WHERE, ALL, drivers=True)
    w.allocate(w.agent, 64)
    assert drivers.bind(w)
    while drivers.fill_window(w):
        pass
    session = EmulatorSession(WHERE, quirks=ALL)
    outcomes = session.perform(w.ops)
    refused = [each.errno for op, each in zip(w.ops, outcomes, strict=True) if isinstance(op, DmaAlloc)]
    assert refused.count("ENOMEM") >= drivers.FULL


def test_nothing_is_written_to_memory_that_may_have_been_refused():
    """The agent would have no such buffer."""
    w = world.World(random.Random(1), WHERE, ALL, drivers=True)
    w.allocate(w.agent, 64)
    drivers.bind(w)
    assert drivers.allocate(w)
    assert w.drivers.sure
    drivers.fill_window(w)
    before = {*w.drivers.sure}
    for _ in range(20):
        drivers.allocate(w)
        drivers.rewrite(w)
    assert w.drivers.sure == before
    assert {op.buffer for op in w.ops if isinstance(op, Fill)} <= before


def test_some_programs_end_with_everything_released_and_some_do_not():
    left = set()
    for seed in range(12):
        w = world.World(random.Random(seed), WHERE, ALL, drivers=True)
        w.allocate(w.agent, 64)
        drivers.bind(w)
        drivers.map_one(w)
        drivers.end(w)
        left.add((bool(w.drivers.live()), bool(w.drivers.rules.bound)))
    assert left == {(False, False), (False, True), (True, False), (True, True)}


def test_every_move_of_the_tables_can_be_made():
    """A move that is never possible would be one that nobody misses."""
    made_by = dict.fromkeys([move for table, _ in moves.TABLES[False, False, True] for move in table], 0)
    mine = {each for each in made_by if each.make.__module__ == drivers.__name__}
    assert len(mine) == len(drivers.IN_ORDER) + len(drivers.MOVES)
    w = world.World(random.Random(4), WHERE, ALL, drivers=True)
    w.allocate(w.agent, 64)
    for _ in range(400):
        move = w.pick(sorted(mine, key=lambda each: each.make.__name__))
        made_by[move] += move.make(w)
    assert [move.make.__name__ for move in mine if not made_by[move]] == []


# -- shrinking


def lists(program):
    return [op for op in program.ops if isinstance(op, DmaMapSg)]


@pytest.mark.parametrize(
    ("fails", "left"),
    [
        (
            lambda p: any(part.size % 2 for op in lists(p) for part in op.parts),
            [Buffer(name="b1", pages=1), DmaBind(device="pe1"), DmaMapSg],
        ),
        (
            lambda p: any(isinstance(op, DmaUnbind) and op.late for op in p.ops),
            [DmaBind(device="test1"), DmaUnbind(device="test1", late=True)],
        ),
        (
            lambda p: any(isinstance(op, DmaMove) and op.plus < 0 for op in p.ops),
            [Buffer, DmaBind, DmaMap, DmaMove],
        ),
        (
            lambda p: any(isinstance(op, DmaRepeat) and len(op.lists) > 1 for op in p.ops),
            [Buffer, DmaBind, DmaRepeat],
        ),
    ],
)
def test_a_program_shrinks_to_what_matters_and_stays_valid(fails, left):
    """Without a guest: what fails is asked of the program itself."""
    program = next(each for each in (made(seed, steps=300) for seed in range(40)) if fails(each))
    tried = []

    def asked(candidate):
        validate(candidate)
        tried.append(candidate)
        return fails(candidate)

    small = shrink(program, asked)
    assert tried
    ops = [op for op in small.ops if not isinstance(op, Checkpoint)]
    assert [type(op) for op in ops] == [each if isinstance(each, type) else type(each) for each in left]
    for op, wanted in zip(ops, left, strict=True):
        assert isinstance(wanted, type) or isinstance(op, DmaBind | DmaUnbind) or op == wanted
        if isinstance(op, DmaMapSg | DmaRepeat):
            lists = op.lists if isinstance(op, DmaRepeat) else [op.parts]
            assert {part for parts in lists for part in parts} == {Part(Page("b1"), 1)}


def test_simpler_forms_of_a_list_end_with_one_byte_of_one_page():
    op = DmaMapSg(device="pe1", name="l", parts=[Part(Page("b", 3, 7), 80), Part(Page("b", 5), 9)])
    seen = [op]
    while forms := [form for (form,) in simpler.alone(seen[-1])]:
        seen.append(forms[0])
    assert seen[-1] == DmaMap(device="pe1", name="l", page=Page("b"), size=1)
    assert len(seen) < 40


def test_findings_about_a_handle_are_the_same_failure_if_the_same_is_wrong():
    said = {
        "LIOBN 0x1 IOBA 0x0: b:1 of mapping 'm': no entry at its handle; expected": "no entry at its handle",
        "LIOBN 0x1 IOBA 0x0: an entry survives mapping 'm', which operation 9 ended; expected": "an entry survives",
    }
    for message, wrong in said.items():
        assert signature(Finding(law="handles", step=3, message=message, ioba=0)) == ("handles", "", "", wrong)
    assert signature(Finding(law="table", step=3, message=next(iter(said)), ioba=0)) == ("table", "", "", "")
