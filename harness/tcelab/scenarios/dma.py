"""`dma`: the device carries unique data through the table where it may, and is refused everywhere else.

Every page has a bus address of its own, whether it is mapped or not: page i of the buffer belongs to entry
`base + i`. Pages that are not mapped are canaries. What a refused read gave the device is sent on to a mapped page
that held other data, so that guest RAM proves it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tcelab.errors import UsageError
from tcelab.papr import tce
from tcelab.program import Op, Page
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE, Pe
from tcelab.topology import Topology

SIZE: Final = 1024
"""Bytes of a transfer."""

SOURCE, SINK, ONLY_READ, ONLY_WRITE, GONE, BEFORE, HOLE, AFTER, PAGES = 1, 3, 5, 7, 9, 11, 12, 13, 15
"""Pages of the buffer by their part in the story; those between them are canaries that are never mapped."""

LAST: Final = PAGES
"""One page more, mapped at the window's last entry."""

LEAST_ENTRIES: Final = 64


@dataclass(slots=True)
class Story:
    """:ivar base: bus address of page 0 of the buffer."""

    pe: Pe
    base: int
    seeds: Iterator[int]
    ops: list[Op] = field(default_factory=list)

    @property
    def buffer(self) -> str:
        return f"dma-{self.pe.name}"

    def iova(self, page: int) -> int:
        return self.base + page * PAGE if page < LAST else self.pe.end - PAGE

    def map(self, page: int, permissions: int, pages: int = 1) -> None:
        self.ops += b.map_dma(self.pe, Page(self.buffer, page), self.iova(page), pages, permissions)

    def unmap(self, page: int) -> None:
        self.ops += b.unmap_dma(self.pe, self.iova(page), 1)

    def fill(self, page: int, size: int = PAGE) -> None:
        """Unique data into a page, from its start."""
        self.ops += b.fill(Page(self.buffer, page), size, next(self.seeds))

    def read(self, iova: int) -> None:
        """The device reads memory."""
        self.ops += b.dma(self.pe, iova, SIZE, to_memory=False)

    def write(self, iova: int) -> None:
        """The device writes memory."""
        self.ops += b.dma(self.pe, iova, SIZE, to_memory=True)

    def load(self) -> None:
        """Give the device fresh data, so that a refused write would show if it landed."""
        self.fill(SOURCE, SIZE)
        self.read(self.iova(SOURCE))

    def send_on(self) -> None:
        """Have the device write what it holds to the sink, which held other data."""
        self.fill(SINK, SIZE)
        self.write(self.iova(SINK))

    def look(self, label: str, *, stream: bool = False) -> None:
        self.ops += b.checkpoint(f"dma: {self.pe.name}: {label}", stream=stream)

    def refused_write(self, iova: int, label: str) -> None:
        self.load()
        self.write(iova)
        self.look(f"write {label}")

    def refused_read(self, iova: int, label: str) -> None:
        self.read(iova)
        self.send_on()
        self.look(f"read {label}")


def ops(topology: Topology, seed: int) -> list[Op]:
    """:raise UsageError: a window has fewer than `LEAST_ENTRIES` entries."""
    pes = b.pes(topology, "dma")
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    seeds = itertools.count(rng.randrange(1 << 30))
    out = [*b.vmlck(), *b.pins()]
    for pe in pes:
        if pe.entries < LEAST_ENTRIES:
            raise UsageError(
                f"scenario dma needs windows of at least {LEAST_ENTRIES} entries, {pe.name} has {pe.entries}"
            )
        base = pe.iova(rng.randrange(1, pe.entries - 2 * PAGES))
        story = Story(pe, base, seeds)
        _set_up(story, rng.randrange(1 << 30))
        _control(story)
        _inside(story)
        _outside(story)
        _master_off(story)
        _close(story)
        out += story.ops
    return [*out, *b.vmlck(), *b.pins(), *b.checkpoint("dma: end", stream=True)]


def _set_up(story: Story, seed: int) -> None:
    pe = story.pe
    story.ops += b.buffer(story.buffer, PAGES + 1, seed)
    for page in range(PAGES + 1):
        story.fill(page)
    story.ops += [*b.bind(pe), *b.open_container(pe), *b.enable(pe), *b.open_device(pe)]
    story.map(SOURCE, tce.READ)
    story.map(SINK, tce.WRITE)
    for page in (ONLY_READ, ONLY_WRITE):
        story.map(page, tce.READ if page == ONLY_READ else tce.WRITE)
    for page in (GONE, BEFORE, AFTER, LAST):
        story.map(page, tce.READ | tce.WRITE)
    # One page that the device never touches carries its tag: the frames of this scenario are proven as well.
    canary = Page(story.buffer, 0)
    story.ops += b.tag(canary, 1, pe.liobn, story.iova(0), next(story.seeds))
    story.map(0, tce.READ)
    story.ops += b.pins()
    story.look("mapped", stream=True)


def _control(story: Story) -> None:
    """Data goes through in both directions, within a page and over a page boundary of two mapped pages."""
    story.load()
    story.send_on()
    story.look("memory to device to memory")
    story.write(story.iova(GONE))
    story.look("device to a read-write page")


def _inside(story: Story) -> None:
    story.unmap(GONE)
    story.refused_write(story.iova(GONE), "after unmap")
    story.refused_read(story.iova(GONE), "after unmap")
    story.refused_write(story.iova(ONLY_READ), "of a read-only page")
    story.refused_read(story.iova(ONLY_WRITE), "of a write-only page")
    for page, label in ((HOLE, "over the end of a page into a hole"), (AFTER, "out of a hole into a page")):
        story.refused_write(story.iova(page) - SIZE // 2, label)
        story.refused_read(story.iova(page) - SIZE // 2, label)


def _outside(story: Story) -> None:
    start, end = story.pe.start, story.pe.end
    places = [(end - SIZE // 2, "over the window's end"), (end + 16 * PAGE, "beyond the window")]
    if start:
        places += [(start - SIZE // 2, "into the window from below"), (start - 16 * PAGE, "below the window")]
    for iova, label in places:
        story.refused_write(iova, label)
        story.refused_read(iova, label)


def _master_off(story: Story) -> None:
    pe = story.pe
    story.load()
    story.ops += b.master(pe, on=False)
    story.write(story.iova(SINK))
    story.look("write without bus master")
    story.read(story.iova(SOURCE))
    story.ops += b.master(pe, on=True)
    story.send_on()
    story.look("read without bus master")


def _close(story: Story) -> None:
    pe = story.pe
    story.ops += [*b.pins(), *b.vmlck(), *b.close(pe.device), *b.disable(pe)]
    story.ops += [*b.close(pe.group, pe.container), *b.vmlck(), *b.pins()]
    story.look("closed", stream=True)
