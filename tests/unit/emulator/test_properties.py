"""What holds of every program on the emulated driver: laws, failed maps, charges, and the borders between PEs."""

import random
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowkit import ALL, NONE
from rows.row import END, LAST, NOBODY, PE1, PE2, Ops, child, enabled, mapping, open_group, set_container, set_iommu
from tceagent import uapi
from tcelab.emulator import EmulatorSession, process
from tcelab.emulator.addressspaces import EmulatedRam, Space
from tcelab.emulator.checks import IoctlCall
from tcelab.emulator.process import Process
from tcelab.emulator.reference import EmulatorReferences
from tcelab.fuzz.generate import generate
from tcelab.judge import Judge
from tcelab.program import Bind, Buffer, Close, Dma, Exit, Ioctl, Master, Page, Program, Protect, Read
from tcelab.program.topology import topology
from tcelab.quirks import ROLLBACK
from tcelab.run.loop import perform_program
from thorough import often

SMALL = topology("two-small")
PAGE = 4096
WINDOW = SMALL.phbs[0].window_size
STEPS = 160
seeds = st.integers(0, (1 << 32) - 1)
FEW = settings(max_examples=often(8, 12), deadline=None, derandomize=True)
SOME = settings(max_examples=often(25, 60), deadline=None)
KERNELS = [("seed2013", NONE), ("linux-v1", NONE), ("linux-v1", ALL)]
kernels = pytest.mark.parametrize(
    ("profile", "quirks"), KERNELS, ids=[f"{profile}, {len(quirks)} quirks" for profile, quirks in KERNELS]
)


def judged(program, session, keep=50):
    """With defects, entries are lost: a reference says which."""
    judge = Judge(program, session.facts, keep=keep, references=EmulatorReferences(SMALL, session.facts))
    done = perform_program(program, session, judge)
    assert done.ending is None
    return judge.verdict(done)


# -- every table is the fold of the operations


@pytest.mark.parametrize("quirks", [NONE, ALL], ids=["no quirk", "all quirks"])
@FEW
@given(seeds)
def test_every_table_and_counter_is_the_fold_of_the_operations(quirks, seed):
    program = generate(random.Random(seed), SMALL, STEPS, every=20, quirks=quirks).program
    verdict = judged(program, EmulatorSession(SMALL, quirks=quirks, seed=seed))
    assert [(finding.law, finding.message) for finding in verdict.findings] == []
    assert verdict.evidence.laws["table"].judged > 10
    assert verdict.evidence.laws["pins"].judged > 1


def tame(program: Program) -> Program:
    """Without maps that begin in the window and leave it: the driver of 2013 stores those behind the table's end."""

    def crosses(op):
        iova, size = (op.fields.get(name, 0) for name in ("iova", "size"))
        return op.request == "MAP_DMA" and (op.value is not None or iova < WINDOW < iova + size)

    ops = [op for op in program.ops if not (isinstance(op, Ioctl) and crosses(op))]
    return Program(name=program.name, topology=program.topology, ops=ops)


@FEW
@given(seeds)
def test_with_the_driver_of_2013_as_well_but_for_its_charges(seed):
    """It refunds whoever is current; its charges are literals of its rows."""
    program = tame(generate(random.Random(seed), SMALL, STEPS, every=20).program)
    verdict = judged(program, EmulatorSession(SMALL, profile_name="seed2013", seed=seed))
    wrong = [finding for finding in verdict.findings if finding.law != "charges"]
    assert [(finding.law, finding.message) for finding in wrong] == []
    assert verdict.evidence.laws["table"].judged > 10


# -- a map that fails


