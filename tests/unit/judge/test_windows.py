"""Dynamic windows as the judge keeps them: which there are, what is mapped in each, what they cost, and each lie."""

from dataclasses import replace

import numpy as np
import pytest
from ideal import NONCE
from msgspec import structs
from story import FIRST, ONE, SECOND, SMALL, TWO

from tcelab.judge import Judge
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.tablemodel import TableModel
from tcelab.papr import window
from tcelab.program import Checkpoint, Close, Ddw, Exit, Ioctl, Page, Program, Read, Spawn, Tag
from tcelab.program.pagetags import compact, data, tag
from tcelab.run.record import Facts, Outcome, Refusal, Snapshot, Step, TableView
from tcelab.scenarios import vocabulary as b

OK = Outcome(value=0)
PAGE, HIGH = 4096, FIRST | 1
START = window.SECOND_START
SIZE = 16 << 20
BASE = 0x4000000
"""Guest physical address of the buffer, whose pages lie one after the other."""
PAGES = 64


def refused(errno):
    return Outcome(errno=errno)


class Stage:
    """A judge, fed by hand: a container on PE 1, a buffer `a` of 64 pages at 0x100000, all registered if it is of
    type v2.
    """

    def __init__(self, page_size=PAGE, kind=b.SPAPR_TCE_V2):
        self.facts = Facts("i", NONCE, page_size, 1 << 28, {}, {})
        self.program = Program(name="p", topology=SMALL, ops=[Checkpoint()] * 200)
        self.judge = Judge(self.program, self.facts)
        self.number = -1
        self.do(b.buffer("a", PAGES, 0)[0], Outcome(value=0x100000))
        self.do(b.buffer("a", PAGES, 0)[1], Outcome(value=0, frames=[BASE + i * PAGE for i in range(PAGES)]))
        for op in b.open_container(ONE, kind):
            if getattr(op, "request", "") not in {"CHECK_EXTENSION", "GROUP_GET_STATUS"}:
                self.do(op)
        if kind == b.SPAPR_TCE:
            self.ask("ENABLE")
        else:
            self.ask("SPAPR_REGISTER_MEMORY", vaddr=Page("a"), size=PAGES * PAGE)

    @property
    def fold(self) -> Fold:
        return self.judge.fold

    def do(self, op, outcome=OK):
        self.number += 1
        self.judge.feed(Step(self.number, op, outcome))

    def ask(self, request, outcome=OK, by="", **fields):
        self.do(Ioctl(file=ONE.container, request=request, fields=fields, by=by), outcome)

    def create(self, shift=16, size=SIZE, start=START):
        self.ask("SPAPR_TCE_CREATE", Outcome(value=0, fields={"start_addr": start}), page_shift=shift, window_size=size)

    def map(self, iova, page=0, pages=16, flags=3):
        frames = [BASE + (page + i) * PAGE for i in range(pages)]
        fields = {"flags": flags, "vaddr": Page("a", page), "iova": iova, "size": pages * PAGE}
        self.ask("MAP_DMA", Outcome(value=0, frames=frames), **fields)

    def unmap(self, iova, pages=16):
        self.ask("UNMAP_DMA", iova=iova, size=pages * PAGE)

    def live(self, liobn=HIGH):
        table = self.fold.tables[liobn]
        return {number: entry.tce for number, entry in sorted(table.live.items())}

    def shape(self, liobn=HIGH):
        table = self.fold.tables[liobn]
        return table.entries, table.page_shift, table.start

    def snapshot(self, **changes):
        """All as the fold has it, and every page of the buffer as the judge has it."""
        tables = []
        for table in self.fold.tables.values():
            tables += [
                TableView(table.liobn, view, table.entries, *table.arrays(), table.page_shift, table.start)
                for view in ("live", "stream")
            ]
        pages = {page.frame: page.content for page in self.fold.buffers["a"].pages}
        return replace(Snapshot(tuple(tables), {}, pages, ()), **changes)

    def look(self, change=lambda snapshot: snapshot):
        """A checkpoint: the findings that it gives."""
        self.number += 1
        self.judge.feed(Step(self.number, Checkpoint(stream=True), snapshot=change(self.snapshot())))
        found, self.judge.ledger.findings = self.judge.ledger.findings, []
        return [(each.law, each.liobn, each.ioba) for each in found]


