"""The scenario `isolation`: what it tries, that a platform which isolates passes it, and that none other does."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import msgspec
import pytest

from tcelab.emulator import EmulatorSession
from tcelab.job.parallel import ParallelRun
from tcelab.program import (
    Burst,
    Checkpoint,
    Dma,
    Doorbell,
    Ioctl,
    Look,
    Master,
    Program,
    Rtas,
    Together,
    Transfer,
)
from tcelab.program.lengths import LENGTHS, length_of
from tcelab.program.parts import parts
from tcelab.program.topology import TOPOLOGIES, topology
from tcelab.program.validate import validate
from tcelab.report.isolationlog import isolations
from tcelab.run.loop import perform_program
from tcelab.scenarios import SCENARIOS, build, isolation, legal, lengths
from tcelab.scenarios.stories import FURTHER, parse
from tcelab.scenarios.violations import KINDS, LARGEST, class_of

BOTH = {"read", "write"}
DIRECTIONS = {
    "beyond the end": BOTH,
    "straddling the end": BOTH,
    "first page after the end": BOTH,
    "below the window": BOTH,
    "straddling the start": BOTH,
    "hole": BOTH,
    "after unmap": BOTH,
    "read of write-only": {"read"},
    "write of read-only": {"write"},
    "stale entry": BOTH,
    "crossing into a hole": BOTH,
    "crossing out of a hole": BOTH,
    "above 2^32": BOTH,
    "above 2^59": BOTH,
}
PROBES = {"crossing into a hole", "crossing out of a hole", "above 2^32", "above 2^59"}
"""Those that only a probe commits."""
"""Every violation there is, and in which direction it is one."""

STATES = {"normal": 0, "stopped": 2, "MMIO thawed": 4, "reset asserted": 1, "not configured": 0, "unavailable": 5}
"""Of ibm,read-slot-reset-state2, LoPAR 7.3.11."""

SECONDS = 0.1
"""That a transfer of an edu takes."""


@pytest.fixture
def brief(monkeypatch):
    """Fewer legal transfers, so that a test is quick."""
    monkeypatch.setattr(legal, "TRANSFERS", 4000)


@pytest.fixture(scope="module", params=[*isolation.TOPOLOGIES, "probe"])
def program(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(legal, "TRANSFERS", 4000)
        return build("isolation", topology(request.param), 5)


def stories(program):
    labels = (parse(op.label) for op in program.ops if isinstance(op, Checkpoint))
    return [story for story in labels if story is not None]


def emulated(program, guard="freeze"):
    return ParallelRun(
        program,
        lambda _: EmulatorSession(program.topology, isolates=program.isolation, guard=guard),
    ).run()


# -- what is in it


def test_it_knows_every_violation():
    assert {kind.name: set(kind.directions) for kind in KINDS.values()} == DIRECTIONS


def test_each_device_violates_in_every_way_and_direction_that_it_can(program):
    tried = {(story.who, story.kind, story.direction) for story in stories(program) if story.direction}
    high = {device.name for phb in program.topology.phbs if phb.window_start for device in phb.devices}
    low = {"below the window", "straddling the start"}
    assert tried == {
        (device.name, kind, direction)
        for device in program.topology.devices
        for kind, directions in DIRECTIONS.items()
        for direction in directions
        if kind not in low or device.name in high
        if kind not in PROBES or device.model == "probe"
        # Whether a disk that read what it must not could still say so is nobody's to foretell.
        if device.model != "virtio-blk" or direction == "write"
    }


def test_over_all_topologies_every_kind_is_done_in_every_direction_with_every_size_class(brief):
    disks = {device.name for name in isolation.TOPOLOGIES for device in topology(name).devices if device.model != "edu"}
    done = {
        (story.kind, story.direction, class_of(story.kind, story.size))
        for name in isolation.TOPOLOGIES
        for story in stories(build("isolation", topology(name), 1))
        if story.direction and story.who not in disks
    }
    sizes = ("least", "small", "odd", "largest")
    edus = {kind: ways for kind, ways in DIRECTIONS.items() if kind not in PROBES}
    assert done == {(kind, way, size) for kind, ways in edus.items() for way in ways for size in sizes}


def test_sizes_go_from_one_byte_to_the_most_that_every_edu_can_do(program):
    edus = {device.name for device in program.topology.devices if device.model == "edu"}
    sizes = {story.size for story in stories(program) if story.direction and story.who in edus}
    assert min(sizes) == 1
    assert max(sizes) == LARGEST == 4000
    assert len(sizes) > 4


def test_what_a_story_says_is_what_its_device_did(program):
    """Each label is that of a transfer of its device, in its direction and of its size."""
    files = {op.into: str(op.fields["name"]) for op in program.ops if isinstance(op, Ioctl) and op.into}
    since: list[tuple[str, bool, int]] = []
    for op in program.ops:
        each = op.ops if isinstance(op, Together) else [op] if isinstance(op, Dma) else []
        since += [(files[transfer.file], transfer.to_memory, transfer.size) for transfer in each]
        story = parse(op.label) if isinstance(op, Checkpoint) else None
        if story is not None and story.direction:
            assert (story.who, story.direction == "write", story.size) in since
        if story is not None:
            since = []


def test_every_way_back_is_taken(program):
    taken = Counter(op.option for op in program.ops if isinstance(op, Rtas) and op.call == "ibm,set-slot-reset")
    assert {0, 1, 2, 3} <= set(taken)
    thaws = Counter(op.expect for op in program.ops if isinstance(op, Rtas) and op.option == 3 and "option" in op.call)
    assert thaws[-1] > 4
    assert thaws[0] > 4


def test_further_stories_are_there(program):
    told = Counter(story.kind for story in stories(program) if not story.direction)
    several, masked = len(program.topology.phbs) > 1, program.topology.name == "narrow-mask"
    fast = program.topology.name == "fast"
    left_out = [name for name, there in (("two at once", several), ("folded address", masked)) if not there]
    left_out += [] if fast else ["legal transfers"]
    left_out += [] if "probe" in program.topology.models else LENGTHS
    assert set(told) == set(FURTHER) - set(left_out)
    assert told["obstinate driver"] == told["driver that left"] == len(program.topology.phbs)


def test_other_pes_transfer_in_both_directions_while_one_is_being_isolated(program):
    several = [op for op in program.ops if isinstance(op, Together)]
    if len(program.topology.phbs) > 1:
        beside = [{each.to_memory for each in op.ops[1:]} for op in several]
        assert {True} in beside
        assert {False} in beside


def test_no_guest_is_busy_for_longer_than_a_quarter_of_a_minute(program):
    for part in parts(program):
        slow = [op for op in part.ops if isinstance(op, Together) or (isinstance(op, Dma) and op.expect == 0)]
        assert len(slow) * SECONDS < 15


def test_it_is_valid_and_about_isolation(program):
    validate(program)
    assert program.isolation
    assert not build("dma", topology("one-pe"), 1).isolation


# -- who passes it


def test_a_platform_that_isolates_passes(program):
    record, verdict = emulated(program)
    assert [finding.message for finding in verdict.findings] == []
    assert verdict.could_not == []
    assert verdict.result == "pass"
    rows = isolations(record, verdict)
    assert all(row.right and row.tried for row in rows)
    assert {row.kind for row in rows} == {story.kind for story in stories(program)}
    assert verdict.evidence.laws["isolation"].judged > 400


@pytest.mark.parametrize("guard", ["off", "observe"])
def test_a_platform_that_isolates_nothing_fails_and_the_words_say_why(guard):
    program = build("isolation", topology("pair"), 5)
    record, verdict = emulated(program, guard)
    assert (verdict.result, verdict.exit_code) == ("finding", 1)
    told = [finding.message for finding in verdict.findings if finding.law == "isolation"]
    assert any("PE 1 must be isolated by the DMA of operation" in message for message in told)
    rows = isolations(record, verdict)
    assert {row.isolated for row in rows} == {0}
    assert not any(row.right for row in rows)


def test_an_isolation_that_leaves_a_sibling_on_the_bus_is_found():
    program = build("isolation", topology("pair"), 5)

    def opening(_part):
        session = EmulatorSession(program.topology, isolates=True, guard="freeze")
        sibling = next(pe for pe in session.machine.pes.values() if "pe1b" in pe.devices).devices["pe1b"]
        sibling.isolation = type(sibling.isolation)()  # one of its own, which nothing violates
        return session

    _, verdict = ParallelRun(program, opening).run()
    assert verdict.exit_code == 1
    assert any("pe1b" in finding.message for finding in verdict.findings if finding.law == "isolation")
    assert verdict.evidence.laws["memory"].findings + verdict.evidence.laws["tag"].findings > 0


# -- each step of a way back, by the states that firmware tells


@pytest.mark.parametrize(
    ("way", "conditions"),
    [
        ("thaw", ["stopped", "MMIO thawed", "normal"]),
        ("thaw again", ["stopped", "MMIO thawed", "normal"]),
        ("hot reset", ["stopped", "MMIO thawed", "reset asserted", "not configured", "normal", "normal"]),
        ("fundamental reset", ["stopped", "reset asserted", "not configured", "normal", "normal"]),
    ],
)
def test_a_way_back_leads_through_these_states(way, conditions):
    where = topology("pair")
    story = isolation.IsolationStory(where, 1)
    story.set_up()
    begin = len(story.ops)
    story.commit(0, "hole", "write", 64, others_write=True)
    story.isolated(story.pes[0])
    story.recover(story.pes[0], way)
    story.end()
    program = Program(name="way", topology=where, ops=story.ops, isolation=True)
    record = perform_program(program, EmulatorSession(where, isolates=True, guard="freeze"))
    told = [
        step.outcome.fields["state"]
        for step in record.steps[begin:]
        if isinstance(step.op, Rtas) and step.op.call == "ibm,read-slot-reset-state2"
    ]
    assert told == [STATES[condition] for condition in conditions]
    looks = [(step.op.expect, step.outcome.value) for step in record.steps if isinstance(step.op, Look)]
    assert all(expected == seen for expected, seen in looks)


def test_after_a_reset_no_device_masters_the_bus_until_its_driver_says_so():
    story = isolation.IsolationStory(topology("pair"), 1)
    story.set_up()
    story.commit(0, "hole", "write", 64, others_write=True)
    begin = len(story.ops)
    story.recover(story.pes[0], "fundamental reset")
    kinds = [type(op).__name__ for op in story.ops[begin:]]
    commands = [op.expect for op in story.ops[begin:] if isinstance(op, Look) and op.what == "command"]
    assert kinds.count("Master") == 2
    assert commands[-2:] == [6, 6]
    assert set(commands[:-2]) == {2}


# -- legal transfers


def test_a_turn_writes_nothing_twice_and_stays_where_it_may():
    for seed in range(5):
        transfers = legal.turn(random.Random(seed), 0x100000, legal.TURN)
        assert len(transfers) > 0.9 * legal.TURN
        into = {True: [], False: []}
        for each in transfers:
            assert each.size % 512 == 0
            assert 512 <= each.size <= 4096
            assert 0x100000 <= each.iova <= each.iova + each.size <= 0x100000 + legal.PAGES * 4096
            assert each.offset % 512 == 0
            assert 0 <= each.offset <= (1 << 20) - each.size
            start = each.iova if each.to_memory else each.offset
            into[each.to_memory].append((start, start + each.size))
        for written in into.values():
            assert len(written) > 0.4 * legal.TURN
            assert all(one[1] <= other[0] for one, other in itertools.pairwise(sorted(written)))
        assert {each.size for each in transfers} == {512 * i for i in range(1, 9)}


def test_a_hundred_thousand_legal_transfers_are_done_where_there_is_a_fast_engine():
    made = legal.parts(topology("fast"), 1)
    count = sum(len(op.transfers) for part in made for op in part if isinstance(op, Burst))
    assert count == legal.TRANSFERS == 100_000
    assert legal.parts(topology("two-pe"), 1) == []


@pytest.mark.parametrize("seed", range(8))
def test_what_is_mapped_for_legal_transfers_is_mapped_over_nothing_else(seed):
    for part in legal.parts(topology("fast"), seed, 4):
        maps = [op.fields for op in part if isinstance(op, Ioctl) and op.request == "MAP_DMA"]
        places = sorted((fields["iova"], fields["iova"] + fields["size"]) for fields in maps)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(places))


def test_legal_transfers_isolate_nothing_and_one_wrong_byte_of_them_is_found():
    where = topology("fast")
    program = Program(name="legal", topology=where, ops=legal.parts(where, 1, 4000)[0], isolation=True)
    record, verdict = emulated(program)
    assert verdict.result == "pass"
    assert not [event for step in record.steps if step.outcome for event in step.outcome.events]

    ops = list(program.ops)
    at = next(i for i, op in enumerate(ops) if isinstance(op, Burst))
    first = next(each for each in ops[at].transfers if each.to_memory)
    moved = Transfer(first.iova, first.size, first.to_memory, first.offset ^ 512)

    class Wrong(EmulatorSession):
        def perform(self, given):
            return super().perform([changed if op is ops[at] else op for op in given])

    changed = msgspec.structs.replace(
        ops[at], transfers=[moved if each is first else each for each in ops[at].transfers]
    )
    _, verdict = ParallelRun(program, lambda _: Wrong(where, isolates=True, guard="freeze")).run()
    assert verdict.exit_code == 1
    assert {finding.law for finding in verdict.findings} <= {"tag", "memory", "disk"}


def test_it_is_run_on_these_topologies_when_none_is_named():
    assert SCENARIOS["isolation"].topologies == isolation.TOPOLOGIES
    assert {"one-pe", "two-pe", "pair", "four-pe", "high-window", "fast"} <= set(isolation.TOPOLOGIES)


def test_a_driver_that_lets_its_devices_master_the_bus_while_isolated_is_in_it(program):
    masters = [op for op in program.ops if isinstance(op, Master) and not op.on]
    assert len(masters) == len(program.topology.phbs)


def test_a_probe_s_doorbells_do_each_length_at_each_place_in_both_directions():
    made = [op for part in lengths.parts(TOPOLOGIES["probe"], 1) for op in part]
    rung = [op for op in made if isinstance(op, Doorbell)]
    forbidden, legal = ([op for op in rung if (op.expect == 0) == wrong] for wrong in (True, False))
    assert {length_of(op.iova, op.size) for op in forbidden} == set(LENGTHS)
    assert {each.length for each in lengths.forbidden()} == set(LENGTHS)
    assert Counter(each.place for each in lengths.forbidden()) == dict(zip(lengths.PLACES, (10, 10, 5, 5), strict=True))
    assert {op.to_memory for op in forbidden} == {op.to_memory for op in legal} == {True, False}
    for length in LENGTHS:
        count = sum(op.count for op in legal if length in {length_of(each.iova, each.size) for each in op.transfers()})
        assert count >= 2 * 6 * lengths.COUNTS[length]
    assert sum(op.count for op in legal) > 5000
    validate(Program(name="lengths", topology=TOPOLOGIES["probe"], ops=lengths.parts(TOPOLOGIES["probe"], 1)[0]))


@pytest.mark.parametrize("name", ["one-pe", "fast", "high-window"])
def test_without_a_probe_there_are_none_of_them(name):
    assert lengths.parts(TOPOLOGIES[name], 1) == []
