"""What today's driver does with a v2 container after all checks have passed (profile `linux-v2`).

Source: drivers/vfio/vfio_iommu_spapr_tce.c (6.12), functions of the same names without `tce_iommu_`;
arch/powerpc/mm/book3s64/iommu_api.c (regions); arch/powerpc/platforms/pseries/iommu.c (windows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcelab.emulator.addressspaces import FaultError, RegisteredMemory
from tcelab.emulator.checks import IoctlCall
from tcelab.emulator.effects_v1 import SpaprTce
from tcelab.emulator.process import Process
from tcelab.emulator.syscallerrors import NotModelledError, SyscallError
from tcelab.papr import tce, window, windowcreation
from tcelab.papr.tcetable import Table
from tcelab.quirks import BELOW_PAGE, CLOSE_STRANDS, NOTHING_WARNS, PART_REGISTERS, ROLLBACK, UNREGISTERS_IN_USE

if TYPE_CHECKING:
    from tcelab.emulator.drivertable import Profile
    from tcelab.emulator.platform import EmulatedPe, Machine

_WHOLE: Final = 0xFFFFFFFF
"""Bytes of a table of more levels than there can be (iommu_table_group_ops, get_table_size)."""
_ENTRY_SHIFT: Final = 3
NOTHING_ALLOCATED: Final = "__vmalloc_node_range_noprof: WARN_ON_ONCE(!size)"


@dataclass(slots=True, eq=False)
class ContainerWindow:
    """A window as the container has it (struct iommu_table).

    :ivar size: bytes, which may be fewer than the platform's table has.
    :ivar pages: CPU pages charged for its table.
    :ivar users: the region that each live entry leads to, by number (it_userspace).
    :ivar number: which of the container's two it is (struct tce_container, tables).
    :ivar default: it is the platform's, which outlasts it (is_default_window_request).
    """

    table: Table
    size: int
    pages: int
    users: dict[int, RegisteredMemory]
    number: int = 0
    default: bool = True

    @property
    def start(self) -> int:
        return self.table.bus_offset

    @property
    def shift(self) -> int:
        return self.table.page_shift

    @property
    def entries(self) -> int:
        return self.size >> self.shift

    def has(self, iova: int) -> bool:
        return self.start <= iova < self.start + (self.entries << self.shift)


def _is_default(pe: EmulatedPe, number: int, shift: int, size: int) -> bool:
    """is_default_window_request, of a container's first window."""
    return not number and shift == window.PAGE_SHIFT and size <= pe.window_size


class _PartError(Exception):
    """Only the first pages could be pinned (pin_user_pages)."""

    def __init__(self, pages: int) -> None:
        super().__init__(pages)
        self.pages = pages


