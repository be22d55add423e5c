"""Random programs are whole, repeat exactly, and contain everything that they should and nothing that they must not."""

import random
import struct
from itertools import pairwise

import pytest

from tceagent.tag import FIELDS, MAGIC
from tcelab import quirks
from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.errors import UsageError
from tcelab.fuzz import moves, processes, world
from tcelab.fuzz.generate import generate
from tcelab.fuzz.hazard import MOST_BEYOND
from tcelab.fuzz.madethings import MadeFile
from tcelab.job.parallel import ParallelRun
from tcelab.program import (
    Buffer,
    Checkpoint,
    Close,
    Dma,
    Exit,
    Fill,
    Flip,
    Frames,
    Fresh,
    GuestOp,
    Ioctl,
    Master,
    Open,
    Page,
    Protect,
    Put,
    Read,
    Repeat,
    Spawn,
    Tag,
    from_json,
)
from tcelab.program.topology import TOPOLOGIES, Device, Phb, Topology, topology
from tcelab.program.validate import validate
from tcelab.run.loop import perform_program
from thorough import often

PAGE = 4096
TOP = 1 << 64
SMALL = topology("two-small")
WINDOW = SMALL.phbs[0].window_size
QUIRKS = tuple(quirks.QUIRKS)


def made(seed, where=SMALL, steps=1000, **more):
    return generate(random.Random(seed), where, steps, **more)


@pytest.fixture(scope="module")
def many():
    """Without a quirk, and with all."""
    return [made(seed, quirks=declared).program for seed in range(often(12, 40)) for declared in ((), QUIRKS)]


@pytest.mark.parametrize("name", sorted(TOPOLOGIES.keys() - {"direct-pages"}))
def test_every_program_is_whole(name):
    for seed in range(often(40, 200) if name == SMALL.name else often(6, 20)):
        validate(made(seed, topology(name), 400, quirks=QUIRKS if seed % 2 else ()).program)


@pytest.mark.parametrize("window", [PAGE, 4 * PAGE, 64 * PAGE])
def test_a_window_of_a_few_pages_is_enough(window):
    where = Topology("tiny", (Phb(1, (Device("pe1", slot=1),), window), Phb(3)))
    for seed in range(10):
        validate(made(seed, where, 400).program)


def test_a_group_of_several_devices_and_windows_of_several_sizes_are_served():
    where = Topology("mixed", (Phb(1, (Device("a", slot=1), Device("b", slot=2)), 1 << 20), Phb(2, (Device("c", 3),))))
    programs = [made(seed, where, 400, quirks=QUIRKS).program for seed in range(10)]
    for program in programs:
        validate(program)
    ops = [op for program in programs for op in program.ops]
    names = {op.fields.get("name") for op in ops if isinstance(op, Ioctl) and op.request == "GROUP_GET_DEVICE_FD"}
    assert names >= {"a", "b", "c"}


def test_a_topology_without_a_device_is_refused():
    with pytest.raises(UsageError, match="'bare' has no device under test"):
        made(0, Topology("bare", (Phb(1),)))


def test_the_same_seed_gives_the_same_program_and_another_seed_another():
    assert made(7) == made(7)
    assert made(7).program != made(8).program


def test_a_program_survives_its_way_through_a_file():
    program = made(3).program
    assert from_json(program.to_json(), "here") == program


@pytest.mark.parametrize("steps", [1, 30, 500, 3000])
def test_a_program_is_about_as_long_as_asked(steps):
    guest = sum(isinstance(op, GuestOp) for op in made(1, steps=steps).program.ops)
    assert guest <= steps * 1.1 + 60
    assert guest >= steps * 0.9


# -- checkpoints


@pytest.mark.parametrize("every", [1, 20, 50])
def test_there_is_a_checkpoint_every_so_often(every):
    longest = 24  # of one move and the counters
    for seed in range(10):
        ops = made(seed, steps=400, every=every).program.ops
        looks = [i for i, op in enumerate(ops) if isinstance(op, Checkpoint)]
        assert ops[looks[0]].label == "begin"
        assert max(after - before for before, after in pairwise(looks[:-1])) <= every + longest


