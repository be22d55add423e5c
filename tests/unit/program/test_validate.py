"""A program that cannot be done is refused before anything boots, with the operation and why."""

import pytest
from msgspec import structs

from tcelab import scenarios
from tcelab.errors import UsageError
from tcelab.program import (
    Bind,
    Buffer,
    Close,
    Ddw,
    Dma,
    Exit,
    Fill,
    Flip,
    Frames,
    Fresh,
    Ioctl,
    Master,
    Open,
    Page,
    Program,
    Protect,
    Put,
    Read,
    Repeat,
    Spawn,
    Tag,
    hazards,
    inject,
)
from tcelab.program.topology import TOPOLOGIES, topology
from tcelab.program.validate import validate

MADE = [
    Buffer(name="b", pages=4),
    Bind(device="pe1"),
    Open(file="c", path="/dev/vfio/vfio"),
    Open(file="g", path="/dev/vfio/$pe1"),
    Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="d"),
]


def program(*ops):
    return Program(name="p", topology=topology("one-pe"), ops=[*MADE, *ops])


@pytest.mark.parametrize(
    ("op", "said"),
    [
        (Close(file="x"), 'add an `open` with "file": "x", or "into": "x" to the `ioctl` that gives it'),
        (Frames(buffer="x"), 'add a `buffer` with "name": "x"'),
        (Open(file="g", path="/dev/vfio/$pe1"), 'add a `bind` with "device": "pe1"'),
        (Read(what="vmlck", by="x"), 'add a `spawn` with "process": "x"'),
    ],
)
def test_what_has_to_be_there_before_is_named(op, said):
    with pytest.raises(UsageError, match=said):
        validate(Program(name="p", topology=topology("one-pe"), ops=[op]))


WITHOUT = {
    "groups": ("one-pe", "pair", "memory"),
    "windows-isolation": ("two-pe-disk", "probe", "fast"),
    "handover": ("one-pe", "two-pe-disk", "probe", "races", "races-smp", "pair", "fast", "hotplug", "memory"),
    "windows-removed": ("two-pe-disk", "fast", "dma-api-default"),
}
"""Topologies that have too few PEs for a scenario, or other devices than it needs."""
UNTOLD = {"hotplug", "lifecycle", "kexec", "kdump", "migration", "windows-removed", "smp"}
UNTOLD |= {f"{each}-isolation" for each in ("hotplug", "lifecycle", "kexec", "migration")}
"""Scenarios with events in the life of a table, or operations at once: of these nobody could say what told a probe."""


