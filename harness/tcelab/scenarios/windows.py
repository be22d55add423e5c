"""`windows`: windows that a program makes and removes itself, with pages of 4 KiB, 64 KiB and 2 MiB, above 2^59.

A v2 container registers memory and creates one window after the other. In each, the device transfers data both ways;
beside it, and where an entry or a window was just removed, it is refused. Each transfer from a readable page copies the
page's tag over other data. On the last PE, firmware creates windows from outside, which no kernel owns; in the end it
removes the default one, with all its entries, from a v1 container.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tcelab.errors import UsageError
from tcelab.papr import tce, window
from tcelab.program import Buffer as BufferOp
from tcelab.program import Frames, Op, Page
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE, Pe

TOPOLOGIES: Final = ("two-small",)
SHIFTS: Final = (12, 16, 21)
"""Of the IOMMU pages of the windows that are made."""
SIZE: Final = 1 << 28
"""Bytes of each of them."""
HIGH: Final = window.SECOND_START
HUGE: Final = 512
"""Pages of a huge page."""
SMALL: Final = 64
"""Pages of the buffer in ordinary pages: a whole number of pages of any kernel."""
LENGTH: Final = 1024
"""Bytes of a transfer."""
LEAST_ENTRIES: Final = 64
NO_WINDOW: Final = -1
NO_SUCH: Final = -3
"""Statuses of firmware: there is no window left; a parameter is wrong."""


@dataclass(slots=True)
class WindowStory:
    """Of one PE with a container of type v2."""

    pe: Pe
    rng: random.Random
    seeds: Iterator[int]
    ops: list[Op] = field(default_factory=list)

    @property
    def small(self) -> str:
        return f"windows-{self.pe.name}"

    @property
    def huge(self) -> str:
        return f"windows-{self.pe.name}-huge"

    def ask(self, request: str, expect: str | int | None = "ok", **fields: int | Page) -> None:
        self.ops += b.ask(self.pe, request, expect, **fields)

    def map(self, page: Page, iova: int, size: int, flags: int = tce.PERMISSIONS, expect: str | None = "ok") -> None:
        self.ask("MAP_DMA", expect, flags=flags, vaddr=page, iova=iova, size=size)

    def tag(self, page: Page, iova: int, count: int = 1, *, second: bool = False) -> None:
        liobn = self.pe.liobn | second
        self.ops += b.tag(page, count, liobn, iova, next(self.seeds))

    def create(self, shift: int, size: int, expect: str = "ok", **fields: int) -> None:
        self.ask("SPAPR_TCE_CREATE", expect, page_shift=shift, window_size=size, **{"levels": 1, **fields})

    def counters(self) -> None:
        self.ops += [*b.vmlck(), *b.pins()]

    def look(self, label: str) -> None:
        self.counters()
        self.ops += b.checkpoint(f"windows: {self.pe.name}: {label}", stream=True)

    def read(self, iova: int) -> None:
        """The device reads memory."""
        self.ops += b.dma(self.pe, iova, LENGTH, to_memory=False)

    def write(self, iova: int) -> None:
        """The device writes memory."""
        self.ops += b.dma(self.pe, iova, LENGTH, to_memory=True)


def ops(topology: Topology, seed: int) -> list[Op]:
    """:raise UsageError: a window has fewer than `LEAST_ENTRIES` entries."""
    pes = b.pes(topology, "windows")
    if short := next((pe for pe in pes if pe.entries < LEAST_ENTRIES), None):
        raise UsageError(
            f"scenario windows needs windows of at least {LEAST_ENTRIES} entries, {short.name} has {short.entries}"
        )
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    story = WindowStory(pes[0], rng, itertools.count(rng.randrange(1 << 30)))
    story.counters()
    if len(pes) == 1:
        story.ops += _firmware(pes[0])
    _set_up(story)
    for shift in SHIFTS:
        _window(story, shift)
        if shift == SHIFTS[0] and len(pes) > 1:
            story.ops += _firmware(pes[-1])
    _low(story)
    _end(story)
    return story.ops


def _firmware(pe: Pe) -> list[Op]:
    """Firmware alone creates and removes windows; the PE's kernel does not use them."""
    first, second = pe.liobn, pe.liobn | 1
    out: list[Op] = []

    def then(label: str, ops: list[Op]) -> None:
        out.extend([*ops, *b.ddw(pe, "query"), *b.checkpoint(f"windows: firmware: {label}", stream=True)])

    then("at first", [])
    then("64 KiB pages", b.ddw(pe, "create", page_shift=16, window_shift=28))
    then("a third one", b.ddw(pe, "create", NO_WINDOW, page_shift=12, window_shift=24))
    then("removed", [*b.ddw(pe, "remove", liobn=second), *b.ddw(pe, "remove", NO_SUCH, liobn=second)])
    wrong = [(13, 24), (16, 15), (0, 24), (25, 28)]
    refused = [op for shift, size in wrong for op in b.ddw(pe, "create", NO_SUCH, page_shift=shift, window_shift=size)]
    then("refused", [*refused, *b.ddw(pe, "remove", NO_SUCH, liobn=window.liobn(29, 1))])
    then("none", b.ddw(pe, "remove", liobn=first))
    then("2 MiB pages at the low end", b.ddw(pe, "create", page_shift=21, window_shift=28))
    then("16 MiB pages beside them", b.ddw(pe, "create", page_shift=24, window_shift=28))
    then("reset", b.ddw(pe, "reset"))
    return out


