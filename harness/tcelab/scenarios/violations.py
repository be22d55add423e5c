"""The violations of the scenario `isolation`: which forbidden access a device makes, where, and how large."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from tcelab.program.topology import EDUS, Phb
from tcelab.scenarios.vocabulary import PAGE, Pe

Direction = Literal["read", "write"]
"""Of a device: it reads or writes memory."""
DIRECTIONS: Final[tuple[Direction, ...]] = ("write", "read")

LARGEST: Final = 4000
"""Bytes of the largest transfer that every edu can do."""
SECTOR: Final = 512
"""A disk transfers whole sectors, up to a page."""

CLASSES: Final = ("least", "small", "odd", "largest")
"""Size classes: one byte or sector, or the two needed to straddle; 8 bytes; an odd number in between; the device's
maximum.
"""

SOURCE, SINK, ONLY_READ, ONLY_WRITE, GONE, BEFORE, HOLE, AFTER, TAGGED, STALE = 1, 3, 5, 7, 9, 11, 12, 13, 15, 17
"""Pages of a PE's buffer by their part in the story; the others are canaries that are never mapped."""
FIRST, LAST = 19, 21
"""Pages that are mapped at the first and at the last entry of the window."""
OWN, STRIDE = 23, 8
"""Each device after the first has its own source here, its sink two pages on, and its private pages four pages on."""


def size_of(kind: str, least: int, model: str, rng: random.Random) -> int:
    """Bytes of a transfer of one of `CLASSES`, by a device of a model.

    :param least: bytes or sectors.
    """
    if model in EDUS:
        return {"least": least, "small": 8, "odd": 9 + 2 * rng.randrange((LARGEST - 9) // 2), "largest": LARGEST}[kind]
    return SECTOR * {"least": least, "small": 2, "odd": rng.choice((3, 5, 7)), "largest": PAGE // SECTOR}[kind]


@dataclass(frozen=True, slots=True)
class PagePlaces:
    """Places of a PE's pages.

    :ivar base: bus address of page 0 of its buffer.
    :ivar far: a number that no other violation of the story has.
    """

    pe: Pe
    base: int
    far: int

    def iova(self, page: int) -> int:
        """Bus address that belongs to a page, whether or not it is mapped."""
        if page in {FIRST, LAST}:
            return self.pe.iova(0 if page == FIRST else self.pe.entries - 1)
        return self.base + page * PAGE


_Where = Callable[[PagePlaces, int, random.Random], int]


@dataclass(frozen=True, slots=True)
class ViolationKind:
    """:ivar where: bus address for a transfer of so many bytes.

    :ivar directions: in which it is a violation.
    :ivar least: bytes, or a disk's sectors, that it takes.
    :ivar rare: only a PE whose window does not start at 0 can commit it.
    :ivar probes: only probes commit it.
    """

    name: str
    where: _Where
    directions: tuple[Direction, ...] = DIRECTIONS
    least: int = 1
    rare: bool = False
    probes: bool = False

    def possible(self, phb: Phb) -> bool:
        """Is there room for it?"""
        probes = any(device.model == "probe" for device in phb.devices)
        return (phb.window_start > 0 or not self.rare) and (probes or not self.probes)


def _within(start: Callable[[PagePlaces], int]) -> _Where:
    """Anywhere in a page."""
    return lambda place, size, rng: start(place) + rng.randrange(PAGE - size + 1)


def _of(page: int) -> _Where:
    return _within(lambda place: place.iova(page))


def _over(boundary: Callable[[PagePlaces], int]) -> _Where:
    """Bytes before a boundary, and bytes after it."""
    return lambda place, size, rng: boundary(place) - rng.randrange(1, size)


KINDS: Final = {
    kind.name: kind
    for kind in (
        ViolationKind("beyond the end", _within(lambda place: place.pe.end + (place.far + 1) * PAGE)),
        ViolationKind("straddling the end", _over(lambda place: place.pe.end), least=2),
        ViolationKind("first page after the end", _within(lambda place: place.pe.end)),
        ViolationKind("below the window", _within(lambda place: place.pe.start - (place.far + 1) * PAGE), rare=True),
        ViolationKind("straddling the start", _over(lambda place: place.pe.start), least=2, rare=True),
        ViolationKind("hole", _of(HOLE)),
        ViolationKind("after unmap", _of(GONE)),
        ViolationKind("read of write-only", _of(ONLY_WRITE), directions=("read",)),
        ViolationKind("write of read-only", _of(ONLY_READ), directions=("write",)),
        ViolationKind("stale entry", _of(STALE)),
        ViolationKind("crossing into a hole", _over(lambda place: place.iova(HOLE)), least=2, probes=True),
        ViolationKind("crossing out of a hole", _over(lambda place: place.iova(AFTER)), least=2, probes=True),
        ViolationKind("above 2^32", _within(lambda place: (1 << 32) + place.far * PAGE), probes=True),
        ViolationKind("above 2^59", _within(lambda place: (1 << 59) + place.far * PAGE), probes=True),
    )
}
"""By name, which the report's table has."""


def kinds(phb: Phb) -> list[ViolationKind]:
    """Those that a PE can commit."""
    return [kind for kind in KINDS.values() if kind.possible(phb)]


def class_of(kind: str, size: int) -> str:
    """Which of `CLASSES` an edu's size is of."""
    known = {KINDS[kind].least: "least", 8: "small", LARGEST: "largest"}
    return known.get(size, "odd")
