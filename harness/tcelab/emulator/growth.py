"""How much memory the emulated machine has, what is plugged in, and where its kernel maps all of it.

Frames are not bound to that memory, see `addressspaces`. Source: QEMU hw/ppc/spapr.c (memory that is plugged in lies
above RAM, from the next GiB on), hw/mem/memory-device.c (the lowest place that is free); Linux
arch/powerpc/platforms/pseries/iommu.c (enable_ddw, which removes the default window if firmware has none left to give;
iommu_mem_notifier).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from tcelab.papr import tce, window
from tcelab.papr.tcetable import Table
from tcelab.papr.windowcreation import Windows
from tcelab.program.topology import Topology

ByPhb: TypeAlias = Mapping[int, Windows]

RAM: Final = 512 << 20
_ALIGNED: Final = 1 << 30
_MIB: Final = 1 << 20
BLOCK: Final = 256 * _MIB
"""Of memory, as the kernel takes it."""


class Growth:
    """:ivar limit: MiB that firmware says RAM may grow to; `blind`: without it, the kernel makes no direct window."""

    def __init__(
        self, topology: Topology, ram: int = RAM, usable: int = 0, limit: int | None = None, *, blind: bool = False
    ) -> None:
        """:param ram: bytes at the start.
        :param usable: those of them that the kernel may use; 0: all.
        """
        self._from_boot = [phb.index for phb in topology.mapped]
        self._mapped: dict[int, int] = {}
        self._ram, self._usable = ram, usable or ram
        self._most = topology.maxmem * _MIB
        self.limit = (topology.maxmem or ram // _MIB) if limit is None else limit
        self.blind = bool(blind and self._from_boot and not self.limit)
        self._pieces: dict[str, tuple[int, int]] = {}
        self._unused: set[str] = set()

    @property
    def blocks(self) -> list[int]:
        """Numbers of the blocks of memory that the kernel has."""
        pieces = [(0, self._ram), *(place for name, place in self._pieces.items() if name not in self._unused)]
        return sorted(at // BLOCK for first, size in pieces for at in range(first, first + size, BLOCK))

    def boot(self, windows: ByPhb) -> None:
        """A kernel comes up, and makes the windows. What is plugged in before it does not use: its command line says
        how much RAM there is.
        """
        self._unused = {*self._pieces}
        self._mapped = {}
        for index in self._from_boot:
            self.map_all(index, windows)

    def window(self, index: int, windows: ByPhb) -> Table | None:
        """The window of a PHB in which all RAM is mapped; None: there is none."""
        liobn = self._mapped.get(index)
        return next((each for each in windows[index].active if each.liobn == liobn), None)

    def replaced(self, index: int, windows: ByPhb) -> bool:
        """That window is in the place of the default one, which the kernel has removed."""
        there = self.window(index, windows)
        return there is not None and there.liobn == windows[index].low.liobn

    def map_all(self, index: int, windows: ByPhb) -> None:
        """A driver on a PHB may use 64 bits: its kernel makes the window, unless there is one."""
        if index in self._mapped:
            return
        ours = windows[index]
        self._mapped[index] = ours.high.liobn
        if self.blind:
            return
        shape = window.direct(self._ram, self._most, max(ours.offered))
        size = shape.entries << shape.page_shift
        if not ours.query().outputs["left"]:
            ours.remove(ours.low.liobn)
        self._mapped[index] = ours.create(shape.page_shift, size.bit_length() - 1).outputs["liobn"]
        pieces = [place for name, place in self._pieces.items() if name not in self._unused]
        for place in [(0, self._usable), *pieces]:
            self._store({index: ours}, *place, tce.PERMISSIONS)

    def unmap_all(self, index: int) -> bool:
        """The window of a PHB goes. Returns whether there was one."""
        if index not in self._mapped or self.blind:
            return False
        del self._mapped[index]
        return True

    def plug(self, windows: ByPhb, name: str, size: int) -> int:
        """Memory comes, at the lowest place where there is room. Returns its address."""
        address = -(-self._ram // _ALIGNED) * _ALIGNED
        for first, taken in sorted(self._pieces.values()):
            if first - address >= size:
                break
            address = max(address, first + taken)
        self._pieces[name] = address, size
        self._store(windows, address, size, tce.PERMISSIONS)
        return address

    def pull(self, windows: ByPhb, name: str) -> None:
        """Memory goes."""
        self._store(windows, *self._pieces.pop(name), 0)

    def _store(self, windows: ByPhb, address: int, size: int, permissions: int) -> None:
        for index in self._mapped:
            table = self.window(index, windows) if index in windows and not self.blind else None
            if table is None:
                continue
            for each in range(address, address + size, 1 << table.page_shift):
                table.put(each >> table.page_shift, tce.pack(each, permissions) if permissions else 0)
