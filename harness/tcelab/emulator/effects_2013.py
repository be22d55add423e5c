"""What the driver of May 2013 does once no check stands in the way (profile `seed2013`).

Source: "powerpc/vfio: Implement IOMMU driver for VFIO" (drivers/vfio/vfio_iommu_spapr_tce.c) and the helpers of its
time (arch/powerpc/kernel/iommu.c, 3.18).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from tcelab.emulator.addressspaces import MASK, FaultError
from tcelab.emulator.checks import IoctlCall, Request, number_of
from tcelab.emulator.events import ATTACHED
from tcelab.emulator.process import Process
from tcelab.emulator.syscallerrors import SyscallError
from tcelab.papr import tce, window

if TYPE_CHECKING:
    from tcelab.emulator.drivertable import Profile
    from tcelab.emulator.platform import EmulatedPe, Machine


def _signed(number: int) -> int:
    """An unsigned long as pr_warn writes it, by %ld."""
    return number - (MASK + 1) if number > MASK >> 1 else number


class Seed:
    """A container of the driver: `pe` is whose table it has (tbl)."""

    def __init__(self, machine: Machine, profile: Profile, _quirks: frozenset[str]) -> None:
        self.machine = machine
        self.profile = profile
        self.pe: EmulatedPe | None = None
        self.enabled = False

    def ioctl(self, process: Process, request: int, argument: int) -> int:
        """tce_iommu_ioctl."""
        asked: Request = self.profile.requests.get(number_of(request), self.profile.otherwise)
        return asked.perform(IoctlCall(self.machine, process, self, argument), frozenset())

    def attach(self, pe: EmulatedPe) -> None:
        """tce_iommu_attach_group."""
        if not pe.has_table:
            self.machine.bug("tce_iommu_attach_group: BUG_ON(!tbl)")
        if self.pe is not None:
            existing = self._group_of(self.pe)
            self.machine.say(
                "tce_vfio: Only one group per IOMMU container is allowed,"
                f" existing id={existing}, attaching id={pe.group}"
            )
            raise SyscallError("EBUSY")
        if self.enabled:
            self.machine.say(f"tce_vfio: attaching group #{pe.group} to enabled container")
            raise SyscallError("EBUSY")
        self._take_ownership(pe)
        self.pe = pe
        self.machine.happened(ATTACHED, self)

    def detach(self, pe: EmulatedPe, process: Process) -> None:
        """tce_iommu_detach_group: of a wrong group it only warns, and names it as the expected one."""
        if not pe.has_table:
            self.machine.bug("tce_iommu_detach_group: BUG_ON(!tbl)")
        if self.pe is not pe:
            self.machine.say(f"tce_vfio: detaching group #{pe.group}, expected group is #{self._group_of(pe)}")
            return
        if self.enabled:
            group = self._group_of(pe)
            self.machine.say(f"tce_vfio: detaching group #{group} from enabled container, forcing disable")
            self.disable(process)
        self.pe = None
        self._release_ownership(pe)

    def _group_of(self, pe: EmulatedPe) -> int:
        """iommu_group_id(tbl->it_group), without a check that there is a group."""
        if not pe.has_group:
            self.machine.oops("iommu_group_id")
        return pe.group

    def release(self, process: Process) -> None:
        """tce_iommu_release."""
        orphan = self.pe is not None and not self.pe.has_group
        if orphan:
            self.machine.warn("tce_iommu_release: the table has no group")
        self.disable(process)
        if self.pe is not None and not orphan:
            self.detach(self.pe, process)

    def _take_ownership(self, pe: EmulatedPe) -> None:
        """iommu_take_ownership: bit 0 is cleared first, even if the rest fails."""
        if pe.first == 0:
            pe.kernel_uses.discard(0)
        if pe.kernel_uses:
            self.machine.say("iommu_tce: it_map is not empty")
            raise SyscallError("EBUSY")
        pe.kernel_uses.update(range(pe.table.entries))
        self.clear(pe, pe.first, pe.table.entries)

    def _release_ownership(self, pe: EmulatedPe) -> None:
        """iommu_release_ownership."""
        self.clear(pe, pe.first, pe.table.entries)
        pe.kernel_uses.clear()
        if pe.first == 0:
            pe.kernel_uses.add(0)

    # -- ENABLE and DISABLE

    def charge(self, process: Process) -> bool:
        """tce_iommu_enable: the whole window, in CPU pages; False: over the limit."""
        if process.charge(self._pages()):
            return True
        self.machine.say(f"RLIMIT_MEMLOCK ({_signed(process.memlock)}) exceeded")
        return False

    def disable(self, process: Process) -> None:
        """tce_iommu_disable: the refund goes to whoever is current, and nowhere without a table or an mm."""
        if not self.enabled:
            return
        self.enabled = False
        if self.pe is None or process.exited or self.machine.without_mm:
            return
        process.space.locked = process.space.locked - self._pages() & MASK

    def _pages(self) -> int:
        assert self.pe is not None
        return self.pe.window_size // self.machine.page_size

    # -- MAP and UNMAP

    def put(self, call: IoctlCall) -> int:
        """Page by page, as iommu_put_tce_user_mode does; a failure takes back the pages of this call, and no others."""
        pe = self.pe
        assert pe is not None
        entry, permissions = call.param["iova"] >> window.PAGE_SHIFT, call.param["flags"]
        for i in range(call.param["size"] >> window.PAGE_SHIFT):
            refused = self._put_one(call, pe, entry + i, call.param["vaddr"] + i * window.PAGE_SIZE, permissions)
            if refused:
                self.clear(pe, entry, i)
                raise SyscallError(refused)
        return 0

    def _put_one(self, call: IoctlCall, pe: EmulatedPe, entry: int, address: int, permissions: int) -> str:
        ram = self.machine.ram
        try:
            frame = call.process.space.pin(address, write=permissions != tce.READ)
        except FaultError:
            return "EFAULT"
        if self._get(pe, entry) & tce.PERMISSIONS:
            ram.unpin(frame)
            return "EBUSY"
        self._set(pe, entry, frame | address % ram.page_size | permissions)
        return ""

    def clear(self, pe: EmulatedPe, first: int, pages: int) -> int:
        """iommu_clear_tces_and_put_pages: entries that are empty are passed over."""
        ram = self.machine.ram
        for entry in _filled(pe, first, first + pages):
            old = self._get(pe, entry)
            if old & tce.PERMISSIONS:
                self._set(pe, entry, 0)
                ram.unpin(old & -ram.page_size)
        return 0

    def _get(self, pe: EmulatedPe, entry: int) -> int:
        number = entry - pe.first
        return pe.table.get(number) if number < pe.table.entries else pe.behind.get(entry, 0)

    def _set(self, pe: EmulatedPe, entry: int, value: int) -> None:
        """There is memory past the table's end, and nothing stops the store."""
        number = entry - pe.first
        if number < pe.table.entries:
            pe.table.put(number, value)
        else:
            pe.behind[entry] = value


def _filled(pe: EmulatedPe, first: int, end: int) -> Iterable[int]:
    """The entries `first .. end - 1`, ascending, but for those that are zero: whole windows are cleared often."""
    if first < pe.first:
        return range(first, end)
    behind = pe.first + pe.table.entries
    inside = np.flatnonzero(pe.table.words[first - pe.first : min(end, behind) - pe.first]) + first
    return [*map(int, inside), *sorted(entry for entry in pe.behind if max(first, behind) <= entry < end)]
