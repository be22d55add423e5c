"""What the programs that tcelab knows by name are made of."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from msgspec.structs import replace

from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.errors import UsageError
from tcelab.judge import Judge
from tcelab.papr.window import Shape
from tcelab.program import ENDS_KERNEL, Burst, Checkpoint, Close, Dma, Ioctl, Open, Page, Program, Together, from_json
from tcelab.program.parts import parts
from tcelab.program.topology import Device, Phb, Topology, topology
from tcelab.qemu.guardeddevice import Flight
from tcelab.run.loop import perform_program
from tcelab.run.record import Guarding
from tcelab.scenarios import SCENARIOS, build, dma, sweep
from tcelab.scenarios.places import codes, everywhere

TWO = topology("two-pe")


def batches(seed=1, where=TWO) -> Program:
    return build("batches", where, seed)


def where(name):
    """A topology that a scenario can do."""
    return topology(name) if name in {"memory", "races"} else TWO


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_seed_gives_the_same_program_and_another_seed_another(name):
    assert build(name, where(name), 3).to_json() == build(name, where(name), 3).to_json()
    assert build(name, where(name), 3).ops != build(name, where(name), 4).ops


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_survives_json(name):
    program = build(name, where(name), 3)
    assert from_json(program.to_json(), name) == program


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_file_that_is_opened_is_closed_and_the_stream_has_the_last_word(name):
    """By the last kernel: one that ends takes all files along."""
    for part in parts(build(name, where(name), 3)):
        ends = max((number for number, op in enumerate(part.ops) if isinstance(op, ENDS_KERNEL)), default=-1)
        ops = part.ops[ends + 1 :]
        opened = [op.file for op in ops if isinstance(op, Open)]
        opened += [op.into for op in ops if isinstance(op, Ioctl) and op.into]
        assert sorted(opened) == sorted(op.file for op in ops if isinstance(op, Close))
        assert len(set(opened)) == len(opened)
        assert isinstance(part.ops[-1], Checkpoint)
        assert part.ops[-1].stream


def test_an_unknown_scenario_names_those_that_exist():
    with pytest.raises(UsageError, match="no scenario 'x'; there are: main, behaviour, flow, batches, dma, rules, "):
        build("x", TWO, 0)


@pytest.mark.parametrize("name", ["batches", "dma", "rules", "isolation"])
def test_a_window_that_is_too_small_is_wrong_usage(name):
    small = Topology("small", (Phb(1, (Device("pe1", 1),), 4096),))
    with pytest.raises(UsageError, match="pe1 has 1"):
        build(name, small, 0)


def test_a_topology_without_devices_is_wrong_usage():
    with pytest.raises(UsageError, match="no device"):
        build("main", Topology("bare", (Phb(1),)), 0)


def maps(program, size):
    """(first entry, permissions) of the maps of one batch size, on the first PE."""
    wanted = {"request": "MAP_DMA", "file": "batches-pe1-container"}
    found = [op for op in program.ops if all(getattr(op, name, None) == value for name, value in wanted.items())]
    return [(op.fields["iova"] >> 12, op.fields["flags"]) for op in found if op.fields["size"] == size << 12]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", range(2, 33))
def test_each_batch_size_crosses_from_one_cpu_page_to_the_next_whatever_their_size(size, seed):
    """Within a page of 64 KiB, sixteen IOMMU pages are neighbours in memory too."""
    found = [
        (op.fields["flags"], op.fields["vaddr"].index)
        for op in batches(seed).ops
        if getattr(op, "request", "") == "MAP_DMA" and op.fields["size"] == size << 12
    ]
    for per_page in (1, 16):
        crossing = {flags for flags, first in found if first // per_page < (first + size - 1) // per_page}
        assert crossing == {1, 2, 3}


@pytest.mark.parametrize("size", range(1, 33))
def test_each_batch_size_is_mapped_at_the_start_at_random_and_up_to_the_last_page(size):
    found = maps(batches(), size)
    assert len(found) == 12
    for permissions in (1, 2, 3):
        mine = [entry for entry, flags in found if flags == permissions]
        assert 0 in mine
        assert 262144 - size in mine
        assert any(size <= entry <= 262144 - 2 * size for entry in mine)


def test_the_remap_has_other_permissions_and_another_buffer():
    remaps = [op for op in batches().ops if getattr(op, "request", "") == "MAP_DMA"][1:]
    for start, remap in zip(remaps[0::4], remaps[3::4], strict=True):
        assert start.fields["iova"] == remap.fields["iova"] == 0
        assert start.fields["flags"] != remap.fields["flags"]
        assert start.fields["vaddr"].buffer != remap.fields["vaddr"].buffer


def test_every_batch_size_ends_with_the_stream():
    marks = [op for op in batches().ops if isinstance(op, Checkpoint) and op.batch]
    assert Counter(op.batch for op in marks if op.stream) == dict.fromkeys(range(1, 33), 1)
    assert len(marks) == 21 + 31 * 24


def test_a_partial_unmap_is_smaller_than_its_batch():
    sizes = [
        (op.label, int(op.label.split()[3]), op.batch)
        for op in batches().ops
        if isinstance(op, Checkpoint) and " of " in op.label
    ]
    assert len(sizes) == 31 * 3
    assert all(0 < part < whole for _, part, whole in sizes)


def transfers(ops):
    """Of edus, one by one."""
    return [each for op in ops for each in (op.ops if isinstance(op, Together) else [op]) if isinstance(each, Dma)]


@pytest.mark.parametrize("where", ["one-pe", "two-pe", "high-window", "four-pe"])
def test_transfers_are_few_and_small_enough_for_any_edu(where):
    """Each takes a tenth of a second, those of several PEs together no more than one."""
    ops = build("dma", topology(where), 1).ops
    assert sum(isinstance(op, Dma | Together) for op in ops) <= 53
    assert all(each.size <= 2048 and each.offset + each.size <= 4000 for each in transfers(ops))


def test_whatever_reaches_the_sink_replaces_fresh_data():
    ops = build("dma", topology("one-pe"), 1).ops
    (sink,) = [
        op.fields["iova"]
        for op in ops
        if getattr(op, "request", "") == "MAP_DMA" and op.fields["vaddr"] == Page("dma-pe1", dma.SINK)
    ][:1]
    sent = [i for i, op in enumerate(ops) if isinstance(op, Dma) and op.to_memory and op.iova == sink]
    assert len(sent) >= 10
    unlike = [
        i for i in sent if (type(ops[i - 1]).__name__, getattr(ops[i - 1], "offset", 0)) != ("Fill", dma.SINK * 4096)
    ]
    # Without bus master, before firmware's reset, and after it, when other data lie there as well.
    assert [type(ops[i - 1]).__name__ for i in unlike] == ["Master", "Read", "Ddw"]


def test_what_takes_an_entry_away_stands_between_two_equal_transfers():
    """Nothing in between is translated: what is left of the first one's translation is what the second one meets."""
    ops = build("dma", topology("one-pe"), 1).ops
    quiet = {"Ioctl", "Fill", "Ddw"}
    taken = []
    at = [i for i, op in enumerate(ops) if isinstance(op, Dma)]
    for one, other in itertools.pairwise(at):
        between = [*ops[one + 1 : other]]
        if ops[one].iova == ops[other].iova and between and {type(op).__name__ for op in between} <= quiet:
            changes = [getattr(op, "request", None) or getattr(op, "call", None) for op in between]
            taken.append((ops[one].to_memory, ops[other].to_memory, *filter(None, changes)))
    assert set(taken) >= {
        (True, True, "UNMAP_DMA"),
        (False, False, "UNMAP_DMA"),
        (False, False, "MAP_DMA"),
        (True, True, "MAP_DMA"),
        (True, True, "reset"),
    }