def test_every_program_ends_closed_with_a_checkpoint_of_every_view(many):
    for program in many:
        assert program.ops[-1] == Checkpoint(label="end", stream=True)
        assert left_open(program) == {"": set()}


def left_open(program):
    """Files by process that is alive at the end."""
    files = {"": set()}
    for op in program.ops:
        match op:
            case Spawn():
                files[op.process] = set(files[""])
            case Exit():
                del files[op.process]
            case Open():
                files[op.by].add(op.file)
            case Ioctl() if op.into:
                files[op.by].add(op.into)
            case Close():
                files[op.by].remove(op.file)
    return files


def test_some_checkpoints_ask_for_every_view_and_most_do_not(many):
    looks = [op.stream for program in many for op in program.ops[:-1] if isinstance(op, Checkpoint)]
    assert 0.1 < sum(looks) / len(looks) < 0.3


def test_counters_are_read_right_before_a_checkpoint_and_by_every_process(many):
    looked = 0
    for program in many:
        alive = [""]
        read = []
        for op, after in pairwise(program.ops):
            match op:
                case Spawn():
                    alive.append(op.process)
                case Exit():
                    alive.remove(op.process)
                case Read():
                    assert isinstance(after, Read | Checkpoint)
                    read.append((op.what, op.by))
                case Checkpoint():
                    assert not read or read == [*(("vmlck", by) for by in alive), ("pins", "")]
                    looked += bool(read)
                    read = []
    assert looked


# -- what is in it


def ioctl(request, test=lambda _: True):
    def found(op):
        return isinstance(op, Ioctl) and op.request == request and test(op)

    return found


def field(name, test):
    """An ioctl or a struct with a number in a field that passes a test."""

    def found(op):
        word = op.fields.get(name)
        return isinstance(word, int) and test(word)

    return found


def reach(test):
    def found(op):
        iova, size = op.fields.get("iova"), op.fields.get("size")
        return isinstance(iova, int) and isinstance(size, int) and test(iova, iova + size)

    return found


def child(op):
    return op.by != ""


def ask(op):
    return isinstance(op, Ioctl)


