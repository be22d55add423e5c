"""Where QEMU keeps each TCE table: the host address of its array, by LIOBN, from QEMU's trace.

Source: QEMU hw/ppc/trace-events (spapr_iommu_new_table, spapr_iommu_ddw_*).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from tcelab.papr import window
from tcelab.program.topology import Phb

_NEW_TABLE: Final = re.compile(r"spapr_iommu_new_table liobn=(?:0x)?([0-9a-f]+) table=(0x[0-9a-f]+|\(nil\))")
_DDW_CREATE: Final = re.compile(
    r"spapr_iommu_ddw_create buid=0x[0-9a-f]+ addr=0x[0-9a-f]+,? page size=0x([0-9a-f]+),? requested=0x([0-9a-f]+),?"
    r" start addr=(?:0x)?([0-9a-f]+),? liobn=(?:0x)?([0-9a-f]+)"
)
_DDW_REMOVE: Final = re.compile(r"spapr_iommu_ddw_remove liobn=(?:0x)?([0-9a-f]+)")
_DDW_RESET: Final = re.compile(r"spapr_iommu_ddw_reset buid=0x([0-9a-f]+)")


class TableAddresses:
    """What the trace has told so far.

    :ivar at: LIOBN to the host address of its array; a LIOBN that is absent has no table.
    :ivar shapes: shapes of the windows that RTAS created, by LIOBN; all others are as at the machine's start.
    """

    def __init__(self) -> None:
        self.at: dict[int, int] = {}
        self.shapes: dict[int, window.Shape] = {}

    def line(self, line: str) -> None:
        """Follow one line of trace."""
        if found := _NEW_TABLE.search(line):
            liobn = int(found[1], 16)
            self.at.pop(liobn, None)
            if found[2] != "(nil)":
                self.at[liobn] = int(found[2], 16)
        elif found := _DDW_CREATE.search(line):
            page, size, start, liobn = (int(each, 16) for each in found.groups())
            self.shapes[liobn] = window.Shape(size // page, page.bit_length() - 1, start)
        elif found := _DDW_REMOVE.search(line):
            self._forget(int(found[1], 16))
        elif found := _DDW_RESET.search(line):
            # The reset removed both windows and created window 0 again, with its initial size.
            phb = int(found[1], 16) - window.BASE_BUID
            self._forget(window.liobn(phb, 1))
            self.shapes.pop(window.liobn(phb, 0), None)

    def windows(self, phb: Phb) -> dict[int, window.Shape]:
        """The windows of a PHB that have tables, by LIOBN, window 0 first; one without entries where there is none."""
        first = window.Shape(phb.entries, start=phb.window_start)
        shapes = {phb.liobn: first, **self.shapes}
        there = {liobn: shapes[liobn] for liobn in (phb.liobn, phb.liobn | 1) if liobn in self.at and liobn in shapes}
        return there or {phb.liobn: first._replace(entries=0)}

    def keep(self, liobns: Collection[int]) -> None:
        """A guest was loaded. QEMU traces the windows that it has at its start, and none that a load takes away."""
        self.at = {liobn: at for liobn, at in self.at.items() if liobn in liobns}

    def reset(self) -> None:
        """The machine is about to be reset: its windows go, and the trace tells of those that come."""
        self.at.clear()
        self.shapes.clear()

    def unplugged(self, phb: int) -> None:
        """A PHB is gone, and its windows with it, of which the trace does not tell."""
        for number in (0, 1):
            self._forget(window.liobn(phb, number))

    def _forget(self, liobn: int) -> None:
        self.at.pop(liobn, None)
        self.shapes.pop(liobn, None)
