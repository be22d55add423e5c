"""What the driver `tce_dma` holds for a program: mappings, lists, and the pages and handles of their bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tcelab.papr import window

if TYPE_CHECKING:
    from tcelab.emulator.platform import EmulatedPe


class Mapping(NamedTuple):
    """:ivar entries: numbers of its entries in the default window.

    :ivar memory: real address of coherent memory, 0: there is none; `frames`: of its CPU pages.
    """

    device: str
    entries: list[int]
    size: int
    memory: int = 0
    frames: tuple[int, ...] = ()


@dataclass(slots=True)
class Held:
    """Lists whose memory is held: by list, real addresses and bytes.

    :ivar entries: numbers of those that they have now.
    """

    pe: EmulatedPe
    device: str
    lists: list[list[tuple[int, int]]]
    permissions: int
    entries: list[int] = field(default_factory=list)
    mapped: bool = False


def pages(address: int, size: int) -> int:
    """How many IOMMU pages bytes lie in."""
    return (address + size - 1 >> window.PAGE_SHIFT) - (address >> window.PAGE_SHIFT) + 1


def starts(address: int, size: int) -> list[int]:
    """Offsets of the bytes at which its IOMMU pages begin, the first one included."""
    first = -(address % window.PAGE_SIZE)
    return [max(at, 0) for at in range(first, size, window.PAGE_SIZE)]


def merged(segments: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What follows directly on another one's bytes is one with it."""
    out: list[tuple[int, int]] = []
    for handle, size in segments:
        if out and sum(out[-1]) == handle:
            out[-1] = out[-1][0], out[-1][1] + size
        else:
            out.append((handle, size))
    return out