MAP, UNMAP = "MAP_DMA", "UNMAP_DMA"
MIX = {
    "a map of one page": ioctl(MAP, field("size", lambda n: n == PAGE)),
    "a map of 32 pages": ioctl(MAP, field("size", lambda n: n == 32 * PAGE)),
    "a large map": ioctl(MAP, field("size", lambda n: 64 * PAGE <= n <= 512 * PAGE)),
    "a map of nothing": ioctl(MAP, field("size", lambda n: n == 0)),
    **{f"a map with flags {n}": ioctl(MAP, field("flags", lambda word, n=n: word == n)) for n in range(4)},
    "a map with unknown flags": ioctl(MAP, field("flags", lambda n: n > 3)),
    "a map with a short argsz": ioctl(MAP, field("argsz", lambda n: n < 32)),
    "a map with a long argsz": ioctl(MAP, field("argsz", lambda n: n > 32)),
    "a map at a misaligned iova": ioctl(MAP, field("iova", lambda n: n % PAGE)),
    "a map of misaligned memory": ioctl(MAP, lambda op: getattr(op.fields.get("vaddr"), "plus", 0) % PAGE),
    "a map of a misaligned size": ioctl(MAP, field("size", lambda n: n % PAGE)),
    "a map at entry 0": ioctl(MAP, field("iova", lambda n: n == 0)),
    "a map up to the window's end": ioctl(MAP, reach(lambda first, end: first < WINDOW == end)),
    "a map over the window's end": ioctl(MAP, reach(lambda first, end: first < WINDOW < end)),
    "a map at the window's end": ioctl(MAP, field("iova", lambda n: n == WINDOW)),
    "a map beyond the window": ioctl(MAP, field("iova", lambda n: n > WINDOW)),
    "a map near 2^64": ioctl(MAP, field("iova", lambda n: n >= TOP - 4 * PAGE)),
    "a map that wraps": ioctl(MAP, reach(lambda _, end: end > TOP)),
    "a map of no memory": ioctl(MAP, field("vaddr", lambda _: True)),
    "a map of a huge size": ioctl(MAP, field("size", lambda n: n >= 1 << 32)),
    "a map by a struct in memory": ioctl(MAP, lambda op: isinstance(op.value, Page)),
    "a map by a struct nowhere": ioctl(MAP, lambda op: isinstance(op.value, int)),
    "a map by a child": ioctl(MAP, child),
    "an unmap of one page": ioctl(UNMAP, field("size", lambda n: n == PAGE)),
    "an unmap of nothing": ioctl(UNMAP, field("size", lambda n: n == 0)),
    "an unmap of everything": ioctl(UNMAP, reach(lambda first, end: (first, end) == (0, WINDOW))),
    "an unmap with flags": ioctl(UNMAP, field("flags", lambda n: n > 0)),
    "an unmap with a short argsz": ioctl(UNMAP, field("argsz", lambda n: n < 24)),
    "an unmap with a long argsz": ioctl(UNMAP, field("argsz", lambda n: n > 24)),
    "an unmap at a misaligned iova": ioctl(UNMAP, field("iova", lambda n: n % PAGE)),
    "an unmap of a misaligned size": ioctl(UNMAP, field("size", lambda n: n % PAGE)),
    "an unmap over the window's end": ioctl(UNMAP, reach(lambda first, end: first < WINDOW < end)),
    "an unmap at the window's end": ioctl(UNMAP, field("iova", lambda n: n == WINDOW)),
    "an unmap beyond the window": ioctl(UNMAP, field("iova", lambda n: WINDOW < n < 1 << 60)),
    "an unmap near 2^64": ioctl(UNMAP, field("iova", lambda n: n >= TOP - 4 * PAGE)),
    "an unmap by a struct in memory": ioctl(UNMAP, lambda op: isinstance(op.value, Page)),
    "an unmap by a struct nowhere": ioctl(UNMAP, lambda op: isinstance(op.value, int)),
    "an unmap by a child": ioctl(UNMAP, child),
    "the right type": ioctl("SET_IOMMU", lambda op: op.value == 2),
    "a wrong type": ioctl("SET_IOMMU", lambda op: op.value not in (2, 7)),
    "a group into a container": ioctl("GROUP_SET_CONTAINER", lambda op: str(op.fields["container"])[0] == "c"),
    "a group into a group": ioctl("GROUP_SET_CONTAINER", lambda op: str(op.fields["container"])[0] == "g"),
    "a group into a device": ioctl("GROUP_SET_CONTAINER", lambda op: str(op.fields["container"])[0] == "d"),
    "a group into no file": ioctl("GROUP_SET_CONTAINER", field("container", lambda _: True)),
    "a group out of its container": ioctl("GROUP_UNSET_CONTAINER"),
    "the same by a child": ioctl("GROUP_UNSET_CONTAINER", child),
    "a status": ioctl("GROUP_GET_STATUS"),
    "a status with a short argsz": ioctl("GROUP_GET_STATUS", field("argsz", lambda n: n < 8)),
    "info": ioctl("SPAPR_TCE_GET_INFO"),
    "info in today's struct": ioctl("SPAPR_TCE_GET_INFO_DDW"),
    "info with a short argsz": ioctl("SPAPR_TCE_GET_INFO", field("argsz", lambda n: n < 16)),
    "info with a long argsz": ioctl("SPAPR_TCE_GET_INFO_DDW", field("argsz", lambda n: n > 32)),
    "info nowhere": ioctl("SPAPR_TCE_GET_INFO", lambda op: op.value is not None),
    "the API's version": ioctl("GET_API_VERSION"),
    "an extension that there is": ioctl("CHECK_EXTENSION", lambda op: op.value == 2),
    "an extension that there is not": ioctl("CHECK_EXTENSION", lambda op: op.value == 99),
    "a device by its name": ioctl("GROUP_GET_DEVICE_FD", lambda op: op.fields["name"] == "pe1"),
    "a device by a name of none": ioctl("GROUP_GET_DEVICE_FD", lambda op: op.fields["name"] == "nobody"),
    "a device by no name": ioctl("GROUP_GET_DEVICE_FD", lambda op: op.fields["name"] == ""),
    "enable": ioctl("ENABLE"),
    "enable by a child": ioctl("ENABLE", child),
    "disable": ioctl("DISABLE"),
    "disable by a child": ioctl("DISABLE", child),
    "a request without a name": lambda op: ask(op) and isinstance(op.request, int),
    "a request that a container has not": lambda op: ask(op) and op.file[0] == "c" and op.request == "DEVICE_RESET",
    "a request that a group has not": lambda op: ask(op) and op.file[0] == "g" and op.request == "SET_IOMMU",
    "a request that a device has not": lambda op: ask(op) and op.file[0] == "d" and op.request == "SET_IOMMU",
    "a request of a file that never was": lambda op: ask(op) and op.file[0] == "x",
    "no such path": lambda op: isinstance(op, Open) and op.path == "/dev/vfio/4095",
    "a group by a child": lambda op: isinstance(op, Open) and op.by and "$" in op.path,
    "a container by a child": lambda op: isinstance(op, Open) and op.by and op.path == "/dev/vfio/vfio",
    "a close by a child": lambda op: isinstance(op, Close) and op.by,
    "a child that is like its parent": lambda op: op == Spawn(process="p1"),
    "a child without privilege": lambda op: isinstance(op, Spawn) and op.uid == 65534,
    "a child that may lock just a window": lambda op: isinstance(op, Spawn) and op.uid and op.memlock == WINDOW,
    "a child that may lock almost one": lambda op: isinstance(op, Spawn) and op.uid and op.memlock == WINDOW - PAGE,
    "a child that may lock window and table": lambda op: isinstance(op, Spawn) and op.memlock == WINDOW + WINDOW // 512,
    "an exit": lambda op: isinstance(op, Exit),
    "memory of a child": lambda op: isinstance(op, Buffer) and op.by,
    "frames of a child": lambda op: isinstance(op, Frames) and op.by,
    "tags by a child": lambda op: isinstance(op, Tag) and op.by,
    "read-only memory": lambda op: isinstance(op, Protect) and op.access == "read",
    "memory without access": lambda op: isinstance(op, Protect) and op.access == "none",
    "memory with access again": lambda op: isinstance(op, Protect) and op.access == "write",
    "data": lambda op: isinstance(op, Fill),
    "a struct for a map": lambda op: isinstance(op, Put) and op.request == MAP,
    "a struct for an unmap": lambda op: isinstance(op, Put) and op.request == UNMAP,
    "rounds in C": lambda op: isinstance(op, Repeat) and op.loop == "c",
    "rounds in Python": lambda op: isinstance(op, Repeat) and op.loop == "python",
    "bus master on": lambda op: isinstance(op, Master) and op.file[0] == "d" and op.on,
    "bus master off": lambda op: isinstance(op, Master) and not op.on,
    "bus master of what is no device": lambda op: isinstance(op, Master) and op.file[0] in "cg",
    "a device that reads": lambda op: isinstance(op, Dma) and not op.to_memory,
    "a device that writes": lambda op: isinstance(op, Dma) and op.to_memory,
    "a device in the window": lambda op: isinstance(op, Dma) and op.iova + op.size <= WINDOW,
    "a device over the window's end": lambda op: isinstance(op, Dma) and op.iova < WINDOW < op.iova + op.size,
    "a device beyond the window": lambda op: isinstance(op, Dma) and op.iova >= WINDOW,
}


