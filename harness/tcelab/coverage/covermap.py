"""The file that a QEMU's plugin marks executed instructions in: one for each QEMU, in memory alone.

A page of header and then a byte for each instruction of each range (`plugin.c`); most of it is never touched, and takes
no memory. The plugin only sets bits, the harness reads and clears them.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

HEADER: Final = 4096
MAGIC: Final = 0x54434543
RANGES: Final = 64
"""Most ranges."""
INSTRUCTION: Final = 4
EXECUTED, FELL, TOOK = 1, 2, 4

_LOADED, _ROWS = 24, 32
"""Where in the header the plugin says that it was loaded, and where the ranges are."""

Range = tuple[int, int]
"""Guest virtual addresses: first, and behind the last."""


class CoverMap:
    """:ivar fd: of the file; the plugin's option is `argument`."""

    def __init__(self, ranges: Sequence[Range], movable: Sequence[Range] = ()) -> None:
        """:param movable: ranges of which a copy may be looked at elsewhere, see `move`."""
        self._movable = movable
        self._ranges = [*ranges, *movable]
        self._offsets = list(_offsets(self._ranges))
        self._count = len(ranges)
        size = HEADER + sum(map(_room, self._ranges))
        self.fd = os.memfd_create("tcelab-coverage", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._memory = mmap.mmap(self.fd, size)
        self._memory[:_ROWS] = struct.pack("<4Q", MAGIC, size, len(self._ranges), 0)
        self._ranges[self._count :] = [(0, 0)] * len(movable)
        self._write()

    def move(self, by: int) -> None:
        """From now on, the movable ranges are looked at that far behind themselves as well. What was there before must
        have been read.
        """
        self._ranges[self._count :] = [(start + by, end + by) for start, end in self._movable]
        self._write()

    def _write(self) -> None:
        rows = [number for each, at in zip(self._ranges, self._offsets, strict=True) for number in (*each, at)]
        head = struct.pack(f"<{len(rows)}Q", *rows)
        self._memory[_ROWS : _ROWS + len(head)] = head

    @property
    def loaded(self) -> bool:
        """The plugin has come up and found the file."""
        return bool(struct.unpack_from("<Q", self._memory, _LOADED)[0])

    def read(self, start: int, size: int) -> bytes | None:
        """A byte for each instruction from an address on; None: no range has it all.

        :param size: in bytes of code.
        """
        for (first, last), at in zip(self._ranges, self._offsets, strict=True):
            if first <= start and start + size <= last:
                begin = at + (start - first) // INSTRUCTION
                return self._memory[begin : begin + size // INSTRUCTION]
        return None

    def clear(self) -> None:
        """Nothing was executed so far."""
        size = len(self._memory)
        for begin, end in pairwise([*self._offsets, size]):
            _punch(self._memory, begin, end - begin)

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)


def _room(each: Range) -> int:
    """Whole pages, so that each range can be cleared by itself."""
    return -(-((each[1] - each[0]) // INSTRUCTION) // mmap.PAGESIZE) * mmap.PAGESIZE


def _offsets(ranges: Sequence[Range]) -> Iterator[int]:
    at = HEADER
    for each in ranges:
        yield at
        at += _room(each)


def _punch(memory: mmap.mmap, at: int, size: int) -> None:
    """Give the pages back: they read as zeros in every process that maps them."""
    memory.madvise(mmap.MADV_REMOVE, at, size)