class SpaprTceV2(SpaprTce):
    """:ivar windows: that it made; `regions`: of memory that it registered (prereg_list)."""

    def __init__(self, machine: Machine, profile: Profile, quirks: frozenset[str]) -> None:
        super().__init__(machine, profile, quirks)
        self.windows: list[ContainerWindow] = []
        self.regions: dict[tuple[int, int], RegisteredMemory] = {}

    def attach(self, pe: EmulatedPe) -> None:
        """tce_iommu_attach_group: one more group, while there is no window that it would have to share."""
        if not pe.has_table:
            raise SyscallError("ENODEV")
        if self.windows:
            raise SyscallError("EPERM")
        self.take(pe)

    def detach(self, pe: EmulatedPe, _process: Process) -> None:
        """tce_iommu_detach_group, and spapr_tce_platform_iommu_attach_dev behind it."""
        if pe in self.others:
            self.others.remove(pe)
            return
        if self.pe is not pe:
            return
        for each in self.windows:
            self._sweep(each)
        if not self.pending:
            pe.reset()
        self.pe = self.others.pop(0) if self.others else None

    def release(self, _process: Process) -> None:
        """tce_iommu_release: tables, then what is registered."""
        for each in self.windows:
            self._refund(each.pages)
        self.windows = []
        for key, region in list(self.regions.items()):
            if region.used > 1 or not region.mapped or CLOSE_STRANDS not in self.quirks:
                self._put(key)
                continue
            self.machine.warn("tce_iommu_release: WARN_ON(tce_iommu_prereg_free(container, tcemem))")
            self.machine.hit_quirk(CLOSE_STRANDS)
        self.regions = {}
        self._unbind()

    def find(self, iova: int) -> ContainerWindow | None:
        """tce_iommu_find_table."""
        return next((each for each in self.windows if each.has(iova)), None)

    def bind(self, process: Process) -> bool:
        """tce_iommu_mm_set."""
        self._bind(process.space)
        return False

    # -- memory

    def register(self, call: IoctlCall) -> int:
        """tce_iommu_register_pages."""
        space, key = call.process.space, (call.param["vaddr"], call.param["size"])
        if key in self.regions:
            raise SyscallError("EBUSY")
        region = space.regions.get(key)
        if region is None:
            try:
                region = self._pinned(call.process, *key)
            except _PartError as part:
                return part.pages
            space.regions[key] = region
        region.used += 1
        self.regions[key] = region
        self.enabled = True
        return 0

    def _pinned(self, process: Process, start: int, size: int) -> RegisteredMemory:
        """mm_iommu_do_alloc: charge, pin, and only then check for overlap.

        :raise _PartError: as a kernel with the quirk `PART_REGISTERS` returns.
        """
        space, ram = process.space, self.machine.ram
        if not size:
            raise SyscallError(self._nothing())
        pages = size // ram.page_size
        if not process.charge(pages):
            raise SyscallError("ENOMEM")
        frames: list[int] = []
        try:
            frames.extend(space.pin(address, write=True) for address in range(start, start + size, ram.page_size))
        except FaultError:
            self._let_go(frames, pages)
            if not frames or PART_REGISTERS not in self.quirks:
                raise SyscallError("EFAULT") from None
            self.machine.hit_quirk(PART_REGISTERS)
            raise _PartError(len(frames)) from None
        if any(start < first + length and first < start + size for first, length in space.regions):
            self._let_go(frames, pages)
            raise SyscallError("EINVAL")
        huge = all(start // ram.page_size + i in space.huge for i in range(pages))
        granule = min(ram.huge_page, (start | size) & -(start | size)) if huge else ram.page_size
        return RegisteredMemory(start, size, frames, granule)

    def _nothing(self) -> str:
        """The errno's name: vzalloc of the addresses of no pages (mm/vmalloc.c, __vmalloc_node_range)."""
        if NOTHING_WARNS not in self.quirks:
            return "EINVAL"
        self.machine.hit_quirk(NOTHING_WARNS)
        self.machine.warn_once(NOTHING_ALLOCATED)
        return "ENOMEM"

    def _let_go(self, frames: list[int], pages: int) -> None:
        for frame in frames:
            self.machine.ram.unpin(frame)
        self._refund(pages)

    def unregister(self, call: IoctlCall) -> int:
        """tce_iommu_unregister_pages: the error of mm_iommu_put for a region in use is dropped."""
        key = call.param["vaddr"], call.param["size"]
        region = self.regions.get(key)
        if region is None:
            raise SyscallError("ENOENT")
        if region.used == 1 and region.mapped:
            if UNREGISTERS_IN_USE not in self.quirks:
                raise SyscallError("EBUSY")
            self.machine.hit_quirk(UNREGISTERS_IN_USE)
            del self.regions[key]
        else:
            self._put(key)
        return 0

    def _put(self, key: tuple[int, int]) -> None:
        """mm_iommu_put."""
        region = self.regions.pop(key)
        region.used -= 1
        self._end(region)

    def _end(self, region: RegisteredMemory) -> None:
        """End a region, unless it is still registered or mapped."""
        if not region.used and not region.mapped and self.space is not None:
            del self.space.regions[region.start, region.size]
            self._let_go(region.frames, region.size // self.machine.page_size)

    # -- windows

    def make_default_window(self, process: Process) -> str | None:
        """See `SpaprTce`."""
        pending = self.pending
        problem = super().make_default_window(process)
        if pending and not problem and self.pe is not None:
            self.windows.append(ContainerWindow(self.pe.table, self.pe.window_size, self.table_pages, {}))
        return problem

    def create(self, call: IoctlCall) -> int:
        """tce_iommu_create_window, tce_iommu_create_table: its table is charged before it is made.

        Firmware's rules choose the bus address: `tcelab.papr.windowcreation.Windows.create`.
        """
        pe, process = self.pe, call.process
        assert pe is not None
        shift, size, levels = (call.param[name] for name in ("page_shift", "window_size", "levels"))
        if len(self.windows) == windowcreation.MOST:
            raise SyscallError("ENOSPC")
        if shift not in windowcreation.SHIFTS:
            raise SyscallError("EINVAL")
        bytes_of_table = _WHOLE if levels > 1 else size >> shift - _ENTRY_SHIFT
        if not bytes_of_table:
            raise SyscallError("EINVAL")
        pages = self._pages(bytes_of_table)
        if not process.charge(pages):
            raise SyscallError("ENOMEM")
        if size & (size - 1) or levels > 1:
            self._not_made(pages)
            raise SyscallError("EINVAL")
        if self._spoilt(pe):
            self._not_made(pages)
            raise SyscallError("ENODEV")
        number = int(any(not each.number for each in self.windows))
        try:
            table = self._made(pe, number, shift, size)
        except SyscallError:
            self._not_made(pages)
            raise
        if self.others:
            raise SyscallError(self._not_set(pe, table, pages))
        self.windows.append(ContainerWindow(table, size, pages, {}, number, _is_default(pe, number, shift, size)))
        call.param["start_addr"] = table.bus_offset
        return 0

    def _made(self, pe: EmulatedPe, number: int, shift: int, size: int) -> Table:
        """spapr_tce_create_table, once nothing is wrong with the PE: the first of a container's two windows may be the
        platform's default one. Any other is one that firmware makes: beside that, whether the container has it or not,
        or in its place, if somebody has removed it.
        """
        if not number:
            if self.windows:
                raise SyscallError("EPERM")  # they are one window, of 64 bits
            if _is_default(pe, number, shift, size):
                self._expect_entries(shift, size)
                pe.reset()
                return pe.table
        if size < 1 << shift:  # query.largest_available_block < 1ULL << (len - page_shift), shifted by less than 0
            raise SyscallError("EINVAL")
        answer = pe.create_window(shift, size.bit_length() - 1)
        if answer.status != windowcreation.SUCCESS:
            pe.refused_window = True
            raise SyscallError("ENODEV")
        return next(table for table in pe.windows.tables if table.liobn == answer.outputs["liobn"])

    def _expect_entries(self, shift: int, size: int) -> None:
        """iommu_init_table, vzalloc_node of a bitmap: of no entries, the kernel says so and goes on."""
        if size < 1 << shift:
            if BELOW_PAGE not in self.quirks:
                raise SyscallError("EINVAL")
            self.machine.hit_quirk(BELOW_PAGE)
            self.machine.warn_once(NOTHING_ALLOCATED)

    def _not_set(self, pe: EmulatedPe, table: Table, pages: int) -> str:
        """spapr_tce_unset_window, of a window that was made for a container with several groups: the errno's name."""
        if table is not pe.table:
            pe.windows.remove(table.liobn)
            pe.connect()
        return self.not_shared(pages)

    def remove(self, call: IoctlCall) -> int:
        """tce_iommu_remove_window: the window that the address lies in. The platform's default one stays there, empty
        (remove_dma_window_named: its property is too short to be that of a window that was made).
        """
        pe, start = self.pe, call.param["start_addr"]
        assert pe is not None
        if self.pending and not start:
            self.pending = False
            return 0
        found = self.find(start)
        if found is None:
            raise SyscallError("EINVAL")
        self._sweep(found)
        if not found.default:
            pe.windows.remove(found.table.liobn)
            pe.connect()
        self._refund(found.pages)
        self.windows.remove(found)
        return 0

    # -- MAP and UNMAP

    def build_v2(self, call: IoctlCall) -> int:
        """Exchange the entries page by page, with addresses from the regions; roll back if one fails."""
        found = self.find(call.param["iova"])
        assert found is not None
        space, unit = call.process.space, 1 << found.shift
        first = (call.param["iova"] - found.start) >> found.shift
        address, end = call.param["vaddr"], first + (call.param["size"] >> found.shift)
        if end > found.entries:
            raise NotModelledError("what a kernel that does not refuse it makes of a MAP past its window's end")
        replaced: list[tuple[int, RegisteredMemory | None]] = []
        for entry in range(first, end):
            region = space.region(address, unit)
            if region is None or unit > region.granule:
                self._roll_back_v2(found, first, replaced)
                raise SyscallError("EINVAL")
            frame = region.frames[(address - region.start) // self.machine.page_size]
            word = frame + address % self.machine.page_size | call.param["flags"]
            old = found.table.get(entry)
            replaced.append((old, found.users.get(entry)))
            found.table.put(entry, word)
            self._use(found, entry, region, old)
            address += unit
        return 0

    def _roll_back_v2(
        self, found: ContainerWindow, first: int, replaced: list[tuple[int, RegisteredMemory | None]]
    ) -> None:
        self.clear_v2(found, first, len(replaced))
        live = [(entry, old, region) for entry, (old, region) in enumerate(replaced, first) if old & tce.PERMISSIONS]
        if live and ROLLBACK in self.quirks:
            self.machine.hit_quirk(ROLLBACK, tuple((found.table.liobn, entry) for entry, _, _ in live))
            return
        for entry, old, region in live:
            found.table.put(entry, old)
            self._use(found, entry, region)

    def clear_v2(self, found: ContainerWindow, first: int, pages: int) -> None:
        """Empty entries. Those past the window's end fail one by one, without an error."""
        for entry in range(first, min(first + pages, found.entries)):
            old = found.table.get(entry)
            found.table.put(entry, 0)
            self._use(found, entry, None, old)

    def _sweep(self, found: ContainerWindow) -> None:
        """The whole window, including entries that a hypercall stored, which are not counted."""
        for entry in found.table.live()[0].tolist():
            self.clear_v2(found, entry, 1)

    def _use(
        self, found: ContainerWindow, entry: int, region: RegisteredMemory | None, old: int = tce.PERMISSIONS
    ) -> None:
        """mm_iommu_mapped_inc and mm_iommu_mapped_dec.

        :param old: what stood there. If it gave no permission, the driver does not look who used it: a hypercall that
            cleared an entry of its own leaves that user counted for good (tce_iommu_clear, DMA_NONE).
        """
        if old & tce.PERMISSIONS and (before := found.users.pop(entry, None)) is not None:
            before.mapped -= 1
            self._end(before)
        if region is not None:
            region.mapped += 1
            found.users[entry] = region