@pytest.fixture
def stage():
    return Stage()


def test_a_window_is_of_the_size_page_size_and_place_that_it_was_made_with(stage):
    stage.create(shift=21, size=1 << 30)
    assert stage.shape() == (512, 21, START)
    assert stage.shape(FIRST) == (1024, 12, 0)
    stage.ask("SPAPR_TCE_REMOVE", start_addr=START + (1 << 30) - 1)
    assert HIGH not in stage.fold.tables, "any address in it names a window"


def test_a_map_goes_to_the_window_that_has_its_address_with_an_entry_for_each_of_its_pages(stage):
    stage.create()
    stage.map(START + (7 << 16), page=16, pages=32)
    stage.map(0x5000, page=3, pages=2, flags=1)
    assert stage.live() == {7: BASE + 16 * PAGE | 3, 8: BASE + 32 * PAGE | 3}
    assert stage.live(FIRST) == {5: BASE + 3 * PAGE | 1, 6: BASE + 4 * PAGE | 1}
    entry = stage.fold.tables[HIGH].live[8]
    assert [entry.page_at(i) for i in range(16)] == stage.fold.buffers["a"].pages[32:48]
    stage.unmap(START + (8 << 16))
    assert [*stage.live()] == [7]
    stage.unmap(0x5000, pages=1)
    assert ([*stage.live()], [*stage.live(FIRST)]) == ([7], [6])


def test_whatever_the_window_that_was_removed_had_is_gone(stage):
    stage.create()
    stage.map(START)
    stage.map(0, pages=1)
    stage.ask("SPAPR_TCE_REMOVE", start_addr=START)
    stage.create()
    assert (stage.live(), [*stage.live(FIRST)]) == ({}, [0])
    stage.ask("SPAPR_TCE_REMOVE", start_addr=0)
    assert stage.live(FIRST) == {}
    assert stage.shape(FIRST) == (1024, 12, 0), "the platform keeps the table, empty"


def test_a_low_window_that_is_made_again_is_the_platforms_whole_one(stage):
    stage.map(0, pages=1)
    stage.ask("SPAPR_TCE_REMOVE", start_addr=0x1000)
    stage.create(shift=12, size=1 << 20, start=0)
    assert stage.shape(FIRST) == (1024, 12, 0)
    stage.map((1 << 20) - PAGE, pages=1)
    assert [*stage.live(FIRST)] == [255]
    assert stage.fold.charge() == PAGES * 4 + 0, "256 entries fill half a page, and nobody pays for that"


def test_whatever_window_is_said_to_be_made_where_the_platforms_is_must_be_that(stage):
    stage.create(start=0)
    assert stage.shape(FIRST) == (1024, 12, 0)


def test_all_is_as_at_the_start_once_the_container_is_closed(stage):
    stage.create()
    stage.map(START)
    stage.map(0, pages=1)
    stage.do(Close(file=ONE.group))
    assert [*stage.fold.tables] == [0x80000000, FIRST, SECOND, 0x80001E00]
    assert (stage.live(FIRST), stage.fold.charge(), stage.fold.live) == ({}, 0, 0)


# -- the default window of a container


def test_the_first_window_that_is_made_makes_the_default_one_too_even_if_it_fails(stage):
    assert stage.fold.charge() == 256
    stage.ask("SPAPR_TCE_CREATE", refused("ENOSPC"), page_shift=12, window_size=SIZE)
    assert stage.fold.charge() == 256 + 8


@pytest.mark.parametrize(
    ("fields", "errno"), [({"argsz": 39}, "EINVAL"), ({"flags": 1}, "EINVAL"), ({}, "ENXIO"), ({}, "EFAULT")]
)
def test_one_that_was_refused_for_its_struct_makes_nothing(stage, fields, errno):
    stage.ask("SPAPR_TCE_CREATE", refused(errno), **fields)
    assert stage.fold.charge() == 256


