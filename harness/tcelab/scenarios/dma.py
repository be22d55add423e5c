"""`dma`: the devices carry unique data through the tables where they may, and are refused everywhere else.

All PEs do the same at the same time, at the same places of their windows: this exposes a table that leads to another
PE's pages. Every page has a bus address of its own, whether it is mapped or not. Pages that are not mapped are
canaries. The result of a refused read is then written to a mapped page that held other data, so that guest RAM proves
it.

A guard attributes a refused access by its address alone (`tcelab.qemu.tracereader`). So transfers that are refused at
the same time never overlap: each PE has its own part of the page, or its turn at each place.

When an entry is removed or loses a permission, the device accesses it again without any translation in between: this
exposes a translation that outlives its entry. A fast device then covers its whole window.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from tcelab.errors import UsageError
from tcelab.papr import tce
from tcelab.program import Dma, Op, Page
from tcelab.program.topology import Topology
from tcelab.scenarios import sweep
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.places import codes
from tcelab.scenarios.vocabulary import PAGE, Pe

TOPOLOGIES: Final = ("two-pe-disk",)

SIZE: Final = 1024
"""Bytes that a device writes."""
PART: Final = 512
"""Bytes that it reads, into one part of its memory after the other."""
PARTS: Final = 4
"""Read parts that one transfer of 2048 bytes writes out."""
WRITES: Final = 2
"""Refused transfers between two checkpoints."""

TAGGED, ONLY_WRITE, SOURCE, SINK, ONLY_READ, BESIDE = range(6)
"""Pages of the buffer by their part in the story: side by side, so that each has neighbours that allow what it forbids.
The devices use all of them but the first.
"""
GONE, OTHER, NEXT, BEFORE, HOLE, AFTER = 7, 8, 9, 11, 12, 13
"""`GONE` gets one translation after the other, also to `OTHER` and `NEXT`. Pages without a name are canaries."""
OWN: Final = 15
"""From here on, one page for each PE; the entry of that number is empty in the other PEs' tables."""
BOTH: Final = tce.READ | tce.WRITE
PERMISSIONS: Final = {
    TAGGED: tce.READ,
    ONLY_WRITE: tce.WRITE,
    SOURCE: tce.READ,
    SINK: tce.WRITE,
    ONLY_READ: tce.READ,
    **dict.fromkeys((BESIDE, GONE, BEFORE, AFTER), BOTH),
}

LEAST_ENTRIES: Final = 1024
_DRAWS: Final = 1000

Where = Callable[[Pe], int]
"""A bus address for each PE."""
Places = Iterator[tuple[list[Where], list[Where]]]
"""To write and to read."""


@dataclass(slots=True)
class TransferStory:
    """:ivar first: number of the entry of page 0 of each buffer.

    :ivar order: the order in which the PEs begin their next transfers: the last PE becomes the first, and so meets any
        stale translation of its own.
    :ivar read_parts: parts of the devices' memory that were read and not yet written out.
    """

    pes: Sequence[Pe]
    first: int
    seeds: Iterator[int]
    ops: list[Op] = field(default_factory=list)
    order: list[Pe] = field(init=False)
    read_parts: int = 0

    def __post_init__(self) -> None:
        self.order = list(self.pes)

    @property
    def pages(self) -> int:
        """Of a buffer, that have consecutive entries."""
        return OWN + len(self.pes)

    @property
    def numbers(self) -> dict[str, int]:
        """Of the PEs by name, from 0."""
        return {pe.name: number for number, pe in enumerate(self.pes)}

    def buffer(self, pe: Pe) -> str:
        return f"dma-{pe.name}"

    def at(self, page: int, plus: int = 0) -> Where:
        return lambda pe: pe.iova(self.first + page) + plus

    def own(self, page: int) -> Where:
        """A part of a page of `SIZE` bytes, another one for each PE."""
        return lambda pe: self.at(page, self.numbers[pe.name] * SIZE)(pe)

    def turns(self, places: Sequence[Where]) -> list[Where]:
        """Each PE once at each of several disjoint places, and never two PEs at one place at the same time."""

        def turn(number: int) -> Where:
            return lambda pe: places[(number + self.numbers[pe.name]) % len(places)](pe)

        return [turn(number) for number in range(len(places))]

    def map(self, page: int, permissions: int, memory: int = -1) -> None:
        """:param memory: another page of the buffer than the one whose entry it is."""
        for pe in self.pes:
            lead = Page(self.buffer(pe), page if memory < 0 else memory)
            self.ops += b.map_dma(pe, lead, self.at(page)(pe), 1, permissions)

    def unmap(self, page: int) -> None:
        for pe in self.pes:
            self.ops += b.unmap_dma(pe, self.at(page)(pe), 1)

    def fill(self, page: int, size: int = SIZE) -> None:
        """Unique data into a page, from its start."""
        for pe in self.pes:
            self.ops += b.fill(Page(self.buffer(pe), page), size, next(self.seeds))

    def read(self, where: Where) -> None:
        """The devices read memory, into the next part of theirs."""
        self._transfer(where, PART, self.read_parts * PART, to_memory=False)
        self.read_parts += 1

    def write(self, where: Where) -> None:
        """The devices write memory."""
        self._transfer(where, SIZE, 0, to_memory=True)

    def load(self) -> None:
        """Give the devices fresh data, so that a refused write would show if it landed."""
        self.fill(SOURCE)
        self._transfer(self.at(SOURCE), SIZE, 0, to_memory=False)

    def send_on(self) -> None:
        """Have the devices write their data to their sinks, which held other data."""
        self.fill(SINK, PARTS * PART)
        self._transfer(self.at(SINK), PARTS * PART, 0, to_memory=True)
        self.read_parts = 0

    def _transfer(self, where: Where, size: int, offset: int, *, to_memory: bool) -> None:
        transfers = [
            Dma(file=pe.device, iova=where(pe), size=size, to_memory=to_memory, offset=offset) for pe in self.order
        ]
        self.order.reverse()
        alone = len(transfers) == 1
        self.ops += [msgspec.structs.replace(transfers[0], expect="ok")] if alone else b.together(transfers)

    def look(self, label: str, *, stream: bool = False) -> None:
        self.ops += b.checkpoint(f"dma: {label}", stream=stream)


