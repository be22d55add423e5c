"""Several processes on one container, and structs in buffers: what the judge expects of them, and what it finds."""

from __future__ import annotations

import struct

import pytest
from ideal import NONCE, Ideal
from msgspec import structs
from story import BOTH, FIRST, ONE, SECOND, SMALL, TWO

from tcelab.judge import judge
from tcelab.judge.models.fold import Fold
from tcelab.program import Close, Exit, Ioctl, Open, Page, Program, Protect, Put, Repeat, Spawn
from tcelab.program.validate import validate
from tcelab.run.loop import perform_program
from tcelab.run.record import Facts, Outcome, Step
from tcelab.scenarios import vocabulary as b

OK = Outcome(value=0)
AT_A = Page("a")
PAGE = 4096
WINDOW, TABLE = 4096, 8
"""KiB that a window of 4 MiB and its table cost."""


def by(process, *lists):
    return [structs.replace(op, by=process) for ops in lists for op in ops]


def get_info(**how):
    """Into page 4 of the child's memory, 16 bytes from its start."""
    return Ioctl(file=ONE.container, request="SPAPR_TCE_GET_INFO", value=Page("own", 4, 16), **how)


def story():
    """A child enables the container of PE 1, maps its pages own:0..3 at 0x10000 and is the last to let go of it. What
    the second child has mapped on PE 2, frail:0..1 at 0x20000, outlives it.
    """
    ops = [
        *b.vmlck(),
        *b.pins(),
        *b.buffer("a", 2, 1),
        *(op for pe in (ONE, TWO) for op in [*b.bind(pe), *b.open_container(pe)]),
        Spawn(process="c"),
        Spawn(process="d", uid=65534, memlock=8 << 20),
        *by("c", b.vmlck(), b.buffer("own", 6, 2), b.enable(ONE), b.tag(Page("own"), 4, FIRST, 0x10000, 1)),
        *by("c", b.map_dma(ONE, Page("own"), 0x10000, 4, BOTH), b.vmlck()),
        *by("d", b.vmlck(), b.buffer("frail", 2, 3), b.enable(TWO), b.tag(Page("frail"), 2, SECOND, 0x20000, 2)),
        *by("d", b.map_dma(TWO, Page("frail"), 0x20000, 2, BOTH), b.vmlck()),
        *b.vmlck(),
        *b.pins(),
        structs.replace(b.map_dma(ONE, Page("a"), 0, 1, BOTH)[0], expect="EPERM"),
        *b.checkpoint("mapped", stream=True),
        *b.close(ONE.group, ONE.container),
        *b.checkpoint("closed"),
        Put(buffer="own", request="SPAPR_TCE_GET_INFO", offset=4 * PAGE + 16, fields={"flags": 7}, by="c"),
        *by("c", b.fill(Page("own", 5), PAGE, 4)),
        *b.checkpoint("put"),
        get_info(by="c", expect="ok"),
        *b.checkpoint("asked"),
        Protect(buffer="own", access="read", by="c"),
        get_info(by="c", expect="EFAULT"),
        *b.checkpoint("fault"),
        Exit(process="d", expect="ok"),
        *b.pins(),
        *b.checkpoint("orphaned"),
        *by("c", b.vmlck()),
        Exit(process="c", expect="ok"),
        *b.pins(),
        *b.checkpoint("left", stream=True),
        *b.close(TWO.group, TWO.container),
        *b.vmlck(),
        *b.pins(),
        *b.checkpoint("end", stream=True),
    ]
    return Program(name="story", topology=SMALL, ops=ops)


STORY = story()


def nth(kind, by="", number=0):
    """Number of an operation of a process: by its request or the label of a checkpoint or its kind."""
    names = [
        (getattr(op, "request", "") or getattr(op, "label", "") or type(op).__name__, getattr(op, "by", ""))
        for op in STORY.ops
    ]
    return [i for i, name in enumerate(names) if name == (kind, by)][number]


def judged(number=-1, do=lambda _session: None, **lies):
    def tamper(session, at, _op, outcome):
        result = do(session) if at == number else None
        return result if isinstance(result, Outcome) else outcome

    return judge(perform_program(STORY, Ideal(STORY, tamper=tamper, **lies)))


