"""QEMU's `iommu-testdev`: it writes to any bus address, at once, and tells whether the platform refused that.

Its accesses do not depend on bus mastering. It stores a pattern of its own, and has no buffer. Source: QEMU
hw/misc/iommu-testdev.c, include/hw/misc/iommu-testdev.h.
"""

from __future__ import annotations

import sys

from tceagent.errors import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tceagent.seam import Registers

MODEL = 0x00051B36
"""Device and vendor, as the configuration space begins."""
TRIGGER = 0x00
ADDRESS_LOW = 0x04
ADDRESS_HIGH = 0x08
LENGTH = 0x0C
RESULT = 0x10
DOORBELL = 0x14
READ_BACK_LOW = 0x1C
READ_BACK_HIGH = 0x20

ARM = 1
REFUSED = 0xDEAD0002
"""What RESULT holds once a write was refused, at least in part."""
MISMATCH = 0xDEAD0004
"""It wrote all; what it then read elsewhere, at READ_BACK, was something else. Nobody asks it to."""
PATTERN = 0x12345678
"""Little endian, again and again."""
LONGEST = 1 << 14


def check(size: int) -> None:
    """:raise ValueError: the transfer is longer than is asked of it."""
    if not 0 < size <= LONGEST:
        raise ValueError(f"an iommu-testdev writes 1..{LONGEST} bytes here, not {size}")


def pattern(size: int) -> bytes:
    """What it writes."""
    return (PATTERN.to_bytes(4, "little") * (size // 4 + 1))[:size]


def swap(value: int) -> int:
    """A register value between the device's byte order, little endian, and this machine's."""
    return int.from_bytes(value.to_bytes(4, "little"), sys.byteorder)


def write(registers: Registers, iova: int, size: int) -> bool:
    """Have it write `size` bytes at a bus address. Returns whether any of it was refused.

    :raise ValueError: see `check`; before the device is touched.
    :raise RefusedError: EIO, it did something else.
    """
    check(size)
    registers.write32(ADDRESS_LOW, swap(iova & 0xFFFFFFFF))
    registers.write32(ADDRESS_HIGH, swap(iova >> 32))
    registers.write32(LENGTH, swap(size))
    registers.write32(DOORBELL, swap(ARM))
    registers.read32(TRIGGER)
    result = swap(registers.read32(RESULT))
    if result not in (0, REFUSED, MISMATCH):
        raise RefusedError("EIO")
    return result == REFUSED