def test_a_default_window_that_was_removed_before_it_was_made_is_never_made(stage):
    stage.ask("SPAPR_TCE_REMOVE", start_addr=0)
    stage.ask("MAP_DMA", refused("ENXIO"), flags=3, vaddr=Page("a"), iova=0, size=PAGE)
    assert stage.fold.charge() == 256
    stage.create()
    assert stage.fold.charge() == 256, "256 entries fill half a page"
    assert stage.shape() == (256, 16, START)


# -- what it costs


@pytest.mark.parametrize(
    ("shift", "size", "page_size", "cost"),
    [
        (12, 1 << 30, PAGE, 2048),
        (16, 1 << 30, PAGE, 128),
        (21, 1 << 30, PAGE, 4),
        (24, 1 << 30, PAGE, 0),
        (12, 1 << 30, 1 << 16, 2048),
        (16, 1 << 30, 1 << 16, 128),
        (21, 1 << 30, 1 << 16, 0),
    ],
)
def test_registered_memory_and_the_table_of_each_window_are_charged_in_whole_pages(shift, size, page_size, cost):
    stage = Stage(page_size)
    default = 8 if page_size == PAGE else 0
    stage.map(0, pages=1)
    assert stage.fold.charge() == 256 + default
    stage.create(shift, size)
    assert stage.fold.charge() == 256 + default + cost
    stage.ask("SPAPR_TCE_REMOVE", start_addr=START)
    assert stage.fold.charge() == 256 + default
    stage.unmap(0, pages=1)
    stage.ask("SPAPR_UNREGISTER_MEMORY", vaddr=Page("a"), size=PAGES * PAGE)
    assert stage.fold.charge() == default


def test_a_page_is_pinned_once_it_is_registered_mapped_or_not(stage):
    assert stage.fold.live == PAGES
    stage.create()
    stage.map(START)
    stage.map(0, pages=4)
    assert stage.fold.live == PAGES
    assert Stage(1 << 16).fold.live == PAGES // 16, "by pages of the CPU"
    stage.ask("SPAPR_REGISTER_MEMORY", refused("EBUSY"), vaddr=Page("a"), size=PAGES * PAGE)
    assert stage.fold.live == PAGES


def test_memory_that_is_unregistered_while_an_entry_leads_to_it_stays_until_its_process_ends(stage):
    stage.do(Spawn(process="c"))
    stage.create()
    stage.map(START)
    stage.ask("SPAPR_UNREGISTER_MEMORY", vaddr=Page("a"), size=PAGES * PAGE)
    assert (stage.fold.charge(), stage.fold.live) == (256 + 8, PAGES)
    stage.do(Close(file=ONE.group))
    stage.do(Exit(process="c"))
    assert (stage.fold.charge(), stage.fold.live) == (256, PAGES)


def test_what_a_failed_window_left_in_the_charges_is_the_new_zero_point_once(stage):
    stage.do(Read(what="vmlck"), Outcome(value=256))
    stage.ask("SPAPR_TCE_CREATE", refused("EINVAL"), page_shift=12, window_size=3 << 20)
    stage.do(Read(what="vmlck"), Outcome(value=99999))
    assert stage.judge.findings == 0
    stage.do(Read(what="vmlck"), Outcome(value=99999))
    assert stage.judge.findings == 0
    stage.do(Read(what="vmlck"), Outcome(value=99998))
    assert [each.law for each in stage.judge.ledger.findings] == ["charges"]


def test_who_paid_for_it_is_asked(stage):
    stage.do(Spawn(process="c"))
    stage.ask(
        "SPAPR_TCE_CREATE", Outcome(value=0, fields={"start_addr": START}), by="c", page_shift=12, window_size=1 << 30
    )
    assert (stage.fold.charge(), stage.fold.charge("c")) == (256 + 8 + 2048, 0)


# -- firmware