@pytest.mark.parametrize("move", MIX)
def test_the_mix_has(move, many):
    assert any(MIX[move](op) for program in many for op in program.ops)


def opened(op):
    """The file that it makes."""
    return op.file if isinstance(op, Open) else op.into if isinstance(op, Ioctl) else ""


def test_files_of_one_kind_are_open_at_the_same_time(many):
    """Two containers, a group twice, a device twice."""
    most = dict.fromkeys("cgd", 0)
    for program in many:
        alive = set()
        for op in program.ops:
            alive.discard(getattr(op, "file", None) if isinstance(op, Close) else None)
            alive.add(opened(op))
            for kind in most:
                most[kind] = max(most[kind], sum(name.startswith(kind) for name in alive))
    assert most["c"] >= 2
    assert most["g"] > len(SMALL.phbs)
    assert most["d"] > len(SMALL.devices)


def test_a_group_moves_between_containers(many):
    moves = 0
    for program in many:
        joined = {}
        for op, after in pairwise(op for op in program.ops if not isinstance(op, Checkpoint | Read)):
            if ioctl("GROUP_SET_CONTAINER")(op):
                joined[op.by, op.file] = op.fields["container"]
            if ioctl("GROUP_UNSET_CONTAINER")(op) and ioctl("GROUP_SET_CONTAINER")(after) and op.file == after.file:
                before = joined.get((op.by, op.file), after.fields["container"])
                moves += (before, op.by) != (after.fields["container"], after.by)
    assert moves > 2 * len(many)