@pytest.mark.parametrize("name", scenarios.SCENARIOS)
@pytest.mark.parametrize("where", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_every_scenario_is_whole_with_and_without_a_lie(name, where):
    scenario = scenarios.SCENARIOS[name]
    if name == "memory" and where.name not in scenario.topologies:
        with pytest.raises(UsageError, match="scenario memory needs 3 slots"):
            scenarios.build(name, where, 3)
        return
    if (where.direct or "testdev" in where.models) and scenario.isolation:
        with pytest.raises(UsageError, match=f"scenario {name} isolates PEs, and one of topology {where.name}"):
            scenarios.build(name, where, 3)
        return
    unraced = scenario.raced and not where.raced
    if unraced or (where.raced and scenario.isolation) or ("probe" in where.models and name in UNTOLD):
        with pytest.raises(UsageError, match="no probe of topology" if unraced else "probe"):
            validate(scenarios.build(name, where, 3))
        return
    if where.direct and name in {"kexec", "kdump"}:
        with pytest.raises(UsageError, match="nobody knows what it makes of them"):
            scenarios.build(name, where, 3)
        return
    if where.name in WITHOUT.get(name, ()):
        with pytest.raises(UsageError, match=f"scenario {name} needs"):
            scenarios.build(name, where, 3)
        return
    made = scenarios.build(name, where, 3)
    if where.name == "direct-pages" and any(isinstance(op, Bind) for op in made.ops):
        with pytest.raises(UsageError, match="fewer page sizes than the rules of VFIO are written for"):
            validate(made)
        return
    validate(made)
    validate(inject.flip(made))


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (Buffer(name="b", pages=1), "there is a buffer 'b' already"),
        (Buffer(name="x", pages=0), "at least one page"),
        (Tag(buffer="x"), "no buffer 'x' was made"),
        (Tag(buffer="b", first=3, count=2), "outside buffer 'b' of 4 pages"),
        (Buffer(name="x", pages=-1), "at least one page"),
        (Tag(buffer="b", first=2, count=-1), "outside buffer 'b'"),
        (Tag(buffer="b", first=-1, count=2), "outside buffer 'b'"),
        (Fill(buffer="b", offset=4096, size=-1, seed=0), "outside buffer 'b'"),
        (Flip(liobn=0x80000100, ioba=-4096), "no bit 12"),
        (Flip(liobn=0x80000100, ioba=0, bit=-1), "no bit -1"),
        (Fill(buffer="b", offset=16384, size=1, seed=0), "outside buffer 'b'"),
        (Fill(buffer="b", offset=-1, size=1, seed=0), "outside buffer 'b'"),
        (Frames(buffer="x"), "no buffer 'x' was made"),
        (Bind(device="pe2"), "the topology has no device 'pe2'"),
        (Open(file="c", path="/dev/null"), "there is a file 'c' already"),
        (Open(file="x", path="/dev/vfio/$pe2"), r"\$pe2 names a device that was not bound"),
        (Close(file="x"), "no file 'x' was opened"),
        (Ioctl(file="x", request=1), "no file 'x' was opened"),
        (Ioctl(file="c", request="MAP"), "no request 'MAP'"),
        (Ioctl(file="g", request="GROUP_SET_CONTAINER", fields={"container": "x"}), "no file 'x' was opened"),
        (Ioctl(file="c", request="MAP_DMA", fields={"vaddr": Page("x")}), "no buffer 'x' was made"),
        (Ioctl(file="c", request="MAP_DMA", fields={"size": 1}, value=2), "fields or a value"),
        (Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="c"), "there is a file 'c'"),
        (Master(file="x"), "no file 'x' was opened"),
        (Dma(file="x", iova=0, size=4, to_memory=True), "no file 'x' was opened"),
        (Dma(file="d", iova=0, size=4001, to_memory=True), "leaves the 4000 bytes"),
        (Read(what="luck"), "no counter 'luck'"),
        (Flip(liobn=0x80000100, ioba=1 << 30), "no bit 12 of an entry for IOBA 0x40000000"),
        (Flip(liobn=0x80000300, ioba=0), "LIOBN 0x80000300"),
        (Flip(liobn=0x80000100, ioba=0, bit=64), "no bit 64"),
        (Protect(buffer="x", access="none"), "no buffer 'x' was made"),
        (Put(buffer="x", request="MAP_DMA"), "no buffer 'x' was made"),
        (Put(buffer="b", request="ENABLE"), "no request 'ENABLE' with a struct"),
        (Put(buffer="b", request="GROUP_GET_DEVICE_FD"), "no request 'GROUP_GET_DEVICE_FD' with a struct"),
        (Put(buffer="b", request="MAP_DMA", offset=16384 - 31), "outside buffer 'b' of 4 pages"),
        (Put(buffer="b", request="MAP_DMA", offset=-1), "outside buffer 'b'"),
        (Put(buffer="b", request="MAP_DMA", fields={"length": 1}), "no field length among argsz"),
        (Put(buffer="b", request="MAP_DMA", fields={"vaddr": Page("x")}), "no buffer 'x' was made"),
        (Put(buffer="b", request="MAP_DMA", fields={"size": 1 << 64}), "a word has 64 bits"),
        (Put(buffer="b", request="MAP_DMA", fields={"flags": 1 << 32}), "does not fit the struct"),
        (Put(buffer="b", request="GROUP_SET_CONTAINER", fields={"container": "x"}), "no file 'x' was opened"),
        (Ioctl(file="c", request="MAP_DMA", fields={"argsz": Page("b")}), "does not fit the struct"),
        (Ioctl(file="c", request="MAP_DMA", fields={"length": 1}), "no field length among argsz"),
        (Ioctl(file="c", request=0x20003B71, fields={"size": 1}), "takes no fields"),
        (Ioctl(file="c", request="ENABLE", fields={"size": 1}), "ENABLE takes no fields"),
        (Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"nom": "pe1"}), "one field is the name of a device"),
        (Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": 1}), "one field is the name of a device"),
        (Ioctl(file="c", request=1, value=Page("x")), "no buffer 'x' was made"),
        (Ioctl(file="c", request=1, value=-1), "a word has 64 bits"),
        (Ioctl(file="c", request=1 << 32), "a request has 32 bits"),
        (Spawn(process=""), "a process has a name"),
        (Spawn(process="p", uid=-1), "no user has number -1"),
        (Spawn(process="p", uid=(1 << 32) - 1), "no user has number 4294967295"),
        (Spawn(process="p", memlock=-1), "a limit of -1 bytes"),
        (Spawn(process="p", memlock=1 << 63), "a limit of"),
        (Exit(process="p"), "no process 'p' was spawned before"),
        (Exit(process=""), "no process '' was spawned before"),
        (Read(what="vmlck", by="p"), "no process 'p' was spawned before"),
    ],
)
def test_what_cannot_be_done_is_named(op, why):
    validate(program())
    with pytest.raises(UsageError, match=why) as caught:
        validate(program(op))
    assert f"operation {len(MADE)} ({type(op).__name__})" in caught.value.message