def _set_up(story: WindowStory) -> None:
    pe = story.pe
    huge = BufferOp(name=story.huge, pages=2 * HUGE, seed=1, huge=True, expect="ok")
    story.ops += [*b.buffer(story.small, SMALL, story.rng.randrange(1 << 30)), huge]
    story.ops += [Frames(buffer=story.huge, expect="ok"), *b.bind(pe), *b.open_container(pe, b.SPAPR_TCE_V2)]
    story.ask("SPAPR_TCE_GET_INFO_DDW")
    story.ask("ENABLE", "ENOTTY")
    story.map(Page(story.small), pe.start, PAGE, expect="EPERM")
    story.ask("SPAPR_REGISTER_MEMORY", "EINVAL", vaddr=Page(story.small, plus=1), size=SMALL * PAGE)
    story.ask("SPAPR_REGISTER_MEMORY", vaddr=Page(story.small), size=SMALL * PAGE)
    story.ask("SPAPR_REGISTER_MEMORY", "EBUSY", vaddr=Page(story.small), size=SMALL * PAGE)
    story.counters()
    story.ask("SPAPR_REGISTER_MEMORY", vaddr=Page(story.huge), size=2 * HUGE * PAGE)
    story.counters()
    # One page stays mapped in the low window while the others come and go.
    story.tag(Page(story.small), pe.start)
    story.map(Page(story.small), pe.start, PAGE, tce.READ)
    story.ops += b.open_device(pe)
    story.look("memory is registered, and the low window made")


