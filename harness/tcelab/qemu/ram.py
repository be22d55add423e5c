"""Guest RAM: an anonymous file that the harness makes, QEMU inherits, and nobody can leave behind; or a base's file,
of which a fork has a private copy.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from tcelab.errors import HarnessError, Unsupported
from tcelab.program.pagetags import PAGE, compact
from tcelab.qemu.processmemory import ProcessMemory

MIB: Final = 1 << 20
HEADROOM: Final = 128 * MIB
"""What QEMU and the harness need beside the guest's memory."""

CLOSED: Final = "guest RAM was let go"

FORK_NEEDS: Final = 100 * MIB
"""Bytes that a fork has written once it has run a program; a long program may write more, up to all of RAM."""


def available() -> int:
    """Bytes that are still available: the host's MemAvailable, or less in a memory control group."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    room = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        most, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return room
    # The page cache counts as used, but is given back.
    cache = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    return room if most == "max" else min(room, int(most) - used + cache)


class Ram(Protocol):
    """Guest RAM as the harness sees it.

    :ivar size: bytes.
    :ivar fd: what QEMU inherits.
    """

    size: int
    fd: int

    def attach(self, pid: int) -> None:
        """QEMU, process `pid`, has mapped the RAM."""
        ...

    def read(self, address: int, size: int) -> bytes | None:
        """Guest physical memory; None where there is no RAM."""
        ...

    def write(self, address: int, data: bytes | bytearray) -> None:
        """Into guest physical memory, which QEMU does not notice.

        :raise HarnessError: there is no RAM, or no longer.
        """
        ...

    def pages(self, addresses: Collection[int]) -> dict[int, bytes | None]:
        """The IOMMU page at each address, `tag.compact`ed; None if not (wholly) in RAM."""
        ...

    def close(self) -> None: ...


def expect_room(guest: int) -> None:
    """:raise Unsupported: the host has no room for `guest` bytes and what comes with them."""
    room = available()
    if guest + HEADROOM > room:
        raise Unsupported(
            f"no room for guest RAM: {guest // MIB} MiB (and {HEADROOM // MIB} MiB for QEMU) wanted,"
            f" {room // MIB} MiB available",
            next_step="free memory, or give less with --memory MIB",
        )


def expect_within(ram: Ram, address: int, data: bytes | bytearray) -> None:
    if not 0 <= address <= ram.size - len(data):
        raise HarnessError(f"{len(data)} bytes at {address:#x} do not fit into guest RAM of {ram.size // MIB} MiB")


class SharedRam:
    """RAM of a guest that boots: an anonymous file, mapped by QEMU and here. See `Ram`."""

    def __init__(self, size: int) -> None:
        """:raise Unsupported: the host has no room for it."""
        expect_room(size)
        self.size = size
        self.fd = os.memfd_create("tcelab-ram", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ)

    def attach(self, pid: int) -> None:
        """It is here already."""

    def read(self, address: int, size: int) -> bytes | None:
        if not 0 <= address <= self.size - size:
            return None
        try:
            return self._map[address : address + size]
        except ValueError:
            raise HarnessError(CLOSED) from None

    def write(self, address: int, data: bytes | bytearray) -> None:
        expect_within(self, address, data)
        os.pwrite(self.fd, data, address)

    def pages(self, addresses: Collection[int]) -> dict[int, bytes | None]:
        pages = {address: self.read(address, PAGE) for address in addresses}
        return {address: None if page is None else compact(page) for address, page in pages.items()}

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)


class PrivateRam:
    """RAM of a fork: a base's file that QEMU maps copy-on-write, read where QEMU has it. See `Ram`."""

    def __init__(self, fd: int, size: int) -> None:
        """:param fd: of the base's file; not closed here.
        :raise Unsupported: the host has no room for what the fork will write.
        """
        expect_room(min(size, FORK_NEEDS))
        self.size = size
        self.fd = fd
        self._memory: ProcessMemory | None = None
        self._at = 0

    def attach(self, pid: int) -> None:
        """:raise HarnessError: QEMU has not mapped the file."""
        # By name: with stacked file systems, the device numbers differ.
        path = str(Path(f"/proc/self/fd/{self.fd}").readlink())
        with suppress(OSError):  # it has ended
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                # start-end permissions offset device inode path: proc(5)
                place, _, offset, _, _, *named = line.split(maxsplit=5)
                if named == [path]:
                    self._memory = ProcessMemory(pid)
                    self._at = int(place.partition("-")[0], 16) - int(offset, 16)
                    return
        raise HarnessError("QEMU has not mapped the base's RAM file", next_step="see qemu.cmd there")

    def read(self, address: int, size: int) -> bytes | None:
        return self._pieces([address], size) if 0 <= address <= self.size - size else None

    def write(self, address: int, data: bytes | bytearray) -> None:
        expect_within(self, address, data)
        if self._memory is None:
            raise HarnessError(CLOSED)
        try:
            self._memory.write(self._at + address, data)
        except OSError as error:
            raise HarnessError(f"cannot write guest RAM: {error.strerror}") from None

    def pages(self, addresses: Collection[int]) -> dict[int, bytes | None]:
        inside = [address for address in addresses if 0 <= address <= self.size - PAGE]
        data = self._pieces(inside, PAGE)
        there = {address: compact(data[i * PAGE : (i + 1) * PAGE]) for i, address in enumerate(inside)}
        return {address: there.get(address) for address in addresses}

    def _pieces(self, addresses: Sequence[int], size: int) -> bytes:
        if self._memory is None:
            raise HarnessError(CLOSED)
        try:
            data = self._memory.pieces([self._at + address for address in addresses], size)
        except OSError as error:
            raise HarnessError(f"cannot read guest RAM: {error.strerror}") from None
        if len(data) < len(addresses) * size:
            raise HarnessError("QEMU has ended, and guest RAM with it")
        return data

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None
