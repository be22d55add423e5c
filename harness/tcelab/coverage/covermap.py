"""The file that a QEMU's plugin marks executed instructions in: one for each QEMU, in memory alone.

A page of header and then a byte for each instruction of each range (`plugin.c`); most of it is never touched, and takes
no memory. The plugin only sets bits, the harness reads and clears them.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Final

HEADER: Final = 4096
MAGIC: Final = 0x54434543
RANGES: Final = 64
"""Most ranges."""
INSTRUCTION: Final = 4
EXECUTED, FELL, TOOK = 1, 2, 4

_LOADED: Final = 24
"""Where in the header the plugin says that it was loaded."""

Range = tuple[int, int]
"""Guest virtual addresses: first, and behind the last."""


class CoverMap:
    """:ivar fd: of the file; the plugin's option is `argument`."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._ranges = ranges
        self._offsets = list(_offsets(ranges))
        size = HEADER + sum(_room(each) for each in ranges)
        self.fd = os.memfd_create("tcelab-coverage", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._memory = mmap.mmap(self.fd, size)
        rows = [number for each, at in zip(ranges, self._offsets, strict=True) for number in (*each, at)]
        head = struct.pack(f"<4Q{len(rows)}Q", MAGIC, size, len(ranges), 0, *rows)
        self._memory[: len(head)] = head

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
        for each, at in zip(self._ranges, self._offsets, strict=True):
            _punch(self._memory, at, _room(each))

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