def ddw(call, fields=None, value=0, device="pe2", **more):
    return Ddw(call=call, device=device, **more), Outcome(value=value, fields=fields or {})


def test_windows_that_firmware_makes_and_drops_are_followed(stage):
    stage.do(*ddw("create", {"liobn": SECOND | 1, "start": START}, page_shift=16, window_shift=28))
    assert stage.shape(SECOND | 1) == (4096, 16, START)
    stage.do(*ddw("remove", liobn=SECOND))
    assert SECOND not in stage.fold.tables
    stage.do(*ddw("remove", liobn=SECOND | 1))
    assert stage.shape(SECOND) == (1024, 12, 0), "the last one that is not the default one brings that back"
    stage.do(*ddw("remove", liobn=SECOND))
    stage.do(*ddw("create", {"liobn": SECOND, "start": 0}, page_shift=21, window_shift=30))
    assert stage.shape(SECOND) == (512, 21, 0)
    stage.do(*ddw("create", value=-1, page_shift=12, window_shift=30))
    stage.do(*ddw("query", {"left": 1}))
    assert stage.look() == []
    stage.do(*ddw("reset"))
    assert stage.shape(SECOND) == (1024, 12, 0)
    assert [*stage.fold.tables].count(SECOND | 1) == 0
    assert (stage.look(), stage.fold.unknown) == ([], [])


@pytest.mark.parametrize(
    "step",
    [
        ddw("remove", liobn=FIRST),
        ddw("create", page_shift=16, window_shift=28),
        ddw("create", {"liobn": FIRST | 1, "start": 0}, page_shift=16, window_shift=28),
        ddw("create", {"liobn": SECOND, "start": 0}, page_shift=16, window_shift=28),
        ddw("reset", device="pe1"),
    ],
    ids=["of another PE", "told nothing", "in another PE", "where there is one", "behind a container's back"],
)
def test_what_nobody_can_follow_is_said(stage, step):
    stage.do(*step)
    assert len(stage.fold.unknown) == 1


@pytest.mark.parametrize("calls", [["reset"], ["remove"], ["remove", "reset"], ["reset", "reset", "remove", "reset"]])
def test_what_firmware_takes_from_a_container_of_type_v1_is_gone_and_its_pins_are_lost(calls):
    stage = Stage(kind=b.SPAPR_TCE)
    stage.map(0, pages=3)
    stage.map(0x9000, pages=1)
    assert stage.fold.live == 4
    for call in calls:
        stage.do(*ddw(call, device="pe1", liobn=FIRST if call == "remove" else 0))
    gone = calls[-1] == "remove"
    assert (FIRST in stage.fold.tables) != gone
    assert gone or stage.live(FIRST) == {}
    assert (stage.fold.live, stage.fold.unknown) == (4, [])
    assert stage.look() == []


def test_what_is_mapped_after_that_is_in_the_table_that_firmware_made():
    stage = Stage(kind=b.SPAPR_TCE)
    stage.map(0, pages=3)
    stage.do(*ddw("remove", device="pe1", liobn=FIRST))
    stage.do(*ddw("reset", device="pe1"))
    stage.map(0x1000, page=5, pages=1)
    assert stage.live(FIRST) == {1: BASE + 5 * PAGE | 3}
    assert stage.fold.live == 4
    stage.unmap(0, pages=3)
    assert (stage.live(FIRST), stage.fold.live) == ({}, 3), "of those that are gone nobody knows any more"
    charge = stage.fold.charge()
    stage.do(Close(file=ONE.group))
    assert (stage.fold.live, stage.fold.charge(), charge) == (3, 0, 4096 + 8)


def test_of_what_firmware_takes_from_a_container_of_type_v2_nobody_knows_all():
    stage = Stage()
    stage.do(*ddw("remove", device="pe1", liobn=FIRST))
    assert len(stage.fold.unknown) == 1
    stage.do(*ddw("query", {"left": 1}, device="pe1"))
    assert len(stage.fold.unknown) == 1


