"""The DMA windows of a PE: the platform's, which are its tables, and those that a driver created for itself.

Source: QEMU hw/ppc/spapr_rtas_ddw.c (a reset drops all windows and makes the default one anew; so does the removal of
the last window, unless it has the default one's LIOBN), Linux
drivers/vfio/vfio_iommu_spapr_tce.c (a container has a table for each window) and
arch/powerpc/platforms/pseries/iommu.c (spapr_tce_create_table: a low window is the platform's default one, of which the
driver uses as much as it asked for).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tcelab.judge.models.tablemodel import TableModel
from tcelab.papr import dmarules, window
from tcelab.program import Ddw
from tcelab.program.topology import Phb
from tcelab.run.record import Outcome


@dataclass(frozen=True, slots=True, eq=False)
class KernelWindow:
    """A window as a container has it: the first `size` bytes of a table, which may be larger.

    :ivar made: firmware made it for the container, and removes it with it.
    """

    table: TableModel
    size: int
    made: bool = False

    @property
    def entries(self) -> int:
        return self.size >> self.table.page_shift

    def has(self, iova: int) -> bool:
        """A bus address lies in it."""
        return 0 <= iova - self.table.start < self.size


class WindowModel:
    """The windows of one PHB, as the platform has them. Their tables are in `tables`, by LIOBN.

    :ivar inherited: a container under a kernel before has made the 64-bit one.
    """

    def __init__(self, phb: Phb, tables: dict[int, TableModel]) -> None:
        self.phb = phb
        self.liobns = phb.liobn, phb.liobn | 1
        self._tables = tables
        self._none = TableModel(phb.liobn, 0, phb.window_start)
        self.restore()

    @property
    def default(self) -> TableModel:
        """Window 0; one without entries if it was removed."""
        return self._tables.get(self.phb.liobn, self._none)

    @property
    def present(self) -> list[int]:
        """LIOBNs of the existing windows."""
        return [liobn for liobn in self.liobns if liobn in self._tables]

    @property
    def active(self) -> list[TableModel]:
        """The existing windows, window 0 first; at least one."""
        return [self._tables[liobn] for liobn in self.present] or [self._none]

    def at(self, iova: int) -> TableModel:
        """The window of a bus address; the first window if the address is outside all of them."""
        tables = self.active
        return next((each for each in tables if 0 <= each.number(iova) < each.entries), tables[0])

    def pieces(self, iova: int, size: int, *, to_memory: bool, master: bool, isolated: bool) -> list[dmarules.Piece]:
        """Of a transfer, as the tables are now: `window` of a piece is a number in `active`."""
        first, *more = self.active
        return dmarules.pieces(
            iova,
            size,
            to_memory=to_memory,
            entries=first.entries,
            permissions=first.permissions,
            window_start=first.start,
            page_shift=first.page_shift,
            more=[dmarules.Window(each.start, each.entries, each.permissions, each.page_shift) for each in more],
            master=master,
            isolated=isolated,
        )

    def make(self, liobn: int, shape: window.Shape) -> TableModel:
        """Another window, empty."""
        self._tables[liobn] = TableModel(liobn, shape.entries, shape.start, shape.page_shift)
        return self._tables[liobn]

    def create(self, size: int, shift: int, start: int) -> KernelWindow:
        """A container has asked for a window, and got it at `start`: the platform's default one, created again whatever
        part of it was requested, or one that firmware made (is_default_window_request), high unless there was none.
        """
        low = start == self.phb.window_start
        asked = shift == window.PAGE_SHIFT and size <= self.phb.window_size
        if low and (asked or self.phb.liobn in self.present):
            self.restore()
            return KernelWindow(self.default, size)
        return KernelWindow(self.make(self.liobns[not low], window.Shape(size >> shift, shift, start)), size, made=True)

    def remove(self, liobn: int) -> None:
        """A window goes, and the default one comes back if that was the last."""
        there = self._tables.pop(liobn, None)
        if there is not None and not self.present and liobn != self.phb.liobn:
            self.restore()

    def restore(self) -> None:
        """As at the machine's start: the default window alone. Its table is emptied by whoever does it."""
        self.inherited = False
        self._tables.pop(self.phb.liobn | 1, None)
        if self.default.entries != self.phb.entries or self.default.page_shift != window.PAGE_SHIFT:
            self.make(self.phb.liobn, window.Shape(self.phb.entries, start=self.phb.window_start))

    def called(self, op: Ddw, outcome: Outcome, step: int) -> str:
        """A firmware service was granted. Returns why its effect is unknown, if it is."""
        fields: dict[str, Any] = outcome.fields
        if outcome.value != 0 or op.call == "query":
            return ""
        if op.call == "reset":
            for table in self.active:
                table.clear(0, table.entries, step)
            self.restore()
        elif op.call == "remove":
            if op.liobn not in self.liobns:
                return f"Ddw of step {step} removed a window of another PE"
            if op.liobn in self._tables:
                self._tables[op.liobn].clear(0, self._tables[op.liobn].entries, step)
            self.remove(op.liobn)
        else:
            liobn, start = fields.get("liobn"), fields.get("start")
            if liobn not in self.liobns or type(start) is not int or liobn in self._tables:
                return f"Ddw of step {step} did not tell which window it made"
            self.make(liobn, window.Shape(1 << max(op.window_shift - op.page_shift, 0), op.page_shift, start))
        return ""
