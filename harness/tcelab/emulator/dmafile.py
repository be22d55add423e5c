"""The file of the driver `tce_dma`: the kernel's DMA API, in bytes as the module takes.

Which handle a driver gets is the kernel's to choose. By itself the emulator gives the lowest that is free; a reference
gives what the other run was given, and stores what must then be in the tables. Source: guest/kmod/tce_dma_main.c; Linux
arch/powerpc/kernel/dma-iommu.c, arch/powerpc/kernel/iommu.c (ppc_iommu_map_sg: a list is refused with EIO),
arch/powerpc/platforms/pseries/iommu.c (iommu_bypass_supported_pSeriesLP, enable_ddw).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tceagent import dmadriver
from tcelab.emulator.dmaheld import Held, Mapping, merged, pages, starts
from tcelab.emulator.dmastate import PCI_MASK
from tcelab.emulator.growth import RAM
from tcelab.emulator.pci import EmulatedRegisters, PciDevice
from tcelab.emulator.process import OpenFile
from tcelab.emulator.syscallerrors import NotModelledError, SyscallError
from tcelab.papr import tce, window
from tcelab.papr.tcetable import Table
from tcelab.quirks import REFUSED_SPOILS

if TYPE_CHECKING:
    from tcelab.emulator.platform import EmulatedPe, Machine
    from tcelab.emulator.process import Process

_PERMISSIONS: Final = {0: tce.PERMISSIONS, 1: tce.READ, 2: tce.PERMISSIONS}
"""By enum dma_data_direction (arch/powerpc/platforms/pseries/iommu.c, tce_build_pSeriesLP)."""
_ALL: Final = 64
_REACHES: Final = 60
"""Bits of the addresses of a window at 1 << 59."""
_STREAMING: Final = 1
_COHERENT: Final = 2


class RegistersFile(OpenFile):
    """The file of sysfs by which a device's registers are mapped (resource0)."""

    def __init__(self, device: PciDevice) -> None:
        super().__init__()
        self._device = device

    def map(self, _offset: int, _size: int, _process: Process) -> EmulatedRegisters:
        """See `OpenFile`."""
        return EmulatedRegisters(self._device, lambda: None)