def test_a_window_that_firmware_makes_beside_that_of_a_container_of_type_v1_is_not_followed():
    stage = Stage(kind=b.SPAPR_TCE)
    stage.do(*ddw("create", {"liobn": HIGH, "start": START}, device="pe1", page_shift=16, window_shift=28))
    assert len(stage.fold.unknown) == 1


def test_a_container_that_makes_its_default_window_drops_what_firmware_had_made():
    stage = Stage()
    stage.fold.windows[1].make(HIGH, window.Shape(256, 16, START))
    stage.map(0, pages=1)
    assert HIGH not in stage.fold.tables


def test_a_device_meets_a_low_window_of_large_pages_in_its_whole_size(stage):
    stage.do(*ddw("remove", liobn=SECOND))
    stage.do(*ddw("create", {"liobn": SECOND, "start": 0}, page_shift=21, window_shift=30))
    windows = stage.fold.windows[2]
    reasons = [
        windows.pieces(iova, 64, to_memory=True, master=True, isolated=False)[0] for iova in ((1 << 30) - 64, 1 << 30)
    ]
    assert [(each.refused, each.entry) for each in reasons] == [("no entry", 511), ("outside the window", 512)]


def test_whoever_makes_the_default_window_pays_for_it_even_if_no_other_comes_of_it():
    stage = Stage()
    stage.do(Spawn(process="c"))
    for op in b.open_container(TWO, b.SPAPR_TCE_V2):
        if getattr(op, "request", "") not in {"CHECK_EXTENSION", "GROUP_GET_STATUS"}:
            stage.do(structs.replace(op, by="c"))
    fields = {"page_shift": 12, "window_size": SIZE}
    stage.do(Ioctl(file=TWO.container, request="SPAPR_TCE_CREATE", fields=fields, by="c"), refused("ENOSPC"))
    assert (stage.fold.charge(), stage.fold.charge("c")) == (256, 8)


# -- lies


def tables(liobn, change):
    """A view's table of one LIOBN is another."""
    return lambda s: replace(s, tables=tuple(change(t) if t.liobn == liobn else t for t in s.tables))


def without(liobn):
    return lambda s: replace(s, tables=tuple(t for t in s.tables if t.liobn != liobn))


def with_entry(number, tce):
    def change(table):
        live = dict(zip(table.index.tolist(), table.tce.tolist(), strict=True)) | {number: tce}
        live = {at: live[at] for at in sorted(live) if live[at]}
        return replace(table, index=np.array([*live], np.uint32), tce=np.array([*live.values()], np.uint64))

    return change


def moved(s):
    """The entry is in the other window, at the same number."""
    return tables(FIRST, with_entry(7, BASE | 3))(tables(HIGH, with_entry(7, 0))(s))


