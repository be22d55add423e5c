"""What becomes of a device's transfer: which pieces of it pass through the table and which are refused.

Source: QEMU hw/ppc/spapr_iommu.c (spapr_tce_translate_iommu: each IOMMU page on its own; beyond the table or without
the permission nothing passes), system/physmem.c (a refused read gives zeros, a refused write is dropped, neither is an
error to the device; address_space_translate_iommu: what the table refuses is told by its place in the window's
region), hw/pci/pci.c (no bus master: nothing passes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tcelab.papr import tce, window

OUTSIDE: Final = "outside the window"
NO_ENTRY: Final = "no entry"
PERMISSION: Final = "permission"
NO_MASTER: Final = "bus master off"
ISOLATED: Final = "the PE is isolated"

REASONS: Final = (NO_MASTER, ISOLATED, OUTSIDE, NO_ENTRY, PERMISSION)
"""Why a piece is refused, in the order in which the platform asks."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a transfer that lies in one IOMMU page.

    :ivar iova: bus address of its first byte.
    :ivar start: its place within the transfer, bytes.
    :ivar size: bytes, at most one IOMMU page.
    :ivar entry: number of its entry in the table; outside the window there is none of that number.
    :ivar refused: one of `REASONS`, empty when it passes.
    """

    iova: int
    start: int
    size: int
    entry: int
    refused: str = ""

    @property
    def told(self) -> int:
        """Where QEMU says that it refused it: bytes from the window's start on if the table refused it, else the bus
        address.
        """
        by_table = self.refused in {NO_ENTRY, PERMISSION}
        return self.entry * window.PAGE_SIZE + self.iova % window.PAGE_SIZE if by_table else self.iova


def pieces(
    iova: int,
    size: int,
    *,
    to_memory: bool,
    entries: int,
    permissions: Callable[[int], int],
    window_start: int = 0,
    master: bool = True,
    isolated: bool = False,
) -> list[Piece]:
    """Split a transfer at page boundaries: its pieces in order, which cover it exactly.

    :param iova: bus address of the first byte.
    :param size: bytes.
    :param to_memory: the device writes memory, else it reads.
    :param entries: number of entries of the window.
    :param permissions: the permission bits of entry number i (`tce.READ | tce.WRITE`), 0 when it is empty.
    :param window_start: bus address of the window: below it is outside as well.
    :param master: the device's bus master bit, as its driver wants it.
    :param isolated: the DMA of its PE is stopped; see `tcelab.papr.pe`.
    """
    needed = tce.WRITE if to_memory else tce.READ
    out = []
    start = 0
    while start < size:
        address = iova + start
        length = min(window.PAGE_SIZE - address % window.PAGE_SIZE, size - start)
        entry = (address - window_start) >> window.PAGE_SHIFT
        inside = 0 <= entry < entries
        granted = permissions(entry) if inside else 0
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
        out.append(Piece(address, start, length, entry, refused))
        start += length
    return out
