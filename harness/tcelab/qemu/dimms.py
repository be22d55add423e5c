"""Guest RAM to which memory is plugged in: for each slot an anonymous file, which QEMU inherits empty.

QEMU opens the file again by its descriptor, so it takes no file from the file system and nothing is left behind.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection
from dataclasses import dataclass

from tcelab.errors import HarnessError
from tcelab.program.pagetags import PAGE, compact
from tcelab.qemu.ram import CLOSED, Ram, expect_room


@dataclass(slots=True)
class _Dimm:
    """:ivar fd: of its file. `address`: where the guest has it; None: it is not there yet."""

    fd: int
    size: int
    memory: mmap.mmap
    address: int | None = None


class GrowingRam:
    """Another RAM, with what is plugged in. See `tcelab.qemu.ram.Ram`.

    :ivar free: descriptors of empty files, one for each free slot.
    """

    def __init__(self, ram: Ram, slots: int) -> None:
        self._ram = ram
        self.size, self.fd = ram.size, ram.fd
        self.free = [os.memfd_create(f"tcelab-dimm-{number}", os.MFD_CLOEXEC) for number in range(slots)]
        self._dimms: dict[str, _Dimm] = {}

    def take(self, name: str, size: int) -> int:
        """A file for memory that is about to be plugged in: its descriptor.

        :raise Unsupported: the host has no room for it.
        """
        expect_room(size)
        fd = self.free.pop(0)
        os.ftruncate(fd, size)
        self._dimms[name] = _Dimm(fd, size, mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ))
        return fd

    def plug(self, name: str, address: int) -> None:
        """The guest has it from an address on."""
        self._dimms[name].address = address

    def unplug(self, name: str) -> int:
        """QEMU has let go of it. What was in it is forgotten. Returns its bytes."""
        dimm = self._dimms.pop(name)
        dimm.memory.close()
        os.ftruncate(dimm.fd, 0)
        self.free.append(dimm.fd)
        return dimm.size

    def attach(self, pid: int) -> None:
        """See `Ram.attach`."""
        self._ram.attach(pid)

    def read(self, address: int, size: int) -> bytes | None:
        """See `Ram.read`."""
        for dimm in self._dimms.values():
            if dimm.address is not None and 0 <= address - dimm.address <= dimm.size - size:
                try:
                    return dimm.memory[address - dimm.address : address - dimm.address + size]
                except ValueError:
                    raise HarnessError(CLOSED) from None
        return self._ram.read(address, size)

    def write(self, address: int, data: bytes | bytearray) -> None:
        """See `Ram.write`: memory that was there from the start."""
        self._ram.write(address, data)

    def pages(self, addresses: Collection[int]) -> dict[int, bytes | None]:
        """See `Ram.pages`."""
        found = self._ram.pages(addresses)
        if self._dimms:
            for address in [address for address, page in found.items() if page is None]:
                page = self.read(address, PAGE)
                found[address] = None if page is None else compact(page)
        return found

    def close(self) -> None:
        """See `Ram.close`."""
        self._ram.close()
        for dimm in self._dimms.values():
            dimm.memory.close()
            self.free.append(dimm.fd)
        self._dimms.clear()
        while self.free:
            os.close(self.free.pop())