def test_the_pe_whose_transfer_was_the_last_one_has_the_first_one_next():
    orders = [[each.file for each in op.ops] for op in build("dma", TWO, 1).ops if isinstance(op, Together)]
    assert all(one[-1] == other[0] and one != other for one, other in itertools.pairwise(orders))


def test_all_pes_use_the_same_pages_of_their_windows():
    """All at the same time, where they are allowed to."""
    ops = [op for op in build("dma", TWO, 1).ops if isinstance(op, Together)]
    one, other = (
        {(each.to_memory, each.iova >> 12) for op in ops for each in op.ops if each.file == f"dma-{name}-device"}
        for name in ("pe1", "pe2")
    )
    assert len(one - other) == len(other - one) == 2, "where the other PE has an entry, in each direction"
    together = {each.iova for op in ops for each in op.ops if len({each.iova for each in op.ops}) == 1}
    assert together >= {iova << 12 for pair in codes(TWO.phbs[0].entries) for iova in pair}
    assert len(together) == 2 * len(codes(TWO.phbs[0].entries)) + 2, "and the source and the sink"


class Refusing(EmulatorSession):
    """It knows of each operation the transfers of its devices, and what was refused of them.

    :ivar confused: of operations, refused accesses that may be another device's, by where they are told to have been.
    """

    def __init__(self, where: Topology, guard: Guarding) -> None:
        super().__init__(where, isolates=guard == "freeze", guard=guard)
        self.seen, self.refused, self.confused = [], 0, []
        transferred, take = self.machine.guard.transferred, self.machine.guard.take

        def on_bus(index, device, windows, pieces, direction):
            flight = Flight(direction, pieces[0].iova, sum(piece.size for piece in pieces))
            shapes = [Shape(each.entries, each.page_shift, each.bus_offset) for each in windows.active]
            self.seen.append((device.name, flight, pieces, shapes))
            return transferred(index, device, windows, pieces, direction)

        def taken():
            self.compare()
            return take()

        self.machine.guard.transferred, self.machine.guard.take = on_bus, taken

    def compare(self) -> None:
        seen, self.seen = self.seen, []
        for name, flight, pieces, _ in seen:
            for piece in (piece for piece in pieces if piece.refused):
                self.refused += 1
                self.confused += [
                    (name, other, hex(piece.told), piece.refused)
                    for other, its, _, shapes in seen
                    if other != name and its.located(flight.direction, piece.told, piece.size, shapes) is not None
                ]


