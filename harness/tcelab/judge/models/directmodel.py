"""Direct windows: the kernel's own driver may use 64 bits, and the kernel maps all RAM for it, once and for ever.

What is right: every page of memory that the kernel has is mapped, to itself, for reading and writing; nothing else is.
Memory that comes is mapped, and memory that goes is not any more. Where firmware has no window left to give, the kernel
removes the default one first, with all that is in it, and the new one takes its LIOBN. Source: Linux
arch/powerpc/platforms/pseries/iommu.c (enable_ddw, iommu_mem_notifier); QEMU hw/ppc/spapr_rtas_ddw.c
(spapr_phb_get_free_liobn).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tcelab.judge.models.tablemodel import LiveEntry, TableModel
from tcelab.judge.models.windowmodel import WindowModel
from tcelab.papr import tce, window
from tcelab.program.topology import Topology
from tcelab.quirks import NOTHING_DIRECT
from tcelab.run.record import Facts

_MIB: Final = 1 << 20
_RAM: Final = "RAM"


@dataclass(frozen=True, slots=True)
class Piece:
    """Memory that was plugged in."""

    address: int
    size: int


class DirectWindows:
    """:ivar pieces: memory that was plugged in and that the kernel uses, by name."""

    def __init__(self, topology: Topology, facts: Facts, windows: dict[int, WindowModel]) -> None:
        self._from_boot = [windows[phb.index] for phb in topology.mapped]
        self._liobns = {each: each.liobns[1] for each in self._from_boot}
        self._room = facts.ram, topology.maxmem * _MIB
        self._usable = facts.usable or facts.ram
        self._none = NOTHING_DIRECT in facts.quirks and facts.limit == 0
        self.pieces: dict[str, Piece] = {}

    @property
    def liobns(self) -> set[int]:
        """Of the windows."""
        return {*self._liobns.values()}

    def boot(self) -> None:
        """A kernel has come up, and maps its memory: what is there at the machine's start, as its command line says
        (mem=). What was plugged in before it does not use.
        """
        self.pieces.clear()
        self._liobns = {}
        for windows in self._from_boot:
            self.make(windows)

    def make(self, windows: WindowModel) -> None:
        """The first driver of a PE that may use 64 bits has such a window made, which stays until VFIO takes the PE."""
        if self._none or windows in self._liobns:
            return
        if len(windows.present) == len(windows.liobns):
            windows.remove(windows.liobns[0])
        liobn = next(each for each in reversed(windows.liobns) if each not in windows.present)
        self._liobns[windows] = liobn
        table = windows.make(liobn, window.direct(*self._room, max(windows.phb.page_shifts)))
        table.begin(dict(self._entries(table, _RAM, Piece(0, self._usable))))
        for name, piece in self.pieces.items():
            table.begin(dict(self._entries(table, name, piece)))

    def forget(self, windows: WindowModel) -> bool:
        """VFIO takes its PE, and the window goes. Returns whether there was one."""
        return self._liobns.pop(windows, None) is not None

    def plugged(self, name: str, piece: Piece, step: int) -> None:
        """The kernel has taken memory."""
        self.pieces[name] = piece
        for table in self._tables():
            entries = self._entries(table, name, piece, step)
            first = piece.address >> table.page_shift
            table.put(first, [entry for _, entry in entries], step)

    def pulled(self, name: str, step: int) -> None:
        """The kernel has given memory back."""
        piece = self.pieces.pop(name)
        for table in self._tables():
            table.clear(piece.address >> table.page_shift, piece.address + piece.size >> table.page_shift, step)

    def _tables(self) -> list[TableModel]:
        made = self._liobns.items()
        return [table for windows, liobn in made for table in windows.active if table.liobn == liobn]

    def _entries(self, table: TableModel, name: str, piece: Piece, step: int = -1) -> Iterable[tuple[int, LiveEntry]]:
        unit = 1 << table.page_shift
        for number, address in enumerate(range(piece.address, piece.address + piece.size, unit)):
            word = tce.pack(address, tce.PERMISSIONS)
            yield address // unit, LiveEntry(tce.PERMISSIONS, name, number, None, address, step, raw=word)
