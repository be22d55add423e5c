"""Windows that do not start at bus address 0, and devices that cannot say every address: programs, laws, emulator."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from fake_guest import FakeGuest, FakeMemory
from ideal import Ideal
from msgspec import structs

import folded
from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences, second_opinion
from tcelab.errors import HarnessError, UsageError
from tcelab.fuzz.generate import generate
from tcelab.job.parallel import ParallelRun
from tcelab.judge import Judge, judge
from tcelab.judge.models.tablemodel import LiveEntry, TableModel
from tcelab.papr import tce
from tcelab.program import Checkpoint, Dma, Flip, Ioctl, Page, Program, Together, inject
from tcelab.program.topology import TOPOLOGIES, topology
from tcelab.program.validate import validate
from tcelab.qemu import hostviews
from tcelab.quirks import NOT_AT_ZERO
from tcelab.run.loop import perform_program
from tcelab.scenarios import build
from tcelab.scenarios import vocabulary as b
from tcelab.testing.pseries import Pseries

HIGH = topology("high-window")
PE1 = 0x80000100
START, PAGE = 0x40000000, 4096
NEW = ["pair", "four-pe", "high-window", "narrow-mask"]
DECLARED = frozenset({NOT_AT_ZERO})


def on_emulator(program, quirks=frozenset(), **more):
    session = EmulatorSession(program.topology, quirks=quirks, **more)
    judge_ = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))
    return judge_.verdict(perform_program(program, session, judge_))


def mapped(*more):
    """Two pages of pe1 at the start of its window and one at the end, looked at; then `more`."""
    pe = b.pes(HIGH, "w")[0]
    ops = [*b.pins(), *b.vmlck(), *b.buffer("b", 8, 1), *b.bind(pe), *b.open_container(pe), *b.get_info(pe)]
    ops += [*b.enable(pe), *b.open_device(pe), *b.tag(Page("b"), 2, PE1, START, 1)]
    ops += b.map_dma(pe, Page("b"), START, 2, tce.PERMISSIONS)
    ops += [*b.tag(Page("b", 4), 1, PE1, pe.end - PAGE, 2), *b.map_dma(pe, Page("b", 4), pe.end - PAGE, 1, tce.READ)]
    ops += [*b.checkpoint("mapped", stream=True), *more, *b.pins(), *b.vmlck(), *b.checkpoint("end", stream=True)]
    return Program(name="w", topology=HIGH, ops=ops)


# -- programs


@pytest.mark.parametrize("name", ["main", "flow", "batches", "dma"])
@pytest.mark.parametrize("where", NEW)
def test_an_honest_guest_passes(name, where):
    program = build(name, topology(where), 5)
    _, verdict = ParallelRun(program, lambda _part: Ideal(program)).run()
    assert (verdict.findings, verdict.could_not, verdict.exit_code) == ([], [], 0)


@pytest.mark.parametrize("where", TOPOLOGIES)
@pytest.mark.parametrize("name", ["flow", "batches", "dma"])
def test_a_program_maps_within_its_windows_alone(name, where):
    program = build(name, topology(where), 3)
    windows = [(phb.window_start, phb.window_end) for phb in program.topology.phbs]
    maps = [op.fields for op in program.ops if isinstance(op, Ioctl) and op.request == "MAP_DMA"]
    assert maps
    for each in maps:
        assert any(start <= each["iova"] < each["iova"] + each["size"] <= end for start, end in windows)


def test_the_device_is_refused_below_a_window_that_does_not_start_at_0():
    def transfers(where):
        return [
            (each.iova, each.size)
            for op in build("dma", where, 1).ops
            for each in (op.ops if isinstance(op, Together) else [op])
            if isinstance(each, Dma) and each.file == "dma-pe1-device"
        ]

    below = {(START - 512, 1024), (START - 0x10000, 1024)}
    assert below <= set(transfers(HIGH))
    assert len(transfers(HIGH)) == len(transfers(topology("two-small"))) + 5


@pytest.mark.parametrize("seed", range(20))
def test_an_injected_flip_is_in_the_window(seed):
    program = inject.flip(build("flow", HIGH, seed))
    validate(program)
    (flip, _) = [op for op in program.ops if isinstance(op, Flip)]
    phb = next(phb for phb in HIGH.phbs if phb.liobn == flip.liobn)
    assert phb.window_start <= flip.ioba < phb.window_end


@pytest.mark.parametrize("ioba", [0, START - PAGE, START + 0x1000000])
def test_a_flip_outside_the_window_is_refused(ioba):
    with pytest.raises(UsageError, match=f"no bit 12 of an entry for IOBA {ioba:#x}"):
        validate(Program(name="f", topology=HIGH, ops=[Flip(liobn=PE1, ioba=ioba)]))


@pytest.mark.parametrize("seed", range(6))
def test_the_fuzzer_works_in_the_window(seed):
    program = generate(random.Random(seed), HIGH, 300).program
    inside = [
        op
        for op in program.ops
        if isinstance(op, Ioctl) and op.request == "MAP_DMA" and isinstance(op.fields.get("iova"), int)
        if START <= op.fields["iova"] < START + 0x1000000
    ]
    assert inside
    verdict = on_emulator(program, DECLARED)
    assert [each.message for each in verdict.findings] == []


# -- laws


def table(session):
    return session.pes["pe1"].table


def test_a_program_on_a_window_that_does_not_start_at_0_is_judged():
    program = mapped()
    verdict = judge(perform_program(program, Ideal(program)))
    assert (verdict.findings, verdict.could_not) == ([], [])
    assert verdict.evidence.tags == 6


LAST = 0xFFF


@pytest.mark.parametrize(
    ("number", "change", "ioba", "words"),
    [
        (1, lambda word: word ^ 1, START + PAGE, "an entry has the wrong permissions"),
        (LAST, lambda _: 0, START + LAST * PAGE, "an entry that was mapped is missing"),
        (7, lambda _: 0x3003, START + 7 * PAGE, "there is an entry that no operation made"),
    ],
)
def test_a_wrong_entry_is_told_by_its_bus_address(number, change, ioba, words):
    program = mapped()

    def tamper(session, step, _op, outcome):
        if step == len(program.ops) - 3:
            table(session)[number] = change(table(session).get(number, 0))
            if not table(session)[number]:
                del table(session)[number]
        return outcome

    verdict = judge(perform_program(program, Ideal(program, tamper=tamper)))
    found = [each for each in verdict.findings if each.law == "table"]
    assert {each.ioba for each in found} == {ioba}
    assert words in found[0].message
    assert f"IOBA {ioba:#x}" in found[0].message
    assert {each.law for each in verdict.findings} <= {"table", "tag"}


@pytest.mark.parametrize("field", ["window_start", "dma32_window_start"])
def test_a_start_that_is_told_wrong_is_found(field):
    def tamper(_session, _step, _op, outcome):
        told = {**outcome.fields, field: 0}
        return structs.replace(outcome, fields=told) if field in outcome.fields else outcome

    program = mapped()
    (found,) = judge(perform_program(program, Ideal(program, tamper=tamper))).findings
    assert found.law == "inventory"
    assert f"reports {field} 0x0, expected {START:#x}" in found.message


@pytest.mark.parametrize("offset", [0, START + PAGE])
def test_a_table_at_another_place_is_found(offset):
    def warp(_session, _step, _op, snapshot):
        moved = [replace(each, bus_offset=offset) if each.liobn == PE1 else each for each in snapshot.tables]
        return replace(snapshot, tables=tuple(moved))

    program = mapped()
    found = judge(perform_program(program, Ideal(program, warp=warp))).findings
    assert {each.law for each in found} == {"inventory"}
    assert f"has the wrong shape: expected page shift 12, bus offset {START:#x}" in found[0].message


def test_an_unmap_that_begins_below_the_window_takes_what_it_reaches_in_it():
    """If a kernel says that it did so."""
    pe = b.pes(HIGH, "w")[0]
    below = [structs.replace(op, expect=None) for op in b.unmap_dma(pe, START - 2 * PAGE, 3)]
    program = mapped(*below)
    verdict = judge(perform_program(program, Ideal(program)))
    assert verdict.findings == []


def test_a_map_below_the_window_that_is_said_to_be_made_is_looked_for_there():
    pe = b.pes(HIGH, "w")[0]
    program = mapped(*b.map_dma(pe, Page("b", 6), START - PAGE, 1, tce.PERMISSIONS))
    outcomes = {}

    def tamper(session, step, _op, outcome):
        outcomes[step] = outcome
        session.pes["pe1"].table.pop(-1, None)
        return outcome

    found = judge(perform_program(program, Ideal(program, tamper=tamper))).findings
    told = [each for each in found if each.law == "table"]
    assert {each.ioba for each in told} == {START - PAGE}
    assert "there is an entry below the window" in told[0].message


def entry(frame, step=1):
    return LiveEntry(3, "b", 0, None, frame, step)


def test_entries_outside_the_window_keep_their_places_in_order():
    model = TableModel(PE1, 16, START)
    model.put(model.number(START - 2 * PAGE), [entry(i << 12) for i in range(1, 4)], 1)
    model.put(model.number(START + 15 * PAGE), [entry(i << 12) for i in range(8, 10)], 2)
    numbers, tces = model.arrays()
    assert numbers.tolist() == [-2, -1, 0, 15, 16]
    assert tces.tolist() == [0x1003, 0x2003, 0x3003, 0x8003, 0x9003]
    assert [model.ioba(number) for number in (-1, 0, 15)] == [START - PAGE, START, START + 15 * PAGE]
    model.clear(-2, 16, 3)
    assert model.arrays()[0].tolist() == [16]
    model.clear(0, 1 << 52, 4)
    assert model.arrays()[0].tolist() == []
    assert model.arrays()[0].dtype == np.uint32
    assert model.last_operation(model.number(START - PAGE)) == 3


# -- masks


def test_a_transfer_lands_where_its_address_is_folded_to():
    program = folded.program()
    validate(program)
    verdict = judge(perform_program(program, Ideal(program)))
    assert (verdict.findings, verdict.could_not) == ([], [])
    assert (verdict.evidence.dma.allowed, verdict.evidence.dma.refused) == (8, 2)


@pytest.mark.parametrize("mask", [(1 << 64) - 1, (1 << 44) - 1])
def test_a_device_that_does_not_fold_is_found(mask):
    program = folded.program()
    session = Ideal(program)
    session.masks["pe1"] = mask
    laws = {each.law for each in judge(perform_program(program, session)).findings}
    assert {"tag", "refusals"} <= laws


def test_the_emulated_device_folds_as_well():
    assert on_emulator(folded.program()).findings == []
    session = EmulatorSession(topology("narrow-mask"))
    masks = {name: edu.mask for pe in session.machine.pes.values() for name, edu in pe.devices.items()}
    assert masks == {"pe1": 0xFFFFFFF, "pe2": (1 << 64) - 1, "spare": (1 << 64) - 1}


# -- the emulator


@pytest.mark.parametrize("where", NEW)
@pytest.mark.parametrize("name", ["flow", "dma"])
def test_the_emulator_passes(name, where):
    for quirks in (frozenset(), DECLARED):
        verdict = on_emulator(build(name, topology(where), 2), quirks)
        assert (verdict.findings, verdict.could_not) == ([], [])


def test_the_emulated_window_is_where_the_topology_has_it():
    session = EmulatorSession(HIGH)
    pe = session.machine.pes[1]
    assert pe.dma_window().hex() == "80000100" + "0000000040000000" + "0000000001000000"
    assert session.machine.pes[2].dma_window().hex() == "80000200" + 16 * "0" + "0000000001000000"
    assert (pe.kernel_uses, session.machine.pes[2].kernel_uses) == (set(), {0})
    flip = Flip(liobn=PE1, ioba=START + 5 * PAGE)
    assert session.intervene(flip, []).fields == {"before": 0, "after": 0x1000}
    (live,) = [each for each in session.intervene(b.checkpoint("look")[0], []).tables if each.index.size]
    assert (live.liobn, live.bus_offset, live.index.tolist(), live.ioba(5)) == (PE1, START, [5], START + 5 * PAGE)


def warnings(quirks, *ops, where=HIGH):
    session = EmulatorSession(where, quirks=quirks)
    session.perform(ops)
    return session.trouble(), session.machine.met[NOT_AT_ZERO]


def used(pe, iova):
    """A container of a PE from its beginning to its end, with one MAP that anything may come of."""
    ops = [*b.bind(pe), *b.open_container(pe), *b.enable(pe), *b.map_dma(pe, Page("b"), iova, 1, tce.READ)]
    return [*ops, *b.close(pe.group, pe.container)]


def test_a_kernel_with_the_defect_warns_of_the_window_once():
    high, low = b.pes(HIGH, "w")
    buffer = b.buffer("b", 1, 1)
    ((line,), met) = warnings(DECLARED, *buffer, *used(high, START), *used(high, START))
    assert line == "WARNING: at tce_iommu_create_default_window: WARN_ON_ONCE(!ret && start_addr)"
    assert met == 1
    assert len(warnings(DECLARED, *buffer, *used(high, 0))[0]) == 1, "the window is made before the MAP is refused"
    assert warnings(DECLARED, *buffer, *used(low, 0)) == ((), 0)
    assert warnings(frozenset(), *buffer, *used(high, START)) == ((), 0)
    assert warnings(DECLARED, *buffer, *used(high, START)[:-3]) == ((), 0), "before the first MAP there is no window"


# -- what the kernel says of it

ON_6_12 = (
    "[    4.386067] WARNING: CPU: 0 PID: 139 at drivers/vfio/vfio_iommu_spapr_tce.c:769 "
    "tce_iommu_create_default_window+0xc8/0x118 [vfio_iommu_spapr_tce]"
)
NEWER = (
    "[    4.386067] WARNING: drivers/vfio/vfio_iommu_spapr_tce.c:769 at tce_iommu_create_default_window+0xc8/0x118, "
    "CPU#0: python3.11/139"
)
OTHER = ON_6_12.replace("tce_iommu_create_default_window", "tce_iommu_ioctl")
BUG = "[    4.4] BUG: sleeping function called from invalid context at mm/gup.c:1"


def said(lines, quirks=DECLARED, *, at=-1):
    """A guest whose kernel says lines at a MAP, or at another operation, held against the emulator."""
    program = mapped()
    map_ = next(i for i, op in enumerate(program.ops) if isinstance(op, Ioctl) and op.request == "MAP_DMA")
    number = map_ if at < 0 else at

    def tamper(session, step, _op, outcome):
        session.console += lines if step == number else []
        return outcome

    session = Ideal(program, tamper=tamper)
    facts = replace(session.facts, quirks=quirks)
    judge_ = Judge(program, facts, references=EmulatorReferences(HIGH, facts))
    verdict = judge_.verdict(perform_program(program, session, judge_))
    return verdict, sorted(each.law for each in verdict.findings)


@pytest.mark.parametrize("line", [ON_6_12, NEWER])
def test_a_declared_defect_is_to_make_the_kernel_say_exactly_this(line):
    verdict, laws = said([line])
    assert laws == []
    assert verdict.evidence.quirks == {NOT_AT_ZERO: 1}


def test_a_declared_defect_that_does_not_show_is_told():
    verdict, laws = said([])
    assert laws == ["difference"]
    assert "the declared quirk window-not-at-zero does not show here" in verdict.findings[0].message


@pytest.mark.parametrize("line", [ON_6_12, NEWER])
def test_an_undeclared_defect_is_a_finding_that_is_named(line):
    verdict, laws = said([line], frozenset())
    assert laws == ["difference", "kernel"]
    assert {each.quirk for each in verdict.findings} == {NOT_AT_ZERO, ""}


@pytest.mark.parametrize(
    ("lines", "laws"),
    [
        ([OTHER], ["difference", "kernel"]),
        ([ON_6_12, OTHER], ["difference", "kernel"]),
        ([ON_6_12, BUG], ["difference", "kernel"]),
        ([ON_6_12, ON_6_12], ["difference", "kernel"]),
        ([BUG], ["difference", "kernel"]),
    ],
    ids=["another", "another beside it", "a BUG beside it", "twice", "a BUG"],
)
def test_whatever_else_the_kernel_says_is_a_finding(lines, laws):
    assert said(lines)[1] == laws


def test_it_is_a_finding_where_no_window_is_made():
    laws = said([ON_6_12], at=len(mapped().ops) - 2)[1]
    assert laws == ["difference", "difference"]


def test_a_second_time_is_a_finding():
    program = mapped()
    times = [i for i, op in enumerate(program.ops) if isinstance(op, Ioctl) and op.request in {"MAP_DMA", "ENABLE"}]

    def tamper(session, step, _op, outcome):
        session.console += [ON_6_12] if step in {times[1], len(program.ops) - 2} else []
        return outcome

    session = Ideal(program, tamper=tamper)
    facts = replace(session.facts, quirks=DECLARED)
    judge_ = Judge(program, facts, references=EmulatorReferences(HIGH, facts))
    verdict = judge_.verdict(perform_program(program, session, judge_))
    assert sorted(each.law for each in verdict.findings) == ["difference", "kernel"]


def test_laws_alone_excuse_it_once_and_only_if_it_is_declared():
    program = mapped()

    def findings(quirks, times):
        def tamper(session, step, _op, outcome):
            session.console += [ON_6_12] * times if step == len(program.ops) - 2 else []
            return outcome

        session = Ideal(program, tamper=tamper)
        judge_ = Judge(program, replace(session.facts, quirks=quirks))
        return [each.law for each in judge_.verdict(perform_program(program, session, judge_)).findings]

    assert findings(DECLARED, 1) == []
    assert findings(DECLARED, 2) == ["kernel"]
    assert findings(frozenset(), 1) == ["kernel"]


# -- QEMU's memory


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """What the host sees of a guest whose pe1 has one live entry, number 3."""
    guest = FakeGuest(tmp_path)
    memory = FakeMemory(guest)
    monkeypatch.setattr(hostviews, "LiveMemory", memory)
    guest.log.tables.at = {PE1: 0x1000, PE1 + 0x100: 0x2000}
    memory.held = {0x1000: {3: 0x5003}, 0x2000: {3: 0x6003}}
    return hostviews.HostViews(guest, HIGH)


def test_live_memory_is_seen_at_bus_addresses(seen):
    high, low = seen.snapshot(Checkpoint(), [], {}).tables
    assert [(each.liobn, each.ioba(3)) for each in (high, low)] == [(PE1, START + 0x3000), (PE1 + 0x100, 0x3000)]


def test_a_flip_of_live_memory_is_at_a_bus_address(seen):
    flip = Flip(liobn=PE1, ioba=START + 0x3000, bit=12)
    assert seen.flip(flip).fields == {"before": 0x5003, "after": 0x4003}
    for ioba in (0x3000, START - PAGE, START + 0x1000000):
        with pytest.raises(HarnessError, match="flip: LIOBN"):
            seen.flip(structs.replace(flip, ioba=ioba))


# -- as a test drives it


def test_a_test_sees_bus_addresses(tmp_path):
    guest = Pseries(EmulatorSession(HIGH, folder=tmp_path), HIGH, "test")
    container = guest.pe("pe1").open()
    buffer = guest.buffer(2)
    container.map(buffer, container.pe.window_start + PAGE, pages=2)
    wanted = {START + PAGE: buffer.tce(0), START + 2 * PAGE: buffer.tce(1)}
    assert guest.table(container.pe) == wanted
    assert guest.expected(PE1) == wanted
    container.map(buffer, 0, expect="ENXIO")