def test_a_closed_file_is_not_open():
    with pytest.raises(UsageError, match=r"operation 6 \(Close\): no file 'c'"):
        validate(program(Close(file="c"), Close(file="c")))


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (Buffer(name="x", pages=65_537), "at most 65536 pages"),
        (Tag(buffer="b", liobn=1 << 64), "a word has 64 bits"),
        (Tag(buffer="b", sequence=-1), "a word has 64 bits"),
        (Tag(buffer="b", ioba=(1 << 64) - 4096, count=2), "a word has 64 bits"),
        (Tag(buffer="b", count=1 << 60), "outside buffer 'b'"),
        (Fill(buffer="b", offset=0, size=1 << 60, seed=1), "outside buffer 'b'"),
        (Dma(file="d", iova=1 << 64, size=8, to_memory=True), "a word has 64 bits"),
        (Repeat(ops=[Ioctl(file="c", request="UNMAP_DMA", by="p")], times=1), "no value, into, by or expect"),
    ],
)
def test_what_no_agent_could_do_is_refused(op, why):
    with pytest.raises(UsageError, match=why):
        validate(program(op))


def test_what_is_just_possible_is_let_through():
    ops = [Buffer(name="x", pages=65_536), Tag(buffer="b", ioba=(1 << 64) - 8192, count=2, sequence=(1 << 64) - 1)]
    validate(program(*ops, Spawn(process="p", uid=(1 << 32) - 2, memlock=(1 << 63) - 1), Spawn(process="q", memlock=0)))


@pytest.mark.parametrize(
    "op",
    [
        Ioctl(file="c", request=0xFFFF, value=3),
        Ioctl(file="c", request="MAP_DMA", value=Page("b", 4)),
        Ioctl(file="g", request="GROUP_GET_DEVICE_FD"),
        Put(buffer="b", request="MAP_DMA", offset=16384 - 32, fields={"vaddr": Page("b", 9), "argsz": 1}),
        Put(buffer="b", request="GROUP_SET_CONTAINER", fields={"container": "c"}),
        Ioctl(file="c", request="MAP_DMA", fields={"argsz": 3, "flags": 77, "vaddr": 1, "size": 5}),
        Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "no such device"}, into="x"),
        Dma(file="d", iova=1 << 63, size=8, to_memory=False),
    ],
)
def test_what_the_kernel_or_the_table_must_refuse_is_let_through(op):
    validate(program(op))


@pytest.mark.parametrize("word", [-1, -4096, 1 << 64])
def test_a_word_that_no_register_holds_is_refused(word):
    map_ = Ioctl(file="c", request="MAP_DMA", fields={"vaddr": 0, "iova": word, "size": 4096})
    with pytest.raises(UsageError, match="a word has 64 bits"):
        validate(program(map_))
    validate(program(Ioctl(file="c", request="MAP_DMA", fields={"iova": (1 << 64) - 1})))


def test_nothing_that_was_made_on_one_guest_is_there_on_a_fresh_one():
    with pytest.raises(UsageError, match=r"operation 6 \(Close\): no file 'c' was opened before"):
        validate(program(Fresh(), Close(file="c")))
    validate(program(Fresh(), *MADE))


# -- processes

