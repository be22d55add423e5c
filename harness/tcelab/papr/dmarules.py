"""The rules for a device's DMA: which pieces of a transfer pass through the table, and which are refused.

Source: QEMU hw/ppc/spapr_iommu.c (spapr_tce_translate_iommu: each IOMMU page on its own; beyond the table or without
the permission nothing passes), system/physmem.c (a refused read gives zeros, a refused write is dropped, neither is an
error to the device; address_space_translate_iommu: a refusal by the table is reported as an offset in the window's
region), hw/pci/pci.c (no bus master: nothing passes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from tcelab.papr import tce, window

OUTSIDE: Final = "outside the window"
NO_ENTRY: Final = "no entry"
PERMISSION: Final = "permission"
NO_MASTER: Final = "bus master off"
ISOLATED: Final = "the PE is isolated"

REASONS: Final = (NO_MASTER, ISOLATED, OUTSIDE, NO_ENTRY, PERMISSION)
"""Why a piece is refused, in the order in which the platform asks."""


class Window(NamedTuple):
    """A DMA window as a device sees it.

    :ivar start: its bus address; `page_shift`: of its IOMMU pages, none of which is smaller than 4 KiB.
    :ivar permissions: the permission bits of entry number i (`tce.READ | tce.WRITE`), 0 when it is empty.
    """

    start: int
    entries: int
    permissions: Callable[[int], int]
    page_shift: int = window.PAGE_SHIFT

    def has(self, iova: int) -> bool:
        """A bus address lies in it."""
        return 0 <= iova - self.start < self.entries << self.page_shift


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a transfer that lies in one IOMMU page, and in 4 KiB of it if the page is larger.

    :ivar iova: bus address of its first byte.
    :ivar start: its place within the transfer, bytes.
    :ivar size: bytes, at most 4 KiB.
    :ivar entry: number of its entry in the window's table; outside every window, a number past the end of the first
        window's table.
    :ivar refused: one of `REASONS`, empty when it passes.
    :ivar window: number of the window, of those that were given.
    :ivar offset: bytes from the window's start.
    """

    iova: int
    start: int
    size: int
    entry: int
    refused: str = ""
    window: int = 0
    offset: int = 0

    @property
    def told(self) -> int:
        """The address that QEMU reports for the refusal: the offset in the window if the table refused it, else the bus
        address.
        """
        by_table = self.refused in {NO_ENTRY, PERMISSION}
        return self.offset if by_table else self.iova


def blocked(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces of a transfer that comes while the PE is isolated."""
    return [replace(piece, refused=piece.refused if piece.refused == NO_MASTER else ISOLATED) for piece in pieces]


def stopped(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces of a transfer of a device that waits for the consequences of each before it begins the next: the
    first that the table refuses isolates its PE, and the others are refused for that.
    """
    first = next((i for i, piece in enumerate(pieces) if piece.refused), len(pieces))
    if first == len(pieces) or pieces[first].refused == NO_MASTER:
        return list(pieces)
    return [*pieces[: first + 1], *(replace(piece, refused=ISOLATED) for piece in pieces[first + 1 :])]


def pieces(
    iova: int,
    size: int,
    *,
    to_memory: bool,
    entries: int,
    permissions: Callable[[int], int],
    window_start: int = 0,
    page_shift: int = window.PAGE_SHIFT,
    more: Sequence[Window] = (),
    master: bool = True,
    isolated: bool = False,
) -> list[Piece]:
    """Split a transfer at the boundaries of 4 KiB pages. The pieces are in order and cover it exactly.

    :param iova: bus address of the first byte.
    :param size: bytes.
    :param to_memory: the device writes memory, else it reads.
    :param entries: number of entries of the window.
    :param permissions: the permission bits of entry number i (`tce.READ | tce.WRITE`), 0 when it is empty.
    :param window_start: bus address of the window: below it is outside as well. `page_shift`: of its pages.
    :param more: the other windows of the PE.
    :param master: the device's bus master bit, as its driver wants it.
    :param isolated: the DMA of its PE is stopped; see `tcelab.papr.isolationrules`.
    """
    windows = (Window(window_start, entries, permissions, page_shift), *more)
    needed = tce.WRITE if to_memory else tce.READ
    out = []
    start = 0
    while start < size:
        address = iova + start
        length = min(window.PAGE_SIZE - address % window.PAGE_SIZE, size - start)
        number = next((i for i, each in enumerate(windows) if each.has(address)), -1)
        inside = number >= 0
        its = windows[max(number, 0)]
        offset = address - its.start
        entry = offset >> its.page_shift
        granted = its.permissions(entry) if inside else 0
        if not master:
            refused = NO_MASTER
        elif isolated:
            refused = ISOLATED
        elif not inside:
            refused = OUTSIDE
        elif not granted:
            refused = NO_ENTRY
        else:
            refused = "" if granted & needed else PERMISSION
        out.append(Piece(address, start, length, entry, refused, max(number, 0), offset))
        start += length
    return out