def ops(topology: Topology, seed: int) -> list[Op]:
    """:raise UsageError: a window has fewer than `LEAST_ENTRIES` entries, or a PE has no edu."""
    pes = b.pes(topology, "dma")
    if short := next((pe for pe in pes if pe.entries < LEAST_ENTRIES), None):
        raise UsageError(
            f"scenario dma needs windows of at least {LEAST_ENTRIES} entries, {short.name} has {short.entries}"
        )
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    story = TransferStory(pes, _first(pes, rng), itertools.count(rng.randrange(1 << 30)))
    story.ops += [*b.vmlck(), *b.pins()]
    _set_up(story, rng)
    _control(story)
    _everywhere(story)
    _forbidden(story)
    _outlived(story)
    _master_off(story)
    for pe in pes:
        story.ops += sweep.ops(pe, range(story.first - 1, story.first + story.pages + 1), rng)
    if not topology.nested:  # firmware would empty the outer guest's window
        _reset(story)
    _close(story)
    return story.ops


def _first(pes: Sequence[Pe], rng: random.Random) -> int:
    """A random place for the buffers' pages, with none of the far ones among them."""
    pages = OWN + len(pes)
    far = {number for pe in pes for pair in codes(pe.entries) for number in pair}
    least = min(pe.entries for pe in pes)
    for _ in range(_DRAWS):
        first = rng.randrange(1, least - 2 * pages)
        if far.isdisjoint(range(first - 1, first + pages + 1)):
            return first
    raise UsageError(f"scenario dma finds no place for {pages} pages in a window of {least} entries")


def _far(story: TransferStory, pe: Pe) -> list[tuple[int, int]]:
    """The other pages of its buffer, and the numbers of their entries: those of `codes`, and the window's last one."""
    numbers = [*(number for pair in codes(pe.entries) for number in pair), pe.entries - 1]
    return list(enumerate(numbers, story.pages))


def _set_up(story: TransferStory, rng: random.Random) -> None:
    for number, pe in enumerate(story.pes):
        name, far = story.buffer(pe), _far(story, pe)
        story.ops += b.buffer(name, story.pages + len(far), rng.randrange(1 << 30))
        story.ops += b.tag(Page(name), story.pages, pe.liobn, story.at(0)(pe), next(story.seeds))
        story.ops += [*b.bind(pe), *b.open_container(pe), *b.enable(pe), *b.open_device(pe)]
        for page, entry in far:
            story.ops += b.tag(Page(name, page), 1, pe.liobn, pe.iova(entry), next(story.seeds))
            story.ops += b.map_dma(pe, Page(name, page), pe.iova(entry), 1, BOTH)
        own = OWN + number
        story.ops += b.map_dma(pe, Page(name, own), story.at(own)(pe), 1, BOTH)
    for page, permissions in PERMISSIONS.items():
        story.map(page, permissions)
    story.ops += b.pins()
    story.look("mapped", stream=True)


def _control(story: TransferStory) -> None:
    """Data goes through in both directions, and a first access is refused."""
    story.load()
    story.send_on()
    story.look("memory to device to memory")
    story.write(story.own(HOLE))
    story.look("write to a hole")


def _everywhere(story: TransferStory) -> None:
    """From the one page of each pair of `codes` to the other."""
    pairs = {pe.name: codes(pe.entries) for pe in story.pes}
    for number in range(max(map(len, pairs.values()))):
        chosen = {name: pair[number % len(pair)] for name, pair in pairs.items()}
        story.read(lambda pe: pe.iova(chosen[pe.name][0]))  # noqa: B023 - it is called at once
        story.read_parts = 0
        story.write(lambda pe: pe.iova(chosen[pe.name][1]))  # noqa: B023 - it is called at once
    story.look("by every bit of the page number")