MAP = Ioctl(file="c", request="MAP_DMA", fields={"vaddr": Page("b")})
CHILD = [Spawn(process="p"), Buffer(name="own", pages=2, by="p")]


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ([Spawn(process="p"), Spawn(process="p")], "there was a process 'p' before"),
        ([Spawn(process="p"), Exit(process="p"), Spawn(process="p")], "there was a process 'p' before"),
        ([Spawn(process="p"), Spawn(process="q", by="p")], "only the agent itself spawns"),
        ([*CHILD, Spawn(process="q"), Exit(process="q", by="p")], "only the agent itself ends"),
        ([*CHILD, Exit(process="p"), Exit(process="p")], "process 'p' has exited"),
        ([*CHILD, Exit(process="p"), Frames(buffer="own", by="p")], "process 'p' has exited"),
        ([Spawn(process=f"p{i}") for i in range(65)], "more than 64 processes"),
        ([Spawn(process="p", uid=1), Read(what="pins", by="p")], "only root can read"),
        ([*CHILD, Fresh(), Read(what="vmlck", by="p")], "no process 'p' was spawned before"),
    ],
)
def test_a_process_is_spawned_once_by_the_agent_and_does_nothing_after_its_exit(ops, why):
    with pytest.raises(UsageError, match=why) as caught:
        validate(program(*ops))
    assert f"operation {len(MADE) + len(ops) - 1} " in caught.value.message


def test_only_living_processes_count():
    validate(program(*(op for i in range(200) for op in (Spawn(process=f"p{i}"), Exit(process=f"p{i}")))))
    validate(program(Spawn(process="p", uid=0), Read(what="pins", by="p"), Fresh(), Spawn(process="p")))


@pytest.mark.parametrize(
    "op",
    [
        Tag(buffer="b", by="p"),
        Fill(buffer="b", offset=0, size=1, seed=1, by="p"),
        Frames(buffer="b", by="p"),
        Protect(buffer="b", access="read", by="p"),
        Put(buffer="b", request="MAP_DMA", by="p"),
        Put(buffer="own", request="MAP_DMA", fields={"vaddr": Page("b")}, by="p"),
        structs.replace(MAP, by="p"),
        Repeat(ops=[MAP], times=1, by="p"),
        Ioctl(file="c", request="MAP_DMA", value=Page("b"), by="p"),
    ],
    ids=lambda op: type(op).__name__,
)
def test_a_child_cannot_use_the_agents_buffers(op):
    with pytest.raises(UsageError, match="buffer 'b' belongs to the agent itself, not to process 'p'"):
        validate(program(*CHILD, op))


@pytest.mark.parametrize("op", [Tag(buffer="own"), Frames(buffer="own"), Buffer(name="own", pages=1)])
@pytest.mark.parametrize("end", [[], [Exit(process="p")]], ids=["alive", "exited"])
def test_nobody_uses_a_childs_buffer_or_its_name_not_even_after_its_exit(op, end):
    with pytest.raises(UsageError, match=r"belongs to process 'p', not to the agent itself|a buffer 'own' already"):
        validate(program(*CHILD, *end, op))
    validate(program(*CHILD, Tag(buffer="own", by="p"), Ioctl(file="c", request=1, value=Page("own"), by="p")))


@pytest.mark.parametrize("access", ["none", "read"])
def test_what_was_protected_is_not_written_until_it_may_be_again(access):
    protect = Protect(buffer="b", access=access)
    for op in (Tag(buffer="b"), Fill(buffer="b", offset=0, size=1, seed=1), Put(buffer="b", request="MAP_DMA")):
        with pytest.raises(UsageError, match=f"buffer 'b' is protected: its access is {access}"):
            validate(program(protect, op))
        validate(program(protect, Frames(buffer="b"), MAP, Protect(buffer="b", access="write"), op))


def test_a_child_has_the_files_that_were_open_when_it_was_spawned():
    use = Ioctl(file="c", request="ENABLE", by="p")
    validate(program(*CHILD, Close(file="c"), use, Close(file="d", by="p"), Master(file="d")))
    late = [*CHILD, Open(file="late", path="/dev/null")]
    with pytest.raises(UsageError, match="no file 'late' was opened"):
        validate(program(*late, Close(file="late", by="p")))
    with pytest.raises(UsageError, match=r"operation 8 \(Ioctl\): no file 'c' was opened"):
        validate(program(*CHILD, Close(file="c", by="p"), use))
    with pytest.raises(UsageError, match="no file 'c' was opened"):
        validate(program(*CHILD, Close(file="c"), MAP))


