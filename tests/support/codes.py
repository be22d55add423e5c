"""Instructions of the Power ISA that tests of coverage need, as little-endian words."""

from __future__ import annotations

import struct
from collections.abc import Sequence

NOP, BLR, SC, TRAP = 0x60000000, 0x4E800020, 0x44000002, 0x0FE00000
BEQLR = 0x4D820020
BCTRL = 0x4E800421


def beq(offset: int) -> int:
    """Branch if equal, to an offset from itself."""
    return 0x41820000 | (offset & 0xFFFC)


def b(offset: int) -> int:
    return 0x48000000 | (offset & 0x03FFFFFC)


def bl(offset: int) -> int:
    return b(offset) | 1


def code(words: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)
