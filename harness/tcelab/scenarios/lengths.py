"""Transfers of 1 byte to 1 MiB by a probe's doorbells: forbidden ones isolate its PE, legal ones by the hundred do not.

Each forbidden transfer is a story of its own: the transfer, its PE isolated, its recovery, and then legal transfers of
the same length, whose data are judged.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tcelab.papr import tce
from tcelab.program import Doorbell, Op, Page, lengths
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.endpoint import Endpoint
from tcelab.scenarios.isolationstory import IsolationStory
from tcelab.scenarios.vocabulary import PAGE

PAGES: Final = 600
"""Of memory that is mapped for them, before the window's last entry."""
HOLE: Final = 280
"""Which of its pages is not mapped: on either side there is room for 1 MiB."""
PARTS: Final = 2
"""Number of guests that share the stories."""
LEAST: Final = 2048
"""Entries of a window with room for it."""

_SIZES: Final[dict[str, Callable[[random.Random], int]]] = {
    lengths.BYTE: lambda _: 1,
    lengths.WITHIN: lambda rng: rng.randrange(2, 2000),
    lengths.ACROSS: lambda rng: PAGE + rng.randrange(2, 3 * PAGE),
    lengths.LONG: lambda _: 64 << 10,
    lengths.LONGEST: lambda _: 1 << 20,
}
COUNTS: Final = {lengths.BYTE: 250, lengths.WITHIN: 150, lengths.ACROSS: 60, lengths.LONG: 6, lengths.LONGEST: 1}
"""Legal transfers after each forbidden one."""


@dataclass(frozen=True, slots=True)
class Area:
    """Where the memory of the story is mapped. :ivar first: number of its first entry."""

    pe: Endpoint

    @property
    def first(self) -> int:
        return self.pe.pe.entries - 1 - PAGES

    @property
    def hole(self) -> int:
        """Bus address of the page that is not mapped."""
        return self.pe.pe.iova(self.first + HOLE)


Where = Callable[[Area, int], int]
PLACES: Final[dict[str, Where]] = {
    "over the window's end": lambda area, size: area.pe.pe.end - size + 1,
    "into a hole": lambda area, size: area.hole - size + 1,
    "about 2^32": lambda _, size: (1 << 32) - size // 2,
    "about 2^59": lambda _, size: (1 << 59) - size // 2,
}
"""Bus address of a forbidden transfer of so many bytes. Of the first two, the last byte alone is forbidden, unless the
transfer lies within a page.
"""
_BOTH_WAYS: Final = 2
"""Places at which it is done in both directions; at the others, they alternate."""


@dataclass(frozen=True, slots=True)
class Forbidden:
    """One of them. :ivar number: of all."""

    length: str
    place: str
    to_memory: bool
    number: int


def forbidden() -> list[Forbidden]:
    """All of them, each length at each place."""
    out: list[Forbidden] = []
    numbers = itertools.count()
    for row, length in enumerate(_SIZES):
        for column, place in enumerate(PLACES):
            ways = (True, False) if column < _BOTH_WAYS else ((row + column) % 2 == 0,)
            out += [Forbidden(length, place, way, next(numbers)) for way in ways]
    return out


def parts(topology: Topology, seed: int) -> list[list[Op]]:
    """Each on a guest of its own; none without a probe, or without room."""
    phbs = [pe.phb for pe in b.pes(topology, "isolation")]
    # The pages of the first PE's story are in the lower half of its window.
    if not phbs or phbs[0].entries < LEAST or any(each.model != "probe" for each in phbs[0].devices):
        return []
    every = forbidden()
    return [_part(topology, seed + number, every[number::PARTS]) for number in range(PARTS)]


def _part(topology: Topology, seed: int, chosen: list[Forbidden]) -> list[Op]:
    story = IsolationStory(topology, seed)
    pe = story.pes[0]
    area, data, rng = Area(pe), "lengths", random.Random(seed)  # noqa: S311 - repeatable on purpose
    story.set_up()
    story.ops += b.buffer(data, PAGES, seed % (1 << 30))
    story.ops += b.fill(Page(data), PAGES * PAGE, next(pe.seeds))
    for first, end in ((0, HOLE), (HOLE + 1, PAGES)):
        both = tce.READ | tce.WRITE
        story.ops += b.map_dma(pe.pe, Page(data, first), pe.pe.iova(area.first + first), end - first, both)
    for each in chosen:
        _violate(story, area, each, rng)
    story.end()
    return story.ops


def _violate(story: IsolationStory, area: Area, each: Forbidden, rng: random.Random) -> None:
    pe = area.pe
    size = _SIZES[each.length](rng)
    device = pe.devices[each.number % len(pe.devices)].name
    word = rng.randrange(1 << 64)
    story.ops.append(
        Doorbell(
            file=pe.file(device),
            iova=PLACES[each.place](area, 1 if each.length == lengths.WITHIN else size),
            size=size,
            to_memory=each.to_memory,
            pattern=word,
            interrupt=False,
            expect=0,
        )
    )
    story.look(f"violated {each.place}")
    story.isolated(pe)
    story.recover(pe, "thaw")
    for to_memory in (True, False):
        story.ops.append(_legal(area, each.length, device, rng, to_memory=to_memory))
    story.done(each.length, f"{device} {each.place}")


def _legal(area: Area, length: str, device: str, rng: random.Random, *, to_memory: bool) -> Doorbell:
    """Transfers of a length all over the pages before the hole, at addresses of all kinds."""
    size, count = _SIZES[length](rng), COUNTS[length]
    begin, end = area.pe.pe.iova(area.first), area.hole
    if length == lengths.WITHIN:
        at = begin + rng.randrange(PAGE - size + 1)
        stride = PAGE
    else:
        at = begin + rng.randrange(PAGE)
        stride = (end - at - size) // max(count - 1, 1) | 1
        stride = stride if at + stride * (count - 1) + size <= end else stride - 2
    return Doorbell(
        file=area.pe.file(device),
        iova=at,
        size=size,
        to_memory=to_memory,
        count=count,
        stride=stride,
        pattern=rng.randrange(1 << 64),
        expect="passed",
    )