def test_a_map_runs_off_its_buffer(many):
    def off(op, pages):
        page, size = op.fields.get("vaddr"), op.fields.get("size", 0)
        return isinstance(page, Page) and page.index < pages[page.buffer] < page.index + (size >> 12)

    for program in many:
        pages = {op.name: op.pages for op in program.ops if isinstance(op, Buffer)}
        assert any(isinstance(op, Ioctl) and op.request == MAP and off(op, pages) for op in program.ops)


def test_read_only_and_inaccessible_memory_is_mapped(many):
    mapped = set()
    for program in many:
        access = {}
        for op in program.ops:
            if isinstance(op, Protect):
                access[op.buffer] = op.access
            elif isinstance(op, Ioctl) and op.request == MAP and isinstance(page := op.fields.get("vaddr"), Page):
                mapped.add((access.get(page.buffer, "write"), op.fields["flags"]))
    assert mapped >= {(access, flags) for access in ("none", "read") for flags in (1, 2, 3)}


# -- what an emulated kernel makes of it


def granted(steps):
    ioctls = [step.outcome for step in steps if isinstance(step.op, Ioctl)]
    return sum(not outcome.errno and outcome.value != 1 for outcome in ioctls) / len(ioctls)


@pytest.mark.parametrize("declared", [(), QUIRKS], ids=["no quirk", "quirks"])
def test_about_two_thirds_are_granted(declared):
    shares = []
    for seed in range(often(3, 6)):
        with EmulatorSession(SMALL, quirks=declared, seed=seed) as session:
            ran = perform_program(made(seed, quirks=declared).program, session)
        assert ran.ending is None
        shares.append(granted(ran.steps))
    assert 0.55 < sum(shares) / len(shares) < 0.75


def test_most_live_entries_lead_to_a_tag_that_names_them():
    named = live = 0
    for seed in range(often(3, 6)):
        with EmulatorSession(SMALL, seed=seed) as session:
            ran = perform_program(made(seed).program, session)
        for snapshot in (step.snapshot for step in ran.steps if step.snapshot):
            for table in snapshot.tables:
                for index, tce in zip(table.index.tolist(), table.tce.tolist(), strict=True):
                    page = snapshot.pages[tce & ~0xFFF]
                    magic, _, liobn, ioba, _ = FIELDS.unpack_from(page)
                    live += 1
                    named += (magic, liobn, ioba) == (MAGIC, table.liobn, index << 12)
    assert live > 1000
    assert named / live > 0.5


# -- limits


def ranges(program):
    """Bus address and end of every unmap, in whatever form."""
    for op in program.ops:
        for each in op.ops if isinstance(op, Repeat) else [op]:
            if isinstance(each, Ioctl | Put) and each.request == UNMAP and each.fields:
                yield each.fields["iova"], each.fields["iova"] + each.fields["size"]


def endless(program):
    return [each for each in ranges(program) if each[0] < WINDOW and each[1] > WINDOW + MOST_BEYOND * PAGE]


@pytest.mark.parametrize("declared", [(), (quirks.ONE_PAGE,), tuple(QUIRKS)], ids=["none", "one", "all"])
def test_no_unmap_reaches_far_past_the_end_whatever_is_declared(declared):
    programs = [made(seed, quirks=declared).program for seed in range(often(10, 30))]
    assert [each for program in programs for each in endless(program)] == []