def _forbidden(story: TransferStory) -> None:
    """Transfers that the tables forbid, whole or in part. The devices' data is not at these places before."""
    places = [*_outside(story), *_inside(story), *_elsewhere(story)]
    story.load()
    writes = story.turns([where for each, _ in places for where in each])
    for part in range(0, len(writes), WRITES):
        for where in writes[part : part + WRITES]:
            story.write(where)
        story.look("what was written where nothing may be written")
    reads = story.turns([where for _, each in places for where in each])
    for part in range(0, len(reads), PARTS):
        for where in reads[part : part + PARTS]:
            story.read(where)
        story.send_on()
        story.look("what was read where nothing may be read")


def _inside(story: TransferStory) -> Places:
    """Forbidden parts beside permitted ones: two adjacent pages with different permissions, and a transfer half in a
    hole.
    """
    at = story.at
    yield (
        [at(ONLY_READ), at(ONLY_READ, PAGE - SIZE // 2)],
        [at(ONLY_WRITE), at(ONLY_WRITE, PAGE - PART // 2), at(SINK, -PART // 2)],
    )
    yield (
        [at(HOLE, -SIZE // 2), at(AFTER, -SIZE // 2)],
        [at(HOLE, -PART // 2), at(AFTER, -PART // 2)],
    )


def _outside(story: TransferStory) -> Places:
    """Over the window's end and beyond it; into the window from below and below it."""
    yield [_end(-SIZE // 2), _end(16 * PAGE)], [_end(-PART // 2), _end(16 * PAGE)]
    if any(pe.start for pe in story.pes):
        yield [_start(-SIZE // 2), _start(-16 * PAGE)], [_start(-PART // 2), _start(-16 * PAGE)]


def _end(plus: int) -> Where:
    return lambda pe: pe.end + plus


def _start(plus: int) -> Where:
    """Below a window there may be no bus addresses; then use those beyond it."""
    return lambda pe: pe.start + plus if pe.start else pe.end - plus


def _elsewhere(story: TransferStory) -> Places:
    """Entries that are empty in a device's own table and live in that of another PE."""
    there = {pe.name: OWN + (number + 1) % len(story.pes) for number, pe in enumerate(story.pes)}
    if len(there) > 1:
        where = [lambda pe: story.at(there[pe.name])(pe)]
        yield where, where


def _outlived(story: TransferStory) -> None:
    """No translation outlives its entry when that is removed, redirected or loses a permission. Each time, at least one
    PE's translation is the last that QEMU did.
    """
    gone = story.own(GONE)
    story.write(gone)
    story.unmap(GONE)
    story.fill(GONE, PAGE)
    story.write(gone)
    story.look("after unmap")
    story.read(gone)
    story.map(GONE, BOTH, OTHER)
    story.read(gone)
    story.map(GONE, BOTH, NEXT)
    story.read(gone)
    story.unmap(GONE)
    story.read(gone)
    story.send_on()
    story.look("after a map over a live entry")
    story.map(GONE, BOTH, NEXT)
    story.write(gone)
    story.map(GONE, tce.READ, NEXT)
    story.fill(NEXT, PAGE)
    story.write(gone)
    story.read(gone)
    story.map(GONE, tce.WRITE, NEXT)
    story.read(gone)
    story.send_on()
    story.look("after maps that allow less")


def _master_off(story: TransferStory) -> None:
    story.fill(SINK, PAGE)
    story.ops += [op for pe in story.pes for op in b.master(pe, on=False)]
    story.write(story.own(SINK))
    story.look("write without bus master")
    story.read(story.own(SOURCE))
    story.ops += [op for pe in story.pes for op in b.master(pe, on=True)]
    story.send_on()
    story.look("read without bus master")


def _reset(story: TransferStory) -> None:
    """Firmware empties the window behind the driver's back; the page pins of its entries are lost for good."""
    story.ops += [*b.vmlck(), *b.pins()]
    story.write(story.own(SINK))
    story.fill(SINK, PAGE)
    story.ops += [op for pe in story.pes for op in b.ddw(pe, "reset")]
    story.write(story.own(SINK))
    story.read(story.own(SOURCE))
    story.look("after firmware's reset", stream=True)
    story.map(SINK, tce.WRITE)
    story.send_on()
    story.ops += b.pins()
    story.look("mapped again")


def _close(story: TransferStory) -> None:
    for pe in story.pes:
        story.ops += [*b.close(pe.device), *b.disable(pe), *b.close(pe.group, pe.container)]
    story.ops += [*b.vmlck(), *b.pins()]
    story.look("closed", stream=True)
