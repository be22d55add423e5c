"""What becomes of a device's transfer: which pieces of it pass through the table and which are refused.

Source: QEMU hw/ppc/spapr_iommu.c (spapr_tce_translate_iommu: each IOMMU page on its own; beyond the table or without
the permission nothing passes), system/physmem.c (a refused read gives zeros, a refused write is dropped, neither is an
error to the device), hw/pci/pci.c (no bus master: nothing passes).
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

REASONS: Final = (NO_MASTER, OUTSIDE, NO_ENTRY, PERMISSION)
"""Why a piece is refused, in the order in which the platform asks."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a transfer that lies in one IOMMU page.

    :ivar iova: bus address of its first byte.
    :ivar start: its place within the transfer, bytes.
    :ivar size: bytes, at most one IOMMU page.
    :ivar refused: one of `REASONS`, empty when it passes.
    """

    iova: int
    start: int
    size: int
    refused: str = ""

    @property
    def entry(self) -> int:
        """Number of its entry in a table that starts at bus address 0."""
        return self.iova >> window.PAGE_SHIFT


def pieces(
    iova: int,
    size: int,
    *,
    to_memory: bool,
    entries: int,
    permissions: Callable[[int], int],
    master: bool = True,
) -> list[Piece]:
    """Split a transfer at page boundaries: its pieces in order, which cover it exactly.

    :param iova: bus address of the first byte; the window starts at bus address 0.
    :param size: bytes.
    :param to_memory: the device writes memory, else it reads.
    :param entries: number of entries of the window.
    :param permissions: the permission bits of entry number i (`tce.READ | tce.WRITE`), 0 when it is empty.
    :param master: the device's bus master bit.
    """
    needed = tce.WRITE if to_memory else tce.READ
    out = []
    start = 0
    while start < size:
        address = iova + start
        length = min(window.PAGE_SIZE - address % window.PAGE_SIZE, size - start)
        entry = address >> window.PAGE_SHIFT
        granted = permissions(entry) if entry < entries else 0
        if not master:
            refused = NO_MASTER
        elif entry >= entries:
            refused = OUTSIDE
        elif not granted:
            refused = NO_ENTRY
        else:
            refused = "" if granted & needed else PERMISSION
        out.append(Piece(address, start, length, refused))
        start += length
    return out
