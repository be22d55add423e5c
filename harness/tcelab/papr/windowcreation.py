"""Dynamic DMA windows (DDW): how firmware creates and removes them.

PAPR restores the default window when the last window is removed, unless that is the default one. QEMU keeps the mark of
the default one with its LIOBN: a window that was created in its place counts as the default one.

Source: PAPR 7.3.31; QEMU hw/ppc/spapr_rtas_ddw.c (the checks and their order), hw/ppc/spapr_pci.c (where windows lie,
pgsz).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from tcelab.papr import window
from tcelab.papr.tcetable import Table

SUCCESS: Final = 0
HARDWARE_ERROR: Final = -1
PARAMETER_ERROR: Final = -3

SHIFTS: Final = window.SHIFTS
"""Page shifts that are offered, and the bit of each in what a query gives."""
MOST: Final = 2
"""Windows of a PE."""
LARGEST: Final = 0x20_0000_0000
"""TCEs in the largest block, as a query gives it: as many as a window may have."""


class WindowAnswer(NamedTuple):
    """:ivar outputs: by name; empty when it was refused."""

    status: int
    outputs: dict[str, int]


class Windows:
    """Of one PE: `low` and `high` are its two tables, of which one without entries stands for a window that there is
    not.

    :ivar offered: page shifts that firmware offers.
    """

    def __init__(self, low: Table, offered: Collection[int] = SHIFTS) -> None:
        self.low, self.offered = low, offered
        self.high = _none(low.liobn | 1)
        self._default = window.Shape(low.entries, low.page_shift, low.bus_offset)

    @property
    def tables(self) -> tuple[Table, Table]:
        return self.low, self.high

    @property
    def active(self) -> list[Table]:
        return [table for table in self.tables if table.entries]

    def at(self, iova: int) -> Table:
        """The table of a bus address; the first one if the address is outside all windows."""
        there = self.active or [self.low]
        return next((each for each in there if each.index(iova) < each.entries), there[0])

    def query(self) -> WindowAnswer:
        sizes = sum(SHIFTS[shift] for shift in self.offered)
        left = MOST - len(self.active)
        return WindowAnswer(SUCCESS, {"left": left, "largest": LARGEST, "page_sizes": sizes, "migration": 0})

    def create(self, page_shift: int, window_shift: int) -> WindowAnswer:
        """Create a window: at the low end if there is none, else above."""
        if page_shift not in self.offered or window_shift < page_shift:
            return WindowAnswer(PARAMETER_ERROR, {})
        entries = 1 << window_shift - page_shift
        if len(self.active) == MOST:
            return WindowAnswer(HARDWARE_ERROR, {})
        start = window.SECOND_START if self.active else self._default.start
        free = next(table for table in self.tables if not table.entries)
        self._put(Table(free.liobn, entries, page_shift=page_shift, bus_offset=start))
        return WindowAnswer(SUCCESS, {"liobn": free.liobn, "start": start})

    def remove(self, liobn: int) -> WindowAnswer:
        """Remove a window. When the upper one was the last, the default one is restored."""
        if liobn not in {table.liobn for table in self.active}:
            return WindowAnswer(PARAMETER_ERROR, {})
        self._put(_none(liobn))
        if not self.active and liobn != self.low.liobn:
            self.reset()
        return WindowAnswer(SUCCESS, {})

    def reset(self) -> WindowAnswer:
        """The default window alone, and empty."""
        self._put(_none(self.high.liobn))
        now = window.Shape(self.low.entries, self.low.page_shift, self.low.bus_offset)
        if now == self._default:
            self.low.clear()
        else:
            entries, page_shift, start = self._default
            self._put(Table(self.low.liobn, entries, page_shift=page_shift, bus_offset=start))
        return WindowAnswer(SUCCESS, {})

    def _put(self, table: Table) -> None:
        if table.liobn == self.low.liobn:
            self.low = table
        else:
            self.high = table


def _none(liobn: int) -> Table:
    return Table(liobn, 0, page_shift=0)
