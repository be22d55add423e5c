"""One TCE table: what the platform keeps for a window, and how it finds a bus address in it.

Source: QEMU hw/ppc/spapr_iommu.c (SpaprTceTable, put_tce_emu, get_tce_emu, spapr_tce_reset).
"""

from __future__ import annotations

from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Final

import numpy as np
import numpy.typing as npt

from tcelab.papr import window

REGISTER: Final = (1 << 64) - 1
"""Bus addresses are computed in 64-bit registers: they wrap."""

_OF_ITS_OWN: Final = 1 << 20
"""Size from which a table gets a mapping of its own, so that untouched pages take no memory."""


def _zeros(size: int) -> bytearray | mmap:
    return mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS) if size >= _OF_ITS_OWN else bytearray(size)


class Table:
    """The table of one window.

    :ivar page_shift: of its IOMMU pages: 12, 16, 21 or 24; 0 in a window that was never made.
    :ivar bus_offset: bus address of its first byte.
    :ivar entries: 0 in a window that is not active.
    :ivar version: counts the stores that were made by methods.
    :ivar words: all its TCEs, uint64 in host order; a view, so a write to it is a write to the table.
    """

    __slots__ = ("_cells", "_page_mask", "bus_offset", "entries", "liobn", "page_shift", "version", "words")

    def __init__(self, liobn: int, entries: int, *, page_shift: int = window.PAGE_SHIFT, bus_offset: int = 0) -> None:
        self.liobn = liobn
        self.entries = entries
        self.page_shift = page_shift
        self.version = 0
        self.bus_offset = bus_offset
        self._page_mask = REGISTER & ~((1 << page_shift) - 1)
        # The same memory twice: a memoryview reads one entry in a fraction of numpy's time.
        self._cells = memoryview(_zeros(8 * entries)).cast("Q")
        self.words: npt.NDArray[np.uint64] = np.frombuffer(self._cells, np.uint64)

    def index(self, ioba: int) -> int:
        """Number of the entry of a bus address. Anything not below `entries` is outside the window, and an address
        below the window's start is far above it. The address is rounded down first, whatever the start is.
        """
        return (((ioba & self._page_mask) - self.bus_offset) & REGISTER) >> self.page_shift

    def get(self, index: int) -> int:
        return self._cells[index]

    def put(self, index: int, tce: int) -> None:
        self._cells[index] = tce
        self.version += 1

    def fill(self, first: int, count: int, tce: int) -> None:
        """Store one TCE in the entries `first .. first + count - 1`, as far as there are such."""
        self.words[first : first + count] = tce
        self.version += 1

    def store(self, first: int, tces: npt.NDArray[np.uint64]) -> None:
        """Store TCEs one after the other from entry `first` on, as far as there are entries."""
        inside = self.words[first : first + tces.size]
        inside[:] = tces[: inside.size]
        self.version += 1

    def clear(self) -> None:
        self.words[np.flatnonzero(self.words != 0)] = 0  # empty pages stay untouched
        self.version += 1

    def live(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
        """Numbers of the entries that are not zero, ascending, and their TCEs: copies."""
        index = np.flatnonzero(self.words != 0)
        return index.astype(np.uint32), self.words[index]