@pytest.mark.parametrize(("beyond", "kept"), [(0, True), (MOST_BEYOND, True), (MOST_BEYOND + 1, False)])
def test_an_unmap_that_reaches_too_far_is_counted_instead(beyond, kept):
    w = world.World(random.Random(1), topology("two-small"), frozenset())
    file = MadeFile("c", None, [])
    fields = {"iova": WINDOW - PAGE, "size": (1 + beyond) * PAGE}
    assert w.unmap(w.agent, file, fields) is kept
    assert (len(w.ops), sum(w.left_out.values())) == (int(kept), int(not kept))


def test_an_unmap_a_little_past_the_end_is_generated_in_spite_of_the_quirk():
    ends = (end - WINDOW for seed in range(30) for _, end in ranges(made(seed, quirks=QUIRKS).program))
    assert any(0 < beyond <= MOST_BEYOND * PAGE for beyond in ends)


def test_programs_stay_within_their_limits(many):
    for program in many:
        alive = most = 0
        for op in program.ops:
            assert not isinstance(op, Flip | Fresh)
            assert op.expect is None
            alive += isinstance(op, Spawn) - isinstance(op, Exit)
            most = max(most, alive)
            match op:
                case Ioctl(request="SET_IOMMU"):
                    assert op.value != 7
                case Ioctl(request="MAP_DMA", fields={"vaddr": Page()}):
                    assert op.fields["size"] <= 513 * PAGE
                case Repeat():
                    assert op.times <= 4
                    assert all(call.fields["size"] <= 8 * PAGE for call in op.ops)
        assert most <= processes.MOST_CHILDREN
        assert sum(isinstance(op, Dma) for op in program.ops) <= len(program.ops) / processes.OPS_PER_DMA + 1
        assert sum(op.pages for op in program.ops if isinstance(op, Buffer) and not op.by) <= world.MOST_PAGES


def test_structs_hold_what_is_put_into_them(many):
    """An agent would give up at a number that is too wide, and so would the run."""
    forms = {MAP: "=2I3Q", UNMAP: "=2I2Q"}
    for op in (op for program in many for op in program.ops if isinstance(op, Ioctl | Put)):
        if op.request in forms and op.fields:
            words = [op.fields.get("argsz", 0), op.fields.get("flags", 0)]
            words += [
                op.fields.get(name, 0) for name in ("vaddr", "iova", "size") if name != "vaddr" or op.request == MAP
            ]
            struct.pack(forms[op.request], *(0 if isinstance(word, Page) else word for word in words))


def test_nothing_is_written_behind_a_struct(many):
    """From argsz 32 on the kernel writes 32 bytes, which the struct of 2013 has not (tce_iommu_ioctl, ddwsz)."""
    infos = [op for program in many for op in program.ops if ioctl("SPAPR_TCE_GET_INFO")(op)]
    assert infos
    assert all(op.fields.get("argsz", 0) < 32 for op in infos)


def test_every_move_of_the_tables_can_be_made():
    """A move that is never possible would be one that nobody misses."""
    made_by = dict.fromkeys([move for table, _ in moves.TABLES[False, False, False] for move in table], 0)
    for seed in range(12):
        w = world.World(random.Random(seed), SMALL, frozenset())
        w.allocate(w.agent, 64)
        w.allocate(w.agent, 512)
        for _ in range(400):
            moves.step(w)
            move = w.pick(list(made_by))
            made_by[move] += move.make(w)
    assert [move for move, times in made_by.items() if not times] == []


def test_every_program_proves_an_entry_by_its_tag_however_short():
    """By chance alone, a short one may never look at an entry while its page holds the tag."""
    for name in ("two-small", "two-pe", "dma-api"):
        where = topology(name)
        program = generate(random.Random(1), where, 1, hypercalls=True, drivers=bool(where.driven)).program
        _, verdict = ParallelRun(program, lambda _, where=where: EmulatorSession(where)).run()
        assert (verdict.result, verdict.could_not, verdict.evidence.tags) == ("pass", [], 1)
