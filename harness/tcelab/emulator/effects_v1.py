"""What today's driver does with a v1 container once all checks have passed (profile `linux-v1`).

The checks, their order and their errnos are in `tcelab.emulator.profiles.linux_v1`.

Source: drivers/vfio/vfio_iommu_spapr_tce.c (6.12), functions of the same names without `tce_iommu_`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tcelab.emulator.addressspaces import FaultError, Space
from tcelab.emulator.checks import IoctlCall, Request, number_of
from tcelab.emulator.events import ATTACHED
from tcelab.emulator.process import Process
from tcelab.emulator.syscallerrors import NotModelledError, SyscallError
from tcelab.papr import tce, window
from tcelab.quirks import BINDS_EARLY, CREATE_CHARGES, NOT_AT_ZERO, PIN_FOR_WRITE, REFUSED_SPOILS, ROLLBACK

if TYPE_CHECKING:
    from tcelab.emulator.drivertable import Profile
    from tcelab.emulator.platform import EmulatedPe, Machine

_RAW_H_PARAMETER: Final = "EINTR"
"""H_PARAMETER is -4 and is not translated to an errno: user space reads it as EINTR."""
_NOT_AT_ZERO: Final = "tce_iommu_create_default_window: WARN_ON_ONCE(!ret && start_addr)"


class SpaprTce:
    """A container of the driver (struct tce_container).

    :ivar space: the mm that it is bound to, once it is.
    :ivar others: further PEs, of a v2 container with several groups; `pe` is then the one that was attached last.
    :ivar locked: CPU pages charged by ENABLE; `table_pages`: by the table of the default window.
    :ivar pending: the default window is made by the first MAP or UNMAP (def_window_pending).
    """

    def __init__(self, machine: Machine, profile: Profile, quirks: frozenset[str]) -> None:
        self.machine = machine
        self.profile = profile
        self.quirks = quirks
        self.pe: EmulatedPe | None = None
        self.others: list[EmulatedPe] = []
        self.enabled = False
        self.space: Space | None = None
        self.locked = 0
        self.table_pages = 0
        self.pending = False

    def ioctl(self, process: Process, request: int, argument: int) -> int:
        """tce_iommu_ioctl."""
        asked: Request = self.profile.requests.get(number_of(request), self.profile.otherwise)
        return asked.perform(IoctlCall(self.machine, process, self, argument), self.quirks)

    def attach(self, pe: EmulatedPe) -> None:
        """tce_iommu_attach_group: one group in a v1 container."""
        if not pe.has_table:
            raise SyscallError("ENODEV")
        if self.pe is not None:
            raise SyscallError("EBUSY")
        self.take(pe)

    def take(self, pe: EmulatedPe) -> None:
        """tce_iommu_attach_group, once nothing is in the way."""
        if pe.inherited:
            raise NotModelledError("no rule for a container of a PE whose 64-bit window a kernel before has made")
        if self.pe is None:
            self.pending = True
        else:
            self.others.insert(0, self.pe)
        self.pe = pe
        self.machine.happened(ATTACHED, self)

    def detach(self, pe: EmulatedPe, _process: Process) -> None:
        """tce_iommu_detach_group: every entry is cleared before the window is unset."""
        if self.pe is not pe:
            return
        if not self.pending:
            self.sweep(pe)
            pe.reset()
        self.pe = None

    def release(self, _process: Process) -> None:
        """tce_iommu_release: frees the table, and gives every charge back to the mm that paid."""
        self.disable()
        self._refund(self.table_pages)
        self.table_pages = 0
        self._unbind()

    # -- ENABLE and DISABLE

    def over_limit(self, process: Process) -> bool:
        """tce_iommu_enable from tce_iommu_mm_set on: bind the container, charge the window."""
        assert self.pe is not None
        unbound = self.space is None
        self._bind(process.space)
        pages = self._pages(self.pe.window_size)
        if process.charge(pages):
            self.locked = pages
            return False
        if unbound and BINDS_EARLY in self.quirks:
            self.machine.hit_quirk(BINDS_EARLY)
        elif unbound:
            self._unbind()
        return True

    def _bind(self, space: Space) -> None:
        """tce_iommu_mm_set, of a container that no other mm has."""
        if self.space is None:
            self.space = space
            space.holders += 1

    def _unbind(self) -> None:
        """Mmdrop."""
        space, self.space = self.space, None
        if space is not None:
            self.machine.let_go(space)

    def disable(self) -> None:
        """Mappings and windows stay."""
        if self.enabled:
            self.enabled = False
            self._refund(self.locked)

    # -- windows

    def make_default_window(self, process: Process) -> str | None:
        """tce_iommu_create_default_window, if it is pending: the errno's name when it cannot be made."""
        if not self.pending:
            return None
        if self.pe is None:
            return "ENODEV"
        pages = self._pages(self.pe.table.entries * 8)
        if not process.charge(pages):
            return "ENOMEM"
        if self._spoilt(self.pe):
            self._not_made(pages)
            return "ENODEV"
        self.pe.reset()
        if self.others:
            return self.not_shared(pages)
        self.table_pages = pages
        self.pending = False
        if self.pe.first and NOT_AT_ZERO in self.quirks and self.machine.warn_once(_NOT_AT_ZERO):
            self.machine.hit_quirk(NOT_AT_ZERO)
        return None

    def not_shared(self, pages: int) -> str:
        """tce_iommu_create_window of a container with several groups, from set_window on: the errno's name.

        A table is its PE's alone (pseries/iommu.c, spapr_tce_set_window). It was made of `pages`, and goes again.
        """
        self._refund(pages)
        return "EPERM"

    def _spoilt(self, pe: EmulatedPe) -> bool:
        """spapr_tce_create_table: for a PE in failed_ddw_pdn_list it makes nothing, not even a default window."""
        if not pe.refused_window or REFUSED_SPOILS not in self.quirks:
            return False
        self.machine.hit_quirk(REFUSED_SPOILS)
        return True

    def _not_made(self, pages: int) -> None:
        """Refund the charge of a table that is not created."""
        if CREATE_CHARGES not in self.quirks:
            self._refund(pages)
        elif pages:
            self.machine.hit_quirk(CREATE_CHARGES)

    # -- MAP and UNMAP

    def build(self, call: IoctlCall) -> int:
        """Pin and exchange page by page; roll back if one fails."""
        pe, space, ram = self.pe, call.process.space, self.machine.ram
        assert pe is not None
        address, permissions = call.param["vaddr"], call.param["flags"]
        first = call.param["iova"] >> window.PAGE_SHIFT
        write = permissions != tce.READ or PIN_FOR_WRITE in self.quirks
        replaced: list[int] = []
        failed = ""
        for entry in range(first, first + (call.param["size"] >> window.PAGE_SHIFT)):
            try:
                frame = space.pin(address, write=write)
            except FaultError:
                self._meet_pin(space, address, permissions)
                failed = "EFAULT"
                break
            try:
                old = pe.exchange(entry, frame | address % ram.page_size | permissions)
            except IndexError:
                ram.unpin(frame)
                failed = _RAW_H_PARAMETER
                break
            if old & tce.PERMISSIONS:
                ram.unpin(old & -ram.page_size)
            replaced.append(old)
            address += window.PAGE_SIZE
        if failed:
            self._roll_back(pe, first, replaced)
            raise SyscallError(failed)
        return 0

    def _meet_pin(self, space: Space, address: int, permissions: int) -> None:
        if permissions == tce.READ and address // self.machine.page_size in space.readable:
            self.machine.hit_quirk(PIN_FOR_WRITE)

    def _roll_back(self, pe: EmulatedPe, first: int, replaced: list[int]) -> None:
        self.clear(pe, first, len(replaced))
        live = [(entry, old) for entry, old in enumerate(replaced, first) if old & tce.PERMISSIONS]
        if live and ROLLBACK in self.quirks:
            self.machine.hit_quirk(ROLLBACK, tuple((pe.phb.liobn, entry - pe.first) for entry, _ in live))
            return
        for entry, old in live:
            self.machine.ram.pin(old & -self.machine.page_size)
            pe.exchange(entry, old)

    def clear(self, pe: EmulatedPe, first: int, pages: int) -> None:
        """Empty entries and drop their pins. Those past the window's end fail one by one, without an error."""
        ram = self.machine.ram
        for entry in range(first, min(first + pages, pe.first + pe.table.entries)):
            old = pe.exchange(entry, 0)
            if old & tce.PERMISSIONS:
                ram.unpin(old & -ram.page_size)

    def sweep(self, pe: EmulatedPe) -> None:
        """The whole window, as at the end."""
        for number in pe.table.live()[0].tolist():
            self.clear(pe, pe.first + number, 1)

    def _pages(self, size: int) -> int:
        return size // self.machine.page_size

    def _refund(self, pages: int) -> None:
        if self.space is not None:
            self.space.locked -= pages