def _window(story: WindowStory, shift: int) -> None:
    """A window above 2^59, with two of its pages mapped: the device may read one and write the other."""
    unit = 1 << shift
    name = {12: "4 KiB", 16: "64 KiB", 21: "2 MiB"}[shift]
    count = unit // PAGE
    source, sink = (HIGH + number * unit for number in _numbers(SIZE // unit, story.rng))
    one, other = Page(story.huge), Page(story.huge, HUGE)
    story.create(shift, SIZE)
    story.create(shift, SIZE, "ENOSPC")
    story.look(f"a window with pages of {name}")
    story.tag(one, source, count, second=True)
    story.ops += b.fill(other, unit, next(story.seeds))
    story.map(one, source, unit, tce.READ)
    story.map(other, sink, unit, tce.WRITE)
    story.map(one, HIGH + SIZE, unit, expect="ENXIO")
    if count > 1:
        story.map(one, source, PAGE, expect="EINVAL")
        story.map(Page(story.huge, 1), source, unit, expect="EINVAL")
        # A kernel whose own pages are that large permits it.
        story.map(Page(story.small), HIGH, unit, expect=None)
        story.ask("UNMAP_DMA", iova=HIGH, size=unit)
    story.look(f"mapped, {name}")
    _transfers(story, source, sink, unit)
    story.read(source)
    story.ask("UNMAP_DMA", iova=source, size=unit)
    story.read(source)
    story.write(source)
    story.write(sink)
    story.look(f"unmapped, {name}")
    # The other page is still mapped, and the device used it last.
    story.ops += b.fill(other, LENGTH, next(story.seeds))
    story.ask("SPAPR_TCE_REMOVE", start_addr=HIGH)
    story.write(sink)
    story.ask("SPAPR_TCE_REMOVE", "EINVAL", start_addr=HIGH)
    story.map(other, sink, unit, expect="ENXIO")
    story.look(f"removed, {name}")


def _numbers(pages: int, rng: random.Random) -> tuple[int, int]:
    """Of two pages of a window, with more than one between them: a bit of the number that is set in one is not in the
    other, so that each is asked for both ways.
    """
    while True:
        number = rng.randrange(2, pages - 2)
        other = number ^ pages - 1
        if abs(number - other) > 2:  # noqa: PLR2004 - a hole, and one before the other page
            return number, other


def _transfers(story: WindowStory, source: int, sink: int, unit: int) -> None:
    """Permitted transfers pass, also from the last bytes of a page; those beside them are refused."""
    for at in (0, unit - LENGTH):
        story.read(source + at)
        story.write(sink + at)
    story.read(story.pe.start)
    story.write(sink + unit // 2)
    story.look("memory to device to memory")
    hole = source + unit
    story.read(story.pe.start)
    for iova in (source, hole, source + unit - LENGTH // 2, sink - LENGTH // 2, HIGH + SIZE, HIGH - LENGTH):
        story.write(iova)
    for iova in (sink, hole, HIGH + SIZE - LENGTH // 2):
        story.read(iova)
        story.write(sink)
    story.look("refused")


def _low(story: WindowStory) -> None:
    """The low window is removed, and created again with half its size."""
    pe, half = story.pe, story.pe.phb.window_size // 2
    page = Page(story.small, 1)
    story.ask("SPAPR_TCE_REMOVE", start_addr=pe.start)
    story.ask("SPAPR_TCE_REMOVE", "EINVAL", start_addr=pe.start)
    story.map(page, pe.start, PAGE, expect="ENXIO")
    story.write(pe.start)
    story.look("no window")
    story.create(window.PAGE_SHIFT, half)
    last = pe.start + half - PAGE
    for number, iova in enumerate((pe.start, last), 1):
        story.tag(Page(story.small, number), iova)
        story.map(Page(story.small, number), iova, PAGE, tce.READ)
    story.ops += b.fill(Page(story.small, 3), PAGE, next(story.seeds))
    story.map(Page(story.small, 3), last - PAGE, PAGE, tce.WRITE)
    story.map(page, pe.start + half, PAGE, expect="ENXIO")
    story.read(last)
    story.write(last - PAGE)
    story.write(last)
    story.write(pe.start + half)
    story.create(16, SIZE)
    story.map(Page(story.huge), HIGH, 1 << 16)
    story.look("half a low window, and one beside it")
    story.ask("SPAPR_TCE_REMOVE", start_addr=HIGH + SIZE - 1)


def _end(story: WindowStory) -> None:
    """What is refused, and what is left once all is closed."""
    pe = story.pe
    story.create(13, SIZE, "EINVAL")
    story.create(12, SIZE, "EINVAL", flags=1)
    story.create(12, SIZE, "EINVAL", argsz=39)
    story.ask("SPAPR_TCE_REMOVE", "EINVAL", start_addr=HIGH)
    story.look("refused")
    story.ask("SPAPR_UNREGISTER_MEMORY", "ENOENT", vaddr=Page(story.huge), size=HUGE * PAGE)
    story.ask("SPAPR_UNREGISTER_MEMORY", vaddr=Page(story.huge), size=2 * HUGE * PAGE)
    story.counters()
    # The driver keeps the charge of a table that firmware then refuses.
    story.create(16, 3 << 20, "EINVAL")
    story.counters()
    used = pe.start + pe.phb.window_size // 2 - 2 * PAGE
    story.write(used)
    story.ops += b.fill(Page(story.small, 3), LENGTH, next(story.seeds))
    story.ops += b.let_go(pe)
    story.look("closed")
    again = Pe(pe.phb, "windows-again")
    story.pe = again
    story.ops += [*b.open_container(again), *b.enable(again), *b.open_device(again)]
    last = again.end - PAGE
    story.tag(Page(story.small, 4), last)
    story.map(Page(story.small, 4), last, PAGE)
    story.write(used)
    story.look("the default window, as it was")
    _taken(story, last)
    story.ops += b.let_go(again)
    story.look("end")


def _taken(story: WindowStory, used: int) -> None:
    """Firmware removes the window with all its entries, and resets it: the entries do not come back. The page pins of
    its entries are lost for good.

    :param used: bus address of page 4 of the small buffer, which the device may write.
    """
    story.write(used)
    story.ops += [*b.fill(Page(story.small, 4), LENGTH, next(story.seeds))]
    story.ops += b.ddw(story.pe, "remove", liobn=story.pe.liobn)
    story.write(used)
    story.look("taken by firmware")
    story.ops += b.ddw(story.pe, "reset")
    story.write(used)
    story.look("given back by firmware, empty")