PLACE = START + (7 << 16)
LIES = {
    "the window is missing": (without(HIGH), [("inventory", HIGH, None)]),
    "it has smaller pages": (tables(HIGH, lambda t: replace(t, page_shift=12)), [("inventory", HIGH, None)]),
    "it lies elsewhere": (tables(HIGH, lambda t: replace(t, bus_offset=1 << 58)), [("inventory", HIGH, None)]),
    "it is smaller": (tables(HIGH, lambda t: replace(t, entries=128)), [("inventory", HIGH, None)]),
    "there is another one": (
        lambda s: replace(s, tables=(*s.tables, replace(s.tables[-1], liobn=SECOND | 1))),
        [("inventory", SECOND | 1, None)],
    ),
    "the entry is missing": (tables(HIGH, with_entry(7, 0)), [("table", HIGH, PLACE)]),
    "the entry is in the wrong window": (moved, [("table", FIRST, 0x7000), ("table", HIGH, PLACE)]),
    "the entry leads to the page beside": (tables(HIGH, with_entry(7, BASE + 0x10000 | 3)), [("table", HIGH, PLACE)]),
    "the last 4 KiB of the page hold something else": (
        lambda s: replace(s, pages=s.pages | {BASE + 15 * PAGE: compact(bytes(PAGE))}),
        [("tag", HIGH, PLACE + 15 * PAGE)],
    ),
    "two parts of the page have changed places": (
        lambda s: replace(s, pages=s.pages | {BASE + i * PAGE: s.pages[BASE + j * PAGE] for i, j in ((3, 4), (4, 3))}),
        [("tag", HIGH, PLACE + 3 * PAGE), ("tag", HIGH, PLACE + 4 * PAGE)],
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_about_a_window_is_found_by_the_law_that_it_breaks(stage, lie):
    stage.create()
    stage.do(Tag(buffer="a", first=0, count=16, liobn=HIGH, ioba=PLACE, sequence=1))
    stage.map(PLACE)
    assert stage.look() == []
    assert stage.judge.ledger.evidence.tags == 16
    change, found = LIES[lie]
    assert sorted(set(stage.look(change)), key=str) == sorted(found, key=str)


def test_a_window_that_was_removed_and_is_still_there_is_found(stage):
    stage.create()
    before = stage.snapshot()
    stage.ask("SPAPR_TCE_REMOVE", start_addr=START)
    assert set(stage.look(lambda s: replace(s, tables=before.tables))) == {("inventory", HIGH, None)}


# -- the device


def test_a_device_reads_and_writes_in_either_window_and_is_refused_beside_them(stage):
    stage.create()
    for op in b.open_device(ONE):
        stage.do(op, Outcome(value=11 if isinstance(op, Ioctl) else 6))
    stage.do(Tag(buffer="a", first=0, count=16, liobn=HIGH, ioba=PLACE, sequence=1))
    stage.map(PLACE, flags=1)
    stage.map(0x4000, page=20, pages=1, flags=2)
    for iova, to_memory in ((PLACE + 9 * PAGE, False), (0x4000, True)):
        stage.do(*b.dma(ONE, iova, 128, to_memory=to_memory))
    assert stage.fold.buffers["a"].pages[20].read(0, 64) == tag(NONCE, HIGH, PLACE + 9 * PAGE, 1)
    beside = [
        (PLACE, True, "permission", (7 << 16)),
        (PLACE + 0x10000, False, "no entry", (8 << 16)),
        (START + SIZE, True, "outside the window", START + SIZE),
        (START - 64, True, "outside the window", START - 64),
    ]
    for iova, to_memory, _, _ in beside:
        stage.do(*b.dma(ONE, iova, 64, to_memory=to_memory))
    told = [(each.liobn, each.iova, each.reason, each.told) for each in stage.fold.transfers.forbidden]
    assert told == [(FIRST if why == "outside the window" else HIGH, iova, why, at) for iova, _, why, at in beside], (
        "what the table refuses is told by its place in the window"
    )
    said = tuple(Refusal("write" if to else "read", at, 64, "refused") for _, to, _, at in beside)
    assert stage.look(lambda s: replace(s, refusals=said)) == []


def test_a_write_over_the_middle_of_a_large_page_changes_two_of_its_parts(stage):
    stage.create()
    for op in b.open_device(ONE):
        stage.do(op, Outcome(value=11 if isinstance(op, Ioctl) else 6))
    stage.map(PLACE)
    stage.do(*b.fill(Page("a"), 256, 3))
    stage.do(*b.dma(ONE, PLACE, 256, to_memory=False))
    stage.do(*b.dma(ONE, PLACE + 5 * PAGE - 128, 256, to_memory=True))
    pages = stage.fold.buffers["a"].pages
    assert pages[4].read(PAGE - 128, 128) + pages[5].read(0, 128) == data(NONCE, 3, 256)


def test_an_entry_of_small_pages_has_no_other_parts():
    table = TableModel(FIRST, 16)
    assert (table.page_number(0x5FFF), TableModel(FIRST, 16, 0, 16).page_number(0x5FFF)) == (0, 5)


def test_a_container_of_type_v2_on_the_other_pe_does_not_count_here(stage):
    for op in b.open_container(TWO):
        stage.do(op)
    stage.create()
    stage.do(Ioctl(file=TWO.container, request="ENABLE"))
    assert stage.fold.charge() == 256 + 8 + 4096