@pytest.mark.parametrize(
    "ops",
    [
        [*CHILD, Close(file="c"), Open(file="c", path="/dev/null")],
        [*CHILD, Open(file="x", path="/dev/null", by="p"), Open(file="x", path="/dev/null")],
        [*CHILD, Open(file="x", path="/dev/null"), Open(file="x", path="/dev/null", by="p")],
    ],
)
def test_no_two_living_processes_open_files_under_one_name(ops):
    with pytest.raises(UsageError, match=r"there is a file '[cx]' already"):
        validate(program(*ops))


def test_the_name_of_a_file_is_free_once_nobody_has_it_open():
    again = Open(file="c", path="/dev/null")
    validate(program(*CHILD, Close(file="c"), Close(file="c", by="p"), again))
    validate(program(*CHILD, Close(file="c"), Exit(process="p"), again))


def test_a_child_knows_the_devices_that_were_bound_when_it_was_spawned():
    two = [Bind(device="pe1"), Spawn(process="p"), Bind(device="pe2")]

    def made(*ops):
        return Program(name="p", topology=topology("two-small"), ops=[*two, *ops])

    validate(made(Open(file="g", path="/dev/vfio/$pe1", by="p"), Open(file="h", path="/dev/vfio/$pe2")))
    with pytest.raises(UsageError, match=r"\$pe2 names a device that was not bound"):
        validate(made(Open(file="g", path="/dev/vfio/$pe2", by="p")))
    validate(made(Bind(device="pe2", by="p"), Open(file="g", path="/dev/vfio/$pe2", by="p")))


# -- windows: a table takes memory of the host's


def window(entries, shift=16, **more):
    return {"page_shift": shift, "window_size": entries << shift, "levels": 1, **more}


@pytest.mark.parametrize("shift", [12, 16, 24])
def test_a_window_has_at_most_so_many_entries_by_whatever_way_it_is_asked_for(shift):
    most = hazards.MOST_ENTRIES
    said = f"a window of {2 * most} entries; at most {most} are asked for"
    for op in (
        Ioctl(file="c", request="SPAPR_TCE_CREATE", fields=window(2 * most, shift)),
        Put(buffer="b", request="SPAPR_TCE_CREATE", fields=window(2 * most, shift)),
        Ddw(call="create", device="pe1", page_shift=shift, window_shift=shift + most.bit_length()),
    ):
        with pytest.raises(UsageError, match=said):
            validate(program(op))
    validate(
        program(
            Ioctl(file="c", request="SPAPR_TCE_CREATE", fields=window(most, shift)),
            Ioctl(file="c", request="SPAPR_TCE_CREATE", fields=window(0, shift)),
            Put(buffer="b", request="SPAPR_TCE_CREATE", fields=window(most, shift)),
            Ddw(call="create", device="pe1", page_shift=shift, window_shift=shift + most.bit_length() - 1),
            Ddw(call="create", device="pe1", page_shift=shift, window_shift=0),
        )
    )


def test_a_shift_of_any_size_is_only_a_number():
    wide = (1 << 32) - 1
    validate(program(Ioctl(file="c", request="SPAPR_TCE_CREATE", fields=window(1, 0, page_shift=wide))))
    with pytest.raises(UsageError, match="at most 16777216 are asked for"):
        validate(program(Ddw(call="create", device="pe1", window_shift=wide)))


@pytest.mark.parametrize("number", ["4096", "1f000", "0x", "-0x1000", "0x1f_000", ""])
def test_a_number_that_is_written_wrongly_is_not_called_a_file(number):
    wrong = Ioctl(file="c", request="MAP_DMA", fields={"iova": number})
    with pytest.raises(UsageError, match=f'{number!r} is no number: write a number as 4096 or as "0x1000"') as caught:
        validate(program(wrong))
    assert "opened" not in str(caught.value)


def test_a_word_that_is_no_file_says_what_else_it_can_be():
    with pytest.raises(UsageError, match=r'no file .ten. was opened before: .*; write a number as 4096 or as "0x1000"'):
        validate(program(Dma(file="d", iova="ten", size=8, to_memory=True)))


def test_a_seed_below_0_is_refused():
    with pytest.raises(UsageError, match="a seed is at least 0, and -1 is not"):
        validate(program(Buffer(name="s", pages=1, seed=-1)))
