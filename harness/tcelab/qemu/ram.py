"""Guest RAM: an anonymous file that the harness makes, QEMU inherits, and nobody can leave behind."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

from tcelab.errors import Unsupported
from tcelab.tag import PAGE, compact

MIB: Final = 1 << 20
HEADROOM: Final = 128 * MIB
"""What QEMU and the harness need beside the guest's memory."""


def available() -> int:
    """Bytes that can still be had: the host's MemAvailable, or less in a memory control group."""
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


class Ram:
    """`size` bytes of guest RAM, mapped here as well.

    :ivar fd: what QEMU inherits.
    """

    def __init__(self, size: int) -> None:
        """:raise Unsupported: the host has no room for it."""
        room = available()
        if size + HEADROOM > room:
            raise Unsupported(
                f"no room for guest RAM: {size // MIB} MiB (and {HEADROOM // MIB} MiB for QEMU) wanted,"
                f" {room // MIB} MiB available",
                next_step="free memory, or give less with --memory MIB",
            )
        self.size = size
        self.fd = os.memfd_create("tcelab-ram", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ)

    def read(self, address: int, size: int) -> bytes | None:
        """Guest physical memory; None where there is no RAM."""
        if not 0 <= address <= self.size - size:
            return None
        return self._map[address : address + size]

    def page(self, address: int) -> bytes | None:
        """The IOMMU page at `address`, `tag.compact`ed; None if not (wholly) in RAM."""
        page = self.read(address, PAGE)
        return None if page is None else compact(page)

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)
