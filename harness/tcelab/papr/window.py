"""DMA windows of a pseries PHB and the numbers that name them.

Source: QEMU include/hw/ppc/spapr.h (SPAPR_PCI_LIOBN), hw/ppc/spapr_pci.c (properties of spapr-pci-host-bridge,
SPAPR_PCI_BASE_BUID).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

PAGE_SHIFT: Final = 12
"""IOMMU page shift of the default window: 4 KiB pages whatever the kernel's own page size."""

PAGE_SIZE: Final = 1 << PAGE_SHIFT
DEFAULT_WINDOW_SIZE: Final = 1 << 30
"""Bytes: the default dma_win_size of a PHB, 262,144 entries."""

SHIFTS: Final[Mapping[int, int]] = {12: 0x1, 16: 0x2, 24: 0x4, 21: 0x100}
"""Page shifts that QEMU offers for windows by default (pgsz), and the bit of each in what ibm,query-pe-dma-window
gives.
"""

SECOND_START: Final = 1 << 59
"""Bus address of a window beside the default one: the default dma64_win_addr of a PHB."""

BASE_BUID: Final = 0x800000020000000
PCI_LIOBN: Final = 0x80000000
"""Bit 31 tells a PCI LIOBN from a VIO one."""
VIO_LIOBN: Final = 0x71000000
"""Of the first virtual I/O device (hw/ppc/spapr_vio.c)."""


class Shape(NamedTuple):
    """Of a window.

    :ivar entries: of its table; `page_shift`: of its IOMMU pages; `start`: its bus address.
    """

    entries: int
    page_shift: int = PAGE_SHIFT
    start: int = 0

    @property
    def end(self) -> int:
        """Bus address of the first byte after it."""
        return self.start + (self.entries << self.page_shift)


_RAM_ALIGNED: Final = 1 << 30
"""Memory that is plugged in lies above RAM, from the next multiple on (QEMU hw/ppc/spapr.c, SPAPR_DEVICE_MEM_ALIGN)."""
DIRECT_SHIFT: Final = 24
"""Of the pages of a direct window: the largest that QEMU offers by default (hw/ppc/spapr_pci.c, pgsz)."""


def direct(ram: int, maxmem: int, page_shift: int = DIRECT_SHIFT) -> Shape:
    """The window in which Linux maps all RAM: large enough for all that may come.

    Source: Linux arch/powerpc/platforms/pseries/iommu.c, enable_ddw.

    :param maxmem: bytes that RAM may grow to; 0: it does not grow.
    :param page_shift: of the largest pages that firmware offers.
    """
    top = -(-ram // _RAM_ALIGNED) * _RAM_ALIGNED + maxmem - ram if maxmem else ram
    return Shape(1 << max((top - 1).bit_length() - page_shift, 0), page_shift, SECOND_START)


def liobn(phb: int, window: int = 0) -> int:
    """Logical I/O bus number of a PHB's window."""
    return PCI_LIOBN | (phb << 8) | window


def buid(phb: int) -> int:
    """Bus unit id of a PHB."""
    return BASE_BUID + phb


def is_pci(liobn: int) -> bool:
    return bool(liobn & PCI_LIOBN)


def phb_of(liobn: int) -> int:
    """Index of the PHB that has the window of a PCI LIOBN."""
    return (liobn & ~PCI_LIOBN) >> 8


def window_of(liobn: int) -> int:
    """Number of the window of a PCI LIOBN within its PHB."""
    return liobn & 0xFF
