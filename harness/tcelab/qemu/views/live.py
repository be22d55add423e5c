"""The table in QEMU's memory, at the address from QEMU's trace.

Entries are host-endian u64, window-relative: QEMU hw/ppc/spapr_iommu.c, struct SpaprTceTable.table.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from tcelab.errors import HarnessError, Unsupported
from tcelab.papr import window
from tcelab.qemu.processmemory import ProcessMemory
from tcelab.run.record import TableView

ENTRY: Final = 8


class LiveMemory:
    """Reads (and, for self-tests, writes) the memory of the QEMU process."""

    def __init__(self, pid: int) -> None:
        """:raise Unsupported: the host does not let us read our own child."""
        try:
            self._memory = ProcessMemory(pid)
        except OSError as error:
            raise Unsupported(
                f"cannot open the memory of QEMU (/proc/{pid}/mem): {error.strerror}",
                next_step="allow a parent to trace its child: /proc/sys/kernel/yama/ptrace_scope at most 1",
            ) from None
        self._room: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)

    def table(self, liobn: int, at: int, shape: window.Shape) -> TableView:
        """Read one whole table.

        :param at: host address of its first entry, in QEMU's address space.
        :param shape: of its window, which its memory does not tell.
        :raise HarnessError: there is nothing at that address.
        """
        entries = shape.entries
        if len(self._room) < entries:
            self._room = np.empty(entries, np.uint64)
        words = self._room[:entries]
        try:
            got = self._memory.fill(words, at)
        except OSError as error:
            raise HarnessError(f"LIOBN {liobn:#x}: no table at {at:#x} in QEMU: {error.strerror}") from None
        if got != entries * ENTRY:
            raise HarnessError(f"LIOBN {liobn:#x}: only {got} bytes of the table at {at:#x} in QEMU")
        index = np.flatnonzero(words != 0).astype(np.uint32)  # eight times as fast as without the comparison
        return TableView(liobn, "live", entries, index, words[index], shape.page_shift, shape.start)

    def entries(self, at: int, first: int, count: int) -> list[int]:
        """Some entries of a table at `at`. :raise OSError: there is nothing at that address."""
        return list(struct.unpack(f"={count}Q", self._memory.read(at + first * ENTRY, count * ENTRY)))

    def flip(self, at: int, index: int, bit: int) -> tuple[int, int]:
        """Flip one bit of one entry. Returns the entry before and after."""
        place = at + index * ENTRY
        (before,) = struct.unpack("=Q", self._memory.read(place, ENTRY))
        after = before ^ (1 << bit)
        self._memory.write(place, struct.pack("=Q", after))
        return before, after

    def close(self) -> None:
        self._memory.close()