class DmaFile(OpenFile):
    """An open file: `write` does one request, `read` returns its answer, once."""

    def __init__(self, machine: Machine, process: Process) -> None:
        """:raise RefusedError: EACCES, the file is root's alone."""
        super().__init__()
        if process.uid:
            raise SyscallError("EACCES")
        self._machine, self._process = machine, process
        self._maps: dict[int, Mapping] = {}
        self._held: Held | None = None
        self._answer = b""
        machine.dma.files.append(self)

    def release(self, process: Process) -> None:
        """See `OpenFile`."""
        while self._maps:
            self._end(next(iter(self._maps)))
        if self._held is not None:
            self._unmap_lists(self._held)
        if self in self._machine.dma.files:
            self._machine.dma.files.remove(self)
        super().release(process)

    def pwrite(self, data: bytes, _offset: int) -> int:
        """:raise RefusedError: the driver refuses, and nothing was done."""
        version, command, domain, place, *args, parts, _ = dmadriver.REQUEST.unpack_from(data)
        rest = data[dmadriver.REQUEST.size :]
        if version != dmadriver.VERSION:
            raise SyscallError("EINVAL")
        if command in {dmadriver.SYNC, dmadriver.UNMAP, dmadriver.READ, dmadriver.WRITE}:
            self._of_mapping(command, args, rest)
            return len(data)
        if command in {dmadriver.MAPS, dmadriver.UNMAPS, dmadriver.LOOP, dmadriver.DROP}:
            self._of_lists(command, args)
            return len(data)
        pe, device = self._device(domain, place)
        if command == dmadriver.MASK:
            self._mask(pe, device, args)
        elif command == dmadriver.ALLOC:
            self._alloc(pe, device, args)
        elif command == dmadriver.MAP:
            each = [dmadriver.PART.unpack_from(rest, at * dmadriver.PART.size) for at in range(parts)]
            self._map(pe, device, args, [(address, size) for address, size in each])
        elif command == dmadriver.HOLD:
            each = [dmadriver.PART.unpack_from(rest, at * dmadriver.PART.size) for at in range(parts)]
            self._hold(pe, device, args, [(address, size) for address, size in each])
        elif command in {dmadriver.STATE, dmadriver.KEEP}:
            if command == dmadriver.KEEP:
                pe.keep = bool(args[0])
            self._say(device, 0)
        else:
            raise SyscallError("EINVAL")
        return len(data)

    def pread(self, size: int, _offset: int) -> bytes:
        """An answer, as far as there is any."""
        out, self._answer = self._answer[:size], self._answer[size:]
        return out

    def _device(self, domain: int, place: int) -> tuple[EmulatedPe, str]:
        for pe in self._machine.pes.values():
            for name in pe.driven:
                number, bus, rest = pe.address_of(name).split(":")
                slot, function = rest.split(".")
                if (int(number, 16), int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)) == (domain, place):
                    return pe, name
        raise SyscallError("ENODEV")

    def _say(self, device: str, value: int, extra: int = 0, more: bytes = b"") -> None:
        masks = self._machine.dma.of(device)
        bits = ((1 << each) - 1 for each in (masks.streaming, masks.coherent))
        self._answer = dmadriver.ANSWER.pack(value, *bits, masks.direct, extra) + more

    # -- masks

    def _mask(self, pe: EmulatedPe, device: str, args: list[int]) -> None:
        which, bits = args[:2]
        masks = self._machine.dma.of(device)
        if any(file.has(device) for file in self._machine.dma.files):
            raise SyscallError("EBUSY")
        direct = self._direct(pe, bits)
        if not direct and self._machine.memory.replaced(pe.phb.index, self._machine.windows):
            self._say(device, -errno.EIO)
            return
        masks.direct = direct
        if which & _STREAMING:
            masks.streaming = bits
        if which & _COHERENT:
            masks.coherent = bits
        self._say(device, 0)

    def _direct(self, pe: EmulatedPe, bits: int) -> bool:
        """With more than 32 bits, a device may use a window in which all RAM is, and with 64 it has one made. With
        less, firmware would have to move it below the mask; where it does not, the kernel asks no more for that PE.
        Nor does it where firmware has no window left, and the default one is in use: it is not replaced.
        """
        dma = self._machine.dma
        if not dma.wide or bits <= PCI_MASK:
            return False
        spoilt = pe.refused_window and REFUSED_SPOILS in self._machine.quirks
        if self._all_ram(pe) is None and pe.phb.index not in dma.refused and not spoilt:
            full = not pe.windows.query().outputs["left"]
            if bits == _ALL and not (full and self._in_use(pe)):
                self._machine.memory.map_all(pe.phb.index, self._machine.windows)
                pe.connect()
            else:
                dma.refused.add(pe.phb.index)
                pe.refused_window = True
        return self._all_ram(pe) is not None

    def _all_ram(self, pe: EmulatedPe) -> Table | None:
        """The window in which all RAM is mapped; None: there is none."""
        return self._machine.memory.window(pe.phb.index, self._machine.windows)

    def _in_use(self, pe: EmulatedPe) -> bool:
        """A mapping has entries in its default window."""
        return any(file.has_entries(device) for file in self._machine.dma.files for device in pe.devices)

    # -- mappings

    def _alloc(self, pe: EmulatedPe, device: str, args: list[int]) -> None:
        number, size = args[:2]
        ram = self._machine.ram
        frames = ram.allocate_huge(-(-size // ram.page_size))
        whole = [(frames[0], len(frames) * ram.page_size)]
        told = self._place(pe, device, whole, self._machine.dma.of(device).coherent)
        if isinstance(told, str):
            for frame in frames:
                ram.free(frame)
            self._say(device, -getattr(errno, told))
            return
        told = [(told[0][0], size)]
        entries = self._store(pe, whole, [(told[0][0], whole[0][1])], tce.PERMISSIONS)
        self._maps[number] = Mapping(device, entries, size, frames[0], tuple(frames))
        self._say(device, 1, frames[0], dmadriver.SEGMENT.pack(*told[0]))

    def _map(self, pe: EmulatedPe, device: str, args: list[int], parts: list[tuple[int, int]]) -> None:
        number, how, direction = args[:3]
        real = self._real(parts)
        told = self._place(pe, device, real, self._machine.dma.of(device).streaming)
        if isinstance(told, str):
            self._say(device, -(errno.EIO if how == dmadriver.HOW["sg"] else getattr(errno, told)))
            return
        entries = self._store(pe, real, told, _PERMISSIONS[direction])
        self._maps[number] = Mapping(device, entries, sum(size for _, size in parts))
        self._say(device, len(told), 0, b"".join(dmadriver.SEGMENT.pack(*each) for each in told))

    def _hold(self, pe: EmulatedPe, device: str, args: list[int], parts: list[tuple[int, int]]) -> None:
        """Lists, each of `args[0]` parts, to be mapped later."""
        if self._held is not None:
            raise SyscallError("EBUSY")
        each, direction = args[:2]
        real = self._real(parts)
        lists = [real[at : at + each] for at in range(0, len(real), each)]
        self._held = Held(pe, device, lists, _PERMISSIONS[direction])
        self._say(device, len(lists))

    def _of_lists(self, command: int, args: list[int]) -> None:
        held = self._held
        if held is None:
            raise SyscallError("ENOENT")
        if held.mapped and command in {dmadriver.MAPS, dmadriver.LOOP}:
            raise SyscallError("EBUSY")
        if command == dmadriver.UNMAPS and not held.mapped:
            raise SyscallError("ENOENT")
        told: list[tuple[int, int]] | str = []
        if command in {dmadriver.MAPS, dmadriver.LOOP}:
            told = self._map_lists(held)
        held.mapped = command == dmadriver.MAPS and not isinstance(told, str)
        checked = len(held.entries) * args[0] * args[1]
        if command != dmadriver.MAPS:
            self._unmap_lists(held)
        if command == dmadriver.DROP:
            self._held = None
        if isinstance(told, str):
            self._say(held.device, -errno.EIO, 0, self._told(held, 0) if command == dmadriver.LOOP else b"")
        elif command == dmadriver.MAPS:
            segments = b"".join(dmadriver.SEGMENT.pack(*each) for each in told)
            self._say(held.device, len(held.lists), 0, segments)
        else:
            self._say(held.device, 0, 0, self._told(held, checked) if command == dmadriver.LOOP else b"")

    @staticmethod
    def _told(held: Held, checked: int) -> bytes:
        """Of a loop: here nobody meets another one, for one comes after the other; and all that it reads is right."""
        return dmadriver.TOLD.pack(0, held.pe.table.liobn, 0, 0, checked, 0, 0, 0, 0, 0, 0)

    def _map_lists(self, held: Held) -> list[tuple[int, int]] | str:
        """All of them, or none. Where all RAM is mapped, they have no entries of their own, and handles are not told.

        What one round can have, each has: the lists are the same, and all else stays as it is.
        """
        out: list[tuple[int, int]] = []
        masks = self._machine.dma.of(held.device)
        if masks.direct and masks.streaming >= _REACHES:
            return out
        for real in held.lists:
            told = self._place(held.pe, held.device, real, masks.streaming)
            if isinstance(told, str):
                self._unmap_lists(held)
                return told
            held.entries += self._store(held.pe, real, told, held.permissions)
            out += told
        return out

    @staticmethod
    def _unmap_lists(held: Held) -> None:
        for entry in held.entries:
            held.pe.table.put(entry, 0)
        held.entries.clear()

    def _real(self, parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Real addresses of parts, and their bytes.

        :raise RefusedError: EFAULT or EXDEV.
        """
        space = self._process.space
        real = []
        for address, size in parts:
            frames = space.frames(address, size)
            if 0 in frames:
                raise SyscallError("EFAULT")
            if any(each != frames[0] + at * window.PAGE_SIZE for at, each in enumerate(frames)):
                raise SyscallError("EXDEV")
            real.append((frames[0] + address % window.PAGE_SIZE, size))
        return real

    def _place(
        self, pe: EmulatedPe, device: str, real: list[tuple[int, int]], bits: int
    ) -> list[tuple[int, int]] | str:
        """The handles of memory at these real addresses, or why there are none."""
        dma = self._machine.dma
        wanted, dma.wanted = dma.wanted, None
        if wanted is not None:
            return wanted
        there = self._all_ram(pe)
        if dma.of(device).direct and bits >= _REACHES:
            if any(address + size > RAM for address, size in real):
                raise NotModelledError(
                    "the emulator's frames lie outside its RAM: where all of it is mapped, they are not"
                )
            # A driver that sets no mask after VFIO had the PE gets handles in the window that there was.
            start = window.SECOND_START if there is None else there.bus_offset
            return [(start + address, size) for address, size in real]
        if self._machine.memory.replaced(pe.phb.index, self._machine.windows):
            return "ENOMEM"
        out: list[tuple[int, int]] = []
        taken: set[int] = set()
        least = int(not pe.first)
        for address, size in real:
            count = pages(address, size)
            while least < pe.table.entries and (pe.table.get(least) or least in taken):
                least += 1
            first = next(
                (
                    each
                    for each in range(least, pe.table.entries - count + 1)
                    if not any(pe.table.get(each + more) or each + more in taken for more in range(count))
                ),
                None,
            )
            if first is None:
                return "ENOMEM"
            taken.update(range(first, first + count))
            handle = pe.table.bus_offset + first * window.PAGE_SIZE + address % window.PAGE_SIZE
            if (handle + size - 1) >> bits:
                return "ENOMEM"
            out.append((handle, size))
        return merged(out)

    def _store(
        self, pe: EmulatedPe, real: list[tuple[int, int]], told: list[tuple[int, int]], permissions: int
    ) -> list[int]:
        """Have the entries lead from handles to memory, in the order of the bytes of both. Returns their numbers."""
        table, there, out = pe.table, self._all_ram(pe), []
        handles = iter([handle + at for handle, size in told for at in starts(handle, size)])
        for address, size in real:
            for at in starts(address, size):
                handle = next(handles, 0)
                number, frame = table.index(handle), (address + at) & -window.PAGE_SIZE
                if there is not None and 0 <= there.index(handle) < there.entries:
                    self._machine.dma.direct.add(there.liobn)
                    self._machine.dma.frames[(handle - there.bus_offset) & -window.PAGE_SIZE] = frame
                elif 0 <= number < table.entries:
                    table.put(number, tce.pack(frame, permissions))
                    out.append(number)
        return out

    def _of_mapping(self, command: int, args: list[int], rest: bytes) -> None:
        mapping = self._maps.get(args[0])
        if mapping is None:
            raise SyscallError("ENOENT")
        more = b""
        if command == dmadriver.UNMAP:
            self._end(args[0])
        elif command != dmadriver.SYNC:
            offset, size = args[1:3]
            if not mapping.memory or offset + size > mapping.size:
                raise SyscallError("EINVAL")
            if command == dmadriver.READ:
                more = self._each(mapping, offset, size, self._machine.ram.read)
            else:
                self._written(mapping, offset, rest)
        self._say(mapping.device, 0, 0, more)

    def _each(self, mapping: Mapping, offset: int, size: int, read: Callable[[int, int], bytes]) -> bytes:
        page = self._machine.page_size
        starts = range(offset & -page, offset + size, page)
        bounds = [(max(offset, start), min(offset + size, start + page)) for start in starts]
        return b"".join(read(mapping.memory + first, end - first) for first, end in bounds)

    def _written(self, mapping: Mapping, offset: int, data: bytes) -> None:
        page = self._machine.page_size
        for start in range(offset & -page, offset + len(data), page):
            first, end = max(offset, start), min(offset + len(data), start + page)
            self._machine.ram.write(mapping.memory + first, data[first - offset : end - offset])

    def _end(self, number: int) -> None:
        mapping = self._maps.pop(number)
        pe = next(pe for pe in self._machine.pes.values() if mapping.device in pe.devices)
        for entry in mapping.entries:
            pe.table.put(entry, 0)
        for frame in mapping.frames:
            self._machine.ram.free(frame)

    # -- what others ask of it: `tcelab.emulator.dmastate.Holder`

    def has(self, device: str) -> bool:
        """Something is mapped for a device."""
        return any(each.device == device for each in self._maps.values())

    def has_entries(self, device: str) -> bool:
        """Something is, and has entries in its default window."""
        return any(each.device == device and each.entries for each in self._maps.values())

    def unbound(self, device: str) -> None:
        """Its driver is gone, and all that it had is unmapped."""
        for number in [number for number, each in self._maps.items() if each.device == device]:
            self._end(number)