def test_the_honest_story_is_whole_and_passes():
    validate(STORY)
    verdict = judged()
    assert (verdict.findings, verdict.could_not, verdict.exit_code) == ([], [], 0)
    assert verdict.evidence.tags == 6 * 4 + 7 * 2, "the maps of c until it exits, those of d until the end"


def ram(buffer, page, at, content):
    def do(session):
        session.ram[session.buffers[buffer][page]][at : at + len(content)] = content

    return do


def entry(pe, number, value):
    def do(session):
        session.pes[pe].table.pop(number, None)
        if value:
            session.pes[pe].table[number] = value

    return do


def less(kib):
    """A reading that is that much lower."""
    return lambda session: Outcome(value=session.charged("c") - kib)


LIES = {
    "a container goes although a child has it": (
        nth("Close", number=1),
        entry("pe1", 0x12, 0),
        ("table", FIRST, 0x12000, "missing"),
    ),
    "an entry survives the last exit": (
        nth("Exit", number=1),
        entry("pe1", 0x11, 0x7003),
        ("table", FIRST, 0x11000, "survived"),
    ),
    "an entry goes with the process whose memory it leads to": (
        nth("Exit"),
        entry("pe2", 0x20, 0),
        ("table", SECOND, 0x20000, "missing"),
    ),
    "a page is given to another while the device can reach it": (
        nth("Exit"),
        ram("frail", 1, 0, b"x" * PAGE),
        ("tag", SECOND, 0x21000, "tag of LIOBN"),
    ),
    "pins go with their process": (
        nth("Exit"),
        lambda s: setattr(s, "base_pins", s.base_pins - 2),
        ("pins", None, None, "2 pages missing"),
    ),
    "a child is not charged": (nth("Read", "c", 1), less(8), ("charges", None, None, "VmLck of process c")),
    "a child is charged too much at the end": (
        nth("Read", "c", 2),
        less(-WINDOW),
        ("charges", None, None, "4096 KiB not given back or too much"),
    ),
    "the agent pays for its child": (
        nth("MAP_DMA", "c"),
        lambda s: setattr(s, "base_vmlck", s.base_vmlck + TABLE),
        ("charges", None, None, "VmLck: expected 0 KiB"),
    ),
    "a put struct is not what was put": (
        nth("SPAPR_TCE_GET_INFO", "c"),
        ram("own", 4, 20, b"\6"),
        ("memory", None, None, "own page 4"),
    ),
    "what is beside the answer is written": (
        nth("SPAPR_TCE_GET_INFO", "c", 1),
        ram("own", 5, 0, b"xy"),
        ("memory", None, None, "own page 5"),
    ),
    "the answer changes after it was seen": (
        nth("Protect", "c"),
        ram("own", 4, 20, b"\1"),
        ("memory", None, None, "own page 4"),
    ),
    "an answer lands in memory that may not be written": (
        nth("SPAPR_TCE_GET_INFO", "c", 2),
        ram("own", 4, 16, b"\1"),
        ("memory", None, None, "own page 4"),
    ),
    "the agent's memory changes when its child maps": (
        nth("MAP_DMA", "c"),
        ram("a", 1, 0, b"x"),
        ("memory", None, None, "a page 1"),
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_gives_exactly_its_finding(lie):
    number, do, (law, liobn, ioba, said) = LIES[lie]
    verdict = judged(number, do)
    assert [(f.law, f.liobn, f.ioba) for f in verdict.findings] == [(law, liobn, ioba)]
    assert said in verdict.findings[0].message
    assert verdict.exit_code == 1


def test_what_an_exit_broke_is_blamed_on_it():
    at = nth("Exit")
    verdict = judged(at, lambda s: setattr(s, "base_pins", s.base_pins - 2))
    assert verdict.findings[0].operation.startswith(f'#{at} {{"op":"exit"')


# -- the fold


class Stage:
    """A fold, fed by hand: containers of both PEs are open, a buffer `a` lies at 0x100000."""

    def __init__(self, profile="linux-v1"):
        self.fold = Fold(
            Program(name="p", topology=SMALL, ops=[]), Facts("i", NONCE, PAGE, 1 << 28, {}, {}, profile=profile)
        )
        self.number = 0
        self.do(b.buffer("a", 4, 0)[0], Outcome(value=0x100000))
        for pe in (ONE, TWO):
            self.do_all(*b.open_container(pe))

    def do(self, op, outcome=OK):
        self.number += 1
        self.fold.apply(Step(self.number, op, outcome))

    def do_all(self, *ops):
        for op in ops:
            self.do(op)

    def map(self, pe=ONE, iova=0, process="", vaddr=AT_A, frames=(0x5000,)):
        fields = {"flags": 3, "vaddr": vaddr, "iova": iova, "size": len(frames) * PAGE}
        self.do(
            Ioctl(file=pe.container, request="MAP_DMA", fields=fields, by=process), Outcome(value=0, frames=[*frames])
        )

    @property
    def live(self):
        return sorted(self.fold.tables[FIRST].live)


@pytest.fixture
def stage():
    return Stage()


def test_a_group_leaves_its_container_when_no_process_has_it_or_a_device_of_it(stage):
    stage.do_all(*b.enable(ONE), *b.open_device(ONE))
    stage.map()
    stage.do_all(Spawn(process="c"), Spawn(process="d"))
    stage.do_all(*b.close(ONE.group, ONE.device, ONE.container))
    stage.do_all(*by("c", b.close(ONE.group)), Exit(process="d"))
    assert stage.live == [0]
    stage.do_all(*by("c", b.close(ONE.device)))
    assert (stage.live, stage.fold.charge()) == ([], 0)
    assert stage.fold.tables[FIRST].last_operation(0) == stage.number


def test_what_a_process_opens_itself_goes_with_it_alone(stage):
    stage.do_all(*b.close(ONE.group, ONE.container), Spawn(process="c"), *by("c", b.open_container(ONE), b.enable(ONE)))
    stage.map(process="c")
    assert stage.live == [0]
    stage.do_all(Close(file=ONE.group))
    assert stage.live == [0]
    stage.do_all(Exit(process="c"))
    assert stage.live == []


def test_a_name_is_another_file_in_another_process(stage):
    stage.do_all(Spawn(process="c"), *by("c", b.close(ONE.container)), *b.enable(ONE))
    stage.do_all(Open(file="x", path="/dev/vfio/vfio", by="c"))
    assert stage.fold.target(Ioctl(file="x", request="ENABLE")) is None
    assert stage.fold.target(Ioctl(file=ONE.container, request="ENABLE", by="c")) is None
    assert stage.fold.charge() == WINDOW


def test_a_descriptor_that_got_no_name_holds_the_group_until_its_process_exits(stage):
    stage.do_all(*b.enable(ONE), Spawn(process="c"))
    unnamed = structs.replace(b.open_device(ONE)[0], into="", by="c")
    stage.do_all(unnamed, unnamed)
    stage.map()
    stage.do_all(*b.close(ONE.group), *by("c", b.close(ONE.group)))
    assert stage.live == [0]
    stage.do_all(Exit(process="c"))
    assert stage.live == []


def test_bus_mastering_is_cleared_by_the_first_open_and_the_last_close_alone(stage):
    device = stage.fold.devices["pe1"]
    stage.do_all(*b.enable(ONE), *b.open_device(ONE))
    second = structs.replace(b.open_device(ONE)[0], into="second")
    stage.do_all(second, Close(file="second"))
    assert device.master
    stage.do_all(Spawn(process="c"), *b.close(ONE.device))
    assert device.master
    stage.do_all(*by("c", b.close(ONE.device)))
    assert not device.master
    device.master = True  # whatever it was before
    stage.do_all(second)
    assert not device.master


def test_a_child_masters_the_bus_and_transfers_by_a_file_of_its_own(stage):
    stage.do_all(*b.enable(ONE), Spawn(process="c"), *by("c", b.open_device(ONE)), *b.tag(Page("a"), 1, FIRST, 0, 1))
    stage.map()
    stage.do_all(*by("c", b.dma(ONE, 0, 64, to_memory=False)))
    assert stage.fold.forbidden == []
    assert stage.fold.devices["pe1"].memory[:8] == b"TCELABTG"


def test_a_container_is_charged_to_the_process_that_enabled_it(stage):
    stage.do_all(Spawn(process="c"), *by("c", b.enable(ONE)), *b.enable(TWO))
    stage.map(process="c")
    assert (stage.fold.charge(), stage.fold.charge("c")) == (WINDOW, WINDOW + TABLE)
    stage.do_all(*by("c", b.disable(ONE)))
    assert (stage.fold.charge(), stage.fold.charge("c")) == (WINDOW, TABLE)
    stage.do_all(*by("c", b.close(ONE.group)), *b.close(ONE.group), *b.open_container(ONE), *b.enable(ONE))
    assert (stage.fold.charge(), stage.fold.charge("c")) == (2 * WINDOW, 0)


def test_the_driver_of_2013_does_not_charge_for_a_table():
    stage = Stage("seed2013")
    stage.do_all(*b.enable(ONE))
    stage.map()
    assert stage.fold.charge() == WINDOW


def test_charges_of_another_type_of_container_are_not_known_for_any_process(stage):
    stage.do(Ioctl(file=ONE.container, request="SET_IOMMU", value=9))
    assert (stage.fold.charge(), stage.fold.charge("c")) == (None, None)


def test_a_number_is_an_address_of_the_process_that_says_it(stage):
    """A child's memory may lie where its parent's does."""
    stage.do_all(Spawn(process="c"), *by("c", b.enable(ONE)))
    stage.do(structs.replace(b.buffer("own", 4, 0)[0], by="c"), Outcome(value=0x100000))
    stage.map(process="c", vaddr=0x101000)
    stage.map(iova=PAGE, vaddr=0x102000)
    stage.map(iova=2 * PAGE, vaddr=0x900000)
    entries = stage.fold.tables[FIRST].live
    assert [(entries[i].buffer, entries[i].number) for i in range(3)] == [("own", 1), ("a", 2), ("", 0)]


def test_a_repeat_is_done_on_the_files_and_the_memory_of_its_process(stage):
    stage.do_all(Spawn(process="c"), *by("c", b.enable(ONE)), *b.close(ONE.container))
    fields = {"flags": 3, "vaddr": 0x100000, "iova": 0, "size": PAGE}
    call = Ioctl(file=ONE.container, request="MAP_DMA", fields=fields)
    told = Outcome(value=0, fields={"calls": 3, "seconds": 0.1}, frames=[0x5000])
    stage.do(Repeat(ops=[call], times=3, by="c"), told)
    assert stage.live == [0]
    assert stage.fold.tables[FIRST].live[0].buffer == "", "the agent's memory is not the child's"


def test_an_exited_process_has_no_buffers_and_its_entries_keep_their_pages(stage):
    stage.do_all(Spawn(process="c"), *by("c", b.enable(ONE)))
    stage.do(structs.replace(b.buffer("own", 4, 0)[0], by="c"), Outcome(value=0x100000))
    stage.do_all(*by("c", b.tag(Page("own"), 1, FIRST, 0, 1)))
    stage.map(process="c", vaddr=Page("own"))
    stage.do_all(Exit(process="c"))
    assert list(stage.fold.buffers) == ["a"]
    assert stage.fold.tables[FIRST].live[0].page.tagged == (FIRST, 0)


# -- what is in memory


def content(stage, page=0):
    found = stage.fold.buffers["a"].pages[page].content
    return None if found is None else found[:64]


def test_a_put_struct_is_known_byte_by_byte(stage):
    fields = {"flags": 3, "vaddr": Page("a", 1, 8), "iova": 0x10000, "size": PAGE}
    stage.do(Put(buffer="a", request="MAP_DMA", offset=8, fields=fields))
    raw = struct.pack("<IIQQQ", 32, 3, 0x101008, 0x10000, PAGE)
    assert content(stage) == bytes(8) + raw + bytes(24)
    stage.do(Put(buffer="a", request="MAP_DMA", offset=PAGE - 8, fields={"vaddr": Page("a", -0x101)}))
    assert content(stage, 1) == struct.pack("<QQQ", (1 << 64) - 0x1000, 0, 0) + bytes(40)


def test_a_put_descriptor_leaves_its_page_unknown_until_a_whole_page_is_written(stage):
    stage.do(Put(buffer="a", request="GROUP_SET_CONTAINER", offset=PAGE - 2, fields={"container": ONE.container}))
    assert [content(stage, i) is None for i in range(4)] == [True, True, False, False]
    stage.do_all(*b.fill(Page("a"), PAGE - 1, 1))
    assert content(stage) is None
    stage.do_all(*b.fill(Page("a"), PAGE, 1), *b.tag(Page("a", 1), 1, FIRST, 0, 1))
    assert None not in (content(stage), content(stage, 1))


@pytest.mark.parametrize(
    ("op", "outcome", "unknown"),
    [
        (Ioctl(file=ONE.container, request="SPAPR_TCE_GET_INFO", value=Page("a", 1)), OK, [1]),
        (Ioctl(file=ONE.container, request="SPAPR_TCE_GET_INFO", value=Page("a", 1, PAGE - 32)), OK, [1]),
        (Ioctl(file=ONE.container, request="SPAPR_TCE_GET_INFO", value=Page("a", 1, PAGE - 31)), OK, [1, 2]),
        (Ioctl(file=ONE.device, request="DEVICE_GET_REGION_INFO", value=Page("a", 1, 8)), OK, [1, 2]),
        (Ioctl(file=ONE.container, request="SPAPR_TCE_GET_INFO", value=0x102000), OK, [2]),
        (Ioctl(file=ONE.container, request=0x20003B70, value=Page("a", 3, 8)), OK, [3]),
        (Ioctl(file=ONE.container, request=0x20003B70, value=Page("a", 0, -31)), OK, [0]),
        (Ioctl(file=ONE.container, request=0x20003B70, value=Page("a", 0, -32)), OK, []),
        (Ioctl(file=ONE.container, request=0x20003B70, value=Page("a", -9)), OK, []),
        (Ioctl(file=ONE.container, request="SPAPR_TCE_GET_INFO", value=Page("a")), Outcome(errno="EFAULT"), [0]),
        (Ioctl(file=ONE.container, request="SPAPR_TCE_GET_INFO", value=Page("a")), Outcome(errno="EINVAL"), []),
        (Ioctl(file=ONE.container, request=0x5401, value=Page("a", 2, 1)), OK, [2, 3]),
        (Ioctl(file=ONE.container, request=0x5401, value=Page("a")), Outcome(errno="ENOTTY"), []),
        (Ioctl(file=ONE.container, request="ENABLE", value=Page("a", 0, 8)), OK, []),
        (Ioctl(file=ONE.container, request="UNMAP_DMA", value=Page("a")), OK, []),
        (Ioctl(file=ONE.container, request="SPAPR_TCE_GET_INFO"), OK, []),
    ],
)
def test_what_an_ioctl_may_have_written_to_a_buffer_is_unknown(stage, op, outcome, unknown):
    stage.do(op, outcome)
    assert [i for i in range(4) if content(stage, i) is None] == unknown


@pytest.mark.parametrize("access", ["none", "read"])
def test_nothing_is_written_to_memory_that_may_not_be(stage, access):
    stage.do_all(Protect(buffer="a", access=access))
    for outcome in (OK, Outcome(errno="EFAULT")):
        stage.do(Ioctl(file=ONE.container, request="SPAPR_TCE_GET_INFO", value=Page("a")), outcome)
    assert content(stage) is not None


def test_what_a_device_read_from_an_unknown_page_makes_unknown_what_it_writes(stage):
    stage.do_all(*b.enable(ONE), *b.open_device(ONE))
    stage.map(frames=(0x5000, 0x6000, 0x7000, 0x8000))
    stage.do_all(*b.fill(Page("a", 1), PAGE, 1))
    stage.do(Put(buffer="a", request="GROUP_SET_CONTAINER", fields={"container": ONE.container}))
    stage.do_all(*b.dma(ONE, PAGE - 64, 128, to_memory=False))
    stage.do_all(*b.dma(ONE, 2 * PAGE, 64, to_memory=True, offset=64))
    assert content(stage, 2) == stage.fold.buffers["a"].pages[1].content[:64]
    stage.do_all(*b.dma(ONE, 3 * PAGE, 65, to_memory=True, offset=63))
    assert content(stage, 3) is None
    stage.do_all(*b.dma(ONE, 1 << 30, 128, to_memory=False), *b.fill(Page("a", 3), PAGE, 2))
    stage.do_all(*b.dma(ONE, 3 * PAGE, 64, to_memory=True, offset=32))
    assert content(stage, 3) == bytes(64), "a refused read gives zeros"


def unsure():
    """Page 0 of a mapped buffer and page 1, which is not mapped, hold a descriptor that the host cannot know."""
    put = Put(buffer="a", request="GROUP_SET_CONTAINER", fields={"container": ONE.container})
    ops = [
        *b.buffer("a", 3, 1),
        *b.bind(ONE),
        *b.open_container(ONE),
        *b.enable(ONE),
        *b.tag(Page("a"), 3, FIRST, 0, 1),
        *b.map_dma(ONE, Page("a"), 0, 1, BOTH),
        *b.map_dma(ONE, Page("a", 2), 2 * PAGE, 1, BOTH),
        put,
        structs.replace(put, offset=PAGE),
        *b.checkpoint("unknown", stream=True),
        *b.checkpoint("known"),
        *b.close(ONE.group, ONE.container),
        *b.checkpoint("end"),
    ]
    return Program(name="unsure", topology=SMALL, ops=ops)


def seen(before, do):
    """The verdict when the world is changed before the checkpoint of that label."""
    program = unsure()
    at = next(i for i, op in enumerate(program.ops) if getattr(op, "label", "") == before)

    class Changing(Ideal):
        def intervene(self, op, frames):
            if op is program.ops[at]:
                do(self)
            return super().intervene(op, frames)

    return judge(perform_program(program, Changing(program)))


def test_what_nobody_could_know_is_no_finding_and_no_proof():
    verdict = seen("unknown", lambda s: [ram("a", page, 100, b"x")(s) for page in (0, 1)])
    assert (verdict.findings, verdict.could_not) == ([], [])
    assert (verdict.evidence.tags, verdict.evidence.contents) == (2, 1), "page 0 counts once it was seen"


@pytest.mark.parametrize(
    ("before", "do", "found"),
    [
        ("known", ram("a", 0, 100, b"x"), ("tag", 0)),
        ("known", ram("a", 1, 100, b"x"), ("memory", None)),
        ("unknown", lambda s: s.ram.pop(s.buffers["a"][0]), ("tag", 0)),
        ("unknown", lambda s: s.ram.pop(s.buffers["a"][1]), ("memory", None)),
    ],
)
def test_what_changes_after_it_was_seen_or_is_not_there_is_a_finding(before, do, found):
    verdict = seen(before, do)
    assert [(f.law, f.ioba) for f in verdict.findings] == [found]


# -- what was passed by its address


@pytest.mark.parametrize(
    ("op", "outcome", "reasons"),
    [
        (Ioctl(file=ONE.container, request="MAP_DMA", value=Page("a")), OK, 0),
        (Ioctl(file=ONE.container, request=0x20003B72, value=5), OK, 1),
        (Ioctl(file=ONE.container, request="MAP_DMA", value=Page("a")), Outcome(value=1), 0),
        (Ioctl(file=ONE.group, request="GROUP_SET_CONTAINER", value=Page("a")), OK, 1),
        (Ioctl(file=ONE.group, request="GROUP_SET_CONTAINER", value=Page("a")), Outcome(errno="EBUSY"), 0),
        (Ioctl(file=ONE.group, request="GROUP_GET_DEVICE_FD", value=Page("a"), into="d"), Outcome(value=17), 1),
        (Ioctl(file=ONE.group, request="GROUP_GET_DEVICE_FD", value=Page("a"), into="d"), Outcome(errno="ENODEV"), 0),
        (Ioctl(file=ONE.group, request="GROUP_GET_STATUS", value=Page("a")), OK, 0),
    ],
)
def test_what_succeeds_with_a_struct_that_we_cannot_see_is_said(stage, op, outcome, reasons):
    stage.do(op, outcome)
    assert len(stage.fold.unknown) == reasons
    assert all("passed a struct that we cannot see" in reason for reason in stage.fold.unknown)


def test_a_map_and_an_unmap_whose_structs_were_put_into_a_buffer_are_folded(stage):
    fields = {"flags": 3, "vaddr": Page("a", 1), "iova": 0x5000, "size": PAGE}
    stage.do_all(*b.enable(ONE))
    stage.do(Put(buffer="a", request="MAP_DMA", offset=8, fields=fields))
    stage.do(Ioctl(file=ONE.container, request="MAP_DMA", value=Page("a", plus=8)), Outcome(value=0, frames=[0x7000]))
    live = stage.fold.tables[ONE.liobn].live
    assert {number: (entry.buffer, entry.number, entry.tce) for number, entry in live.items()} == {5: ("a", 1, 0x7003)}
    stage.do(Put(buffer="a", request="UNMAP_DMA", offset=8, fields={"iova": 0x5000, "size": PAGE}))
    stage.do(Ioctl(file=ONE.container, request="UNMAP_DMA", value=Page("a", plus=8)), OK)
    assert (live, stage.fold.unknown) == ({}, [])


SOUND = {"flags": 3, "iova": 1 << 40, "size": PAGE}


@pytest.mark.parametrize(
    ("fields", "access", "value", "errno", "made", "reasons"),
    [
        (SOUND, "write", Page("a"), "ENXIO", True, 0),
        (SOUND, "read", Page("a"), "ENXIO", True, 0),
        (SOUND, "read", 0x100000, "ENXIO", True, 0),
        (SOUND, "write", Page("a"), "EFAULT", True, 0),
        (SOUND, "none", Page("a"), "EFAULT", False, 0),
        (SOUND, "write", 0, "EFAULT", False, 0),
        (SOUND, "write", Page("a"), "EPERM", False, 0),
        (SOUND, "write", Page("a"), "ENOMEM", False, 0),
        ({**SOUND, "argsz": 31}, "write", Page("a"), "EINVAL", False, 0),
        ({**SOUND, "flags": 4}, "write", Page("a"), "EINVAL", False, 0),
        ({**SOUND, "flags": ONE.container}, "write", Page("a"), "EINVAL", False, 1),
        (SOUND, "write", Page("a", 4), "EINVAL", False, 1),
        (SOUND, "none", Page("a"), "EINVAL", False, 1),
        (SOUND, "write", 0, "EINVAL", False, 1),
    ],
)
def test_a_map_that_failed_by_its_structs_address_made_the_window_if_the_struct_was_sound(
    stage, *, fields, access, value, errno, made, reasons
):
    stage.do_all(*b.enable(ONE), Put(buffer="a", request="MAP_DMA", fields=fields), Protect(buffer="a", access=access))
    stage.do(Ioctl(file=ONE.container, request="MAP_DMA", value=value), Outcome(errno=errno))
    assert stage.fold.charge() == WINDOW + (TABLE if made else 0)
    assert ["may have made the default window" in reason for reason in stage.fold.unknown] == [True] * reasons


def test_a_window_that_was_made_stays_whatever_fails_afterwards(stage):
    stage.do_all(*b.enable(ONE))
    stage.map()
    for fields, value in (({"argsz": 3}, None), ({}, Page("a", 9)), ({}, 5)):
        stage.do(Ioctl(file=ONE.container, request="MAP_DMA", fields=fields, value=value), Outcome(errno="EINVAL"))
    assert (stage.fold.charge(), stage.fold.unknown) == (WINDOW + TABLE, [])


def test_a_place_below_its_buffer_leads_to_no_page_of_it(stage):
    stage.do_all(*b.enable(ONE))
    stage.map(vaddr=Page("a", -1), frames=(0x5000, 0x6000))
    entries = stage.fold.tables[FIRST].live
    assert entries[0].page is None
    assert entries[1].page is stage.fold.buffers["a"].pages[0]