MEMORY: Ops = (
    Bind(device="pe1"),
    Bind(device="pe2"),
    *(Buffer(name=name, pages=8) for name in ("m", "ro", "none")),
    Protect(buffer="ro", access="read"),
    Protect(buffer="none", access="none"),
)
places = st.builds(Page, st.sampled_from(["m", "m", "ro", "none"]), st.integers(0, 8), st.sampled_from([0, 0, 0, 1]))
numbers = st.one_of(st.integers(0, 12), st.integers(WINDOW // PAGE - 6, WINDOW // PAGE + 2))
iovas = st.builds(lambda entry, plus: entry * PAGE + plus, numbers, st.sampled_from([0, 0, 0, 0, 8]))
maps = st.fixed_dictionaries(
    {
        "flags": st.sampled_from([1, 2, 3, 3, 3, 0, 4]),
        "vaddr": places,
        "iova": iovas,
        "size": st.one_of(st.integers(0, 9).map(lambda pages: pages * PAGE), st.just(PAGE + 1)),
    },
    optional={"argsz": st.sampled_from([0, 31, 32, 40])},
)


def tables(session):
    """All entries, by LIOBN and number."""
    lives = {pe.phb.liobn: pe.table.live() for pe in session.machine.pes.values()}
    return {(liobn, i): tce for liobn, live in lives.items() for i, tce in zip(*map(list, live), strict=True)}


def pins(session):
    return {frame: count for frame, count in session.machine.ram.pins.items() if count}


def rest(session):
    """What else a map could change: charges, and memory behind the tables."""
    charged = session.perform([Read(what="vmlck")])[0].value
    return charged, [dict(pe.behind) for pe in session.machine.pes.values()]


@kernels
@SOME
@given(st.lists(maps, min_size=2, max_size=8))
def test_a_map_that_fails_changes_nothing(profile, quirks, tried):
    """Of known defects, `ROLLBACK` alone empties entries, of its own range."""
    session = EmulatorSession(SMALL, profile_name=profile, quirks=quirks)
    # The first map makes the default window, whatever comes of it.
    session.perform([*MEMORY, *enabled(), mapping(0), mapping(0x5000, 3), mapping(END - 3 * PAGE, 3)])
    for fields in tried:
        live, pinned, others = tables(session), pins(session), rest(session)
        (outcome,) = session.perform([Ioctl(file="c", request="MAP_DMA", fields=fields)])
        lost = {place for met in session.take_quirk_hits() for place in met.lost}
        if outcome.value == 0:
            continue
        assert tables(session) == {place: tce for place, tce in live.items() if place not in lost}
        assert rest(session) == others
        for place in lost:
            pinned[int(live[place]) & -PAGE] -= 1
        assert pins(session) == {frame: count for frame, count in pinned.items() if count}
        first = fields["iova"] // PAGE
        assert lost <= {(PE1, first + i) for i in range(fields["size"] // PAGE)}
        assert not lost or ROLLBACK in quirks


def test_maps_of_the_kinds_above_do_fail_halfway_and_lose_entries_if_they_can():
    """Else the property would say nothing of it."""
    session = EmulatorSession(SMALL, quirks=ALL)
    session.perform([*MEMORY, *enabled(), mapping(0x5000, 3)])
    (outcome,) = session.perform([mapping(0x6000, 4, Page("m", 6), None)])
    assert (outcome.errno, list(tables(session))) == ("EFAULT", [(PE1, 5)])


# -- charges


@contextmanager
def spaces_watched():
    """Address spaces of all processes that are made meanwhile."""
    made = []

    def watched(ram):
        made.append(Space(ram))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "Space", watched)
        yield made


@pytest.mark.parametrize("quirks", [NONE, ALL], ids=["no quirk", "all quirks"])
@FEW
@given(seeds)
def test_once_all_is_released_nothing_is_charged_to_any_process_and_nothing_is_pinned(quirks, seed):
    program = generate(random.Random(seed), SMALL, STEPS, quirks=quirks).program
    session = EmulatorSession(SMALL, quirks=quirks)
    with spaces_watched() as children:
        session.perform([op for op in program.ops if hasattr(op, "by")])
    assert session.perform([Read(what="vmlck"), Read(what="pins")])[0].value == 0
    assert [space.locked for space in children] == [0] * len(children)
    assert session.machine.ram.pinned == 0
    assert not any(session.machine.ram.pins.values())
    assert all(pe.group_file is None and not pe.owned for pe in session.machine.pes.values())
    assert not any(pe.table.words.any() for pe in session.machine.pes.values())


def test_programs_do_charge_children_and_refuse_some():
    """Else the property would say nothing of them."""
    charged = refused = 0
    for seed in range(12):
        program = generate(random.Random(seed), SMALL, STEPS).program
        ops = [op for op in program.ops if hasattr(op, "by")]
        outcomes = zip(ops, EmulatorSession(SMALL).perform(ops), strict=True)
        enables = [out for op, out in outcomes if isinstance(op, Ioctl) and op.request == "ENABLE" and op.by]
        charged += sum(out.value == 0 for out in enables)
        refused += sum(out.errno == "ENOMEM" for out in enables)
    assert charged > 5
    assert refused > 0


# -- one PE and the others


def attacks():
    """Operations on pe1 alone, in whatever order, some of them by a child."""
    by = st.sampled_from(["", "", "", "p"])
    struct = {
        "MAP_DMA": maps.map(lambda fields: fields | {"vaddr": Page("m", 1)}),
        "UNMAP_DMA": st.fixed_dictionaries({"iova": iovas, "size": st.sampled_from([0, PAGE, 9 * PAGE, END, 1 << 40])}),
        "ENABLE": st.just({}),
        "DISABLE": st.just({}),
        "SPAPR_TCE_GET_INFO": st.just({}),
    }
    requests = [
        st.builds(lambda by, fields, name=name: asked("c", name, by, fields), by, fields)
        for name, fields in struct.items()
    ]
    transfers = st.builds(
        lambda iova, size, to_memory: Dma(file="d", iova=iova, size=size, to_memory=to_memory),
        iovas,
        st.integers(1, 4000),
        st.booleans(),
    )
    others = [
        Master(file="d"),
        Ioctl(file="g", request="GROUP_UNSET_CONTAINER"),
        set_container(None),
        set_iommu(None),
        open_group(),
        Close(file="g"),
        Close(file="d"),
        Exit(process="p"),
        Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}),
    ]
    return st.lists(st.one_of(*requests, *requests, transfers, st.sampled_from(others)), min_size=5, max_size=30)


def asked(file, request, by, fields):
    mine = {name: Page("b", word.index) if by and isinstance(word, Page) else word for name, word in fields.items()}
    return Ioctl(file=file, request=request, by=by, fields=mine)


def possible(session, op):
    """Could the agent do it at all?"""
    alive = "p" in session._state.children
    files = session._state.files
    if getattr(op, "by", "") == "p" or isinstance(op, Exit):
        return alive
    if isinstance(op, Close | Dma | Master):
        return op.file in files
    return op != open_group() or "g" not in files


@kernels
@SOME
@given(attacks())
def test_whatever_is_done_with_one_pe_no_other_table_changes(profile, quirks, ops):
    session = EmulatorSession(SMALL, profile_name=profile, quirks=quirks)
    device = Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="d")
    session.perform([*MEMORY, *enabled(2), mapping(0x3000, 4, Page("m", 4), pe=2), mapping(END - PAGE, pe=2)])
    others = tables(session)
    session.perform([*enabled(), mapping(0), device, Master(file="d")])
    session.perform([child("p", uid=NOBODY), Buffer(by="p", name="b", pages=8)])
    for op in ops:
        if possible(session, op):
            session.perform([op])
    assert {place: tce for place, tce in tables(session).items() if place[0] != PE1} == others
    assert {number for _, number in others} == {3, 4, 5, 6, LAST // PAGE}
    assert all(session.machine.ram.pins[int(tce) & -PAGE] >= 1 for tce in others.values())
    assert session.machine.pes[2].group_file.container.driver.enabled


def test_two_containers_may_map_one_page_and_either_lets_go_of_its_own_pin():
    session = EmulatorSession(SMALL)
    session.perform([*MEMORY, *enabled(), *enabled(2), mapping(0), mapping(0x3000, pe=2)])
    assert session.machine.ram.pinned == 2
    session.perform([Close(file="g")])
    assert session.machine.ram.pinned == 1
    assert list(tables(session)) == [(PE2, 3)]


# -- structs


FIELDS = {
    "I": st.integers(0, (1 << 32) - 1),
    "Q": st.integers(0, (1 << 64) - 1),
    "i": st.integers(-(1 << 31), (1 << 31) - 1),
}


def values(layout):
    """Any values that the struct's fields can hold."""
    kinds = []
    count = ""
    for letter in layout.struct.format.lstrip("="):
        if letter.isdigit():
            count += letter
            continue
        kinds += [letter] * int(count or 1) if letter != "x" else []
        count = ""
    assert len(kinds) == len(layout.fields)
    return st.fixed_dictionaries({name: FIELDS[kind] for name, kind in zip(layout.fields, kinds, strict=True)})


@pytest.mark.parametrize("name", uapi.LAYOUTS)
@settings(max_examples=often(10, 25))
@given(data=st.data(), offset=st.integers(0, PAGE - 1))
def test_a_struct_is_the_same_after_a_journey_through_any_memory(name, data, offset):
    """The agent packs it, the kernel copies it in and out again, the agent unpacks it."""
    layout = uapi.LAYOUTS[name]
    given_ = data.draw(values(layout))
    space = Space(EmulatedRam(PAGE, 0))
    area = space.allocate(2 * PAGE)
    area.write(offset, layout.pack(given_))
    call = IoctlCall(None, Process(space), None, area.address + offset)
    assert call.copy_in(layout, layout.size)
    assert call.param == given_
    area.write(offset, bytes(layout.size))
    assert call.copy_out(layout, layout.size)
    raw = area.read(0, 2 * PAGE)
    assert raw == bytes(offset) + layout.pack(given_) + bytes(2 * PAGE - offset - layout.size)
    assert layout.unpack(raw[offset : offset + layout.size]) == {each: given_[each] for each in layout.outputs}


@pytest.mark.parametrize("name", uapi.LAYOUTS)
def test_what_was_not_copied_in_is_zero_and_what_is_not_copied_out_stays(name):
    layout = uapi.LAYOUTS[name]
    size = layout.minimum or layout.size
    space = Space(EmulatedRam(PAGE, 0))
    area = space.allocate(PAGE)
    area.write(0, b"\xff" * layout.size)
    call = IoctlCall(None, Process(space), None, area.address)
    assert call.copy_in(layout, size)
    whole = layout.struct.unpack((b"\xff" * size).ljust(layout.size, b"\0"))
    assert tuple(call.param.values()) == whole
    call.param = dict.fromkeys(layout.fields, 0)
    assert call.copy_out(layout, size)
    assert area.read(0, layout.size) == bytes(size) + b"\xff" * (layout.size - size)
