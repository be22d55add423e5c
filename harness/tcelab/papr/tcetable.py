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
_SHIFT: Final = 9
"""Of the number of entries in a stretch: a page of memory."""


def _zeros(size: int) -> bytearray | mmap:
    return mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS) if size >= _OF_ITS_OWN else bytearray(size)


class Table:
    """The table of one window.

    :ivar page_shift: of its IOMMU pages: 12, 16, 21 or 24; 0 in a window that was never made.
    :ivar bus_offset: bus address of its first byte.
    :ivar entries: 0 in a window that is not active.
    :ivar version: counts the stores.
    :ivar words: all its TCEs, uint64 in host order; a view, to be read.
    """

    __slots__ = (
        *("_cells", "_page_mask", "_stretches", "_used", "_words"),
        *("bus_offset", "entries", "liobn", "page_shift", "version", "words"),
    )

    def __init__(self, liobn: int, entries: int, *, page_shift: int = window.PAGE_SHIFT, bus_offset: int = 0) -> None:
        self.liobn = liobn
        self.entries = entries
        self.page_shift = page_shift
        self.version = 0
        self.bus_offset = bus_offset
        self._page_mask = REGISTER & ~((1 << page_shift) - 1)
        count = -(-entries >> _SHIFT)
        # The same memory twice: a memoryview reads one entry in a fraction of numpy's time.
        whole = memoryview(_zeros(8 * count << _SHIFT)).cast("Q")
        self._cells = whole[:entries]
        self._words: npt.NDArray[np.uint64] = np.frombuffer(self._cells, np.uint64)
        self.words: npt.NDArray[np.uint64] = np.frombuffer(self._cells.toreadonly(), np.uint64)
        # A large table is nearly empty: it is searched where something was stored since the search before.
        self._stretches: npt.NDArray[np.uint64] = np.frombuffer(whole, np.uint64).reshape(count, 1 << _SHIFT)
        self._used = bytearray(count)

    def index(self, ioba: int) -> int:
        """Number of the entry of a bus address. Anything not below `entries` is outside the window, and an address
        below the window's start is far above it. The address is rounded down first, whatever the start is.
        """
        return (((ioba & self._page_mask) - self.bus_offset) & REGISTER) >> self.page_shift

    def get(self, index: int) -> int:
        return self._cells[index]

    def put(self, index: int, tce: int) -> None:
        self._cells[index] = tce
        self._used[index >> _SHIFT] = 1
        self.version += 1

    def fill(self, first: int, count: int, tce: int) -> None:
        """Store one TCE in the entries `first .. first + count - 1`, as far as there are such."""
        self._words[first : first + count] = tce
        self._store(first, min(first + count, self.entries))

    def store(self, first: int, tces: npt.NDArray[np.uint64]) -> None:
        """Store TCEs one after the other from entry `first` on, as far as there are entries."""
        inside = self._words[first : first + tces.size]
        inside[:] = tces[: inside.size]
        self._store(first, first + inside.size)

    def _store(self, first: int, end: int) -> None:
        if first < end:
            begin, behind = first >> _SHIFT, (end - 1 >> _SHIFT) + 1
            self._used[begin:behind] = b"\1" * (behind - begin)
        self.version += 1

    def clear(self) -> None:
        self._words[self.live()[0]] = 0  # empty pages stay untouched
        self.version += 1

    def live(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
        """Numbers of the entries that are not zero, ascending, and their TCEs: copies."""
        used = np.frombuffer(self._used, np.uint8)
        numbers = np.flatnonzero(used)
        there = self._stretches[numbers].reshape(-1)
        at = np.flatnonzero(there)
        of = at >> _SHIFT
        filled = np.zeros(len(numbers), np.uint8)
        filled[of] = 1
        used[numbers] = filled
        index = (numbers[of] << _SHIFT) + (at & (1 << _SHIFT) - 1)
        return index.astype(np.uint32), there[at]