@pytest.mark.parametrize(
    ("name", "where", "guard"),
    [
        *[("dma", where, "observe") for where in ("two-pe", "three-pe", "four-pe", "two-pe-disk")],
        *[("dma", where, "observe") for where in ("fast", "high-window", "narrow-mask")],
        ("isolation", "high-window", "freeze"),
    ],
)
def test_a_guard_knows_whose_access_was_refused(name, where, guard):
    """Transfers at the same time never overlap where one of them is refused."""
    refused = 0
    program = build(name, topology(where), 3)
    for part in parts(program):
        one = replace(program, ops=[*part.ops])
        session = Refusing(program.topology, guard)
        judge = Judge(one, session.facts)
        verdict = judge.verdict(perform_program(one, session, judge))
        assert session.confused == []
        assert (verdict.findings, verdict.could_not) == ([], [])
        refused += session.refused
    assert refused > 0


def test_a_fast_device_goes_all_over_its_window():
    program = build("dma", topology("two-pe-disk"), 1)
    allowed, refused = [op for op in program.ops if isinstance(op, Burst)]
    reached = {each.iova >> 12 for each in allowed.transfers}
    assert len(set(everywhere(1 << 18)) - reached) <= 12, "but for those that the edus use"
    assert len(refused.transfers) == sweep.REFUSED
    assert {each.to_memory for each in refused.transfers} == {True, False}
    places = [each.offset for each in (*allowed.transfers, *refused.transfers)]
    assert len(set(places)) == len(places), "each has a place on the disk of its own"


def test_the_main_job_has_the_fast_device_unless_another_machine_is_asked_for():
    assert SCENARIOS["main"].topologies == SCENARIOS["dma"].topologies == ("two-pe-disk",)
    assert any(isinstance(op, Burst) for op in build("main", topology("two-pe-disk"), 1).ops)
    assert not any(isinstance(op, Burst) for op in build("main", TWO, 1).ops)


def test_flow_is_the_documented_order_of_calls():
    calls = [op.request for op in build("flow", topology("one-pe"), 1).ops if isinstance(op, Ioctl)]
    assert calls[calls.index("SET_IOMMU") :] == [
        "SET_IOMMU",
        "GROUP_GET_STATUS",
        "SPAPR_TCE_GET_INFO",
        "ENABLE",
        "MAP_DMA",
        "UNMAP_DMA",
        "DISABLE",
    ]


def test_the_first_transfers_are_allowed_ones():
    ops = build("dma", TWO, 1).ops
    first = [op for op in ops if isinstance(op, Together)][:3]
    assert [op.ops[0].to_memory for op in first] == [False, True, True]
