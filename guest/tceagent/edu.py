"""QEMU's `edu` device: registers and its DMA engine (QEMU hw/misc/edu.c, docs/specs/edu.rst)."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tceagent.seam import Kernel, Registers

SOURCE = 0x80
DESTINATION = 0x88
COUNT = 0x90
COMMAND = 0x98

RUN = 0x1
TO_MEMORY = 0x2

BUFFER = 0x40000
"""Device address of the internal buffer."""
BUFFER_SIZE = 4096
LONGEST = 4095
"""Bytes of the buffer that may be used: QEMU up to 9.0 aborts when a transfer reaches the last one."""

TIME_LIMIT = 2.0
"""Seconds; a transfer takes 0.1."""
_POLL = 0.001


def swap(value: int) -> int:
    """A 64-bit register value between the device's byte order, big endian on ppc64, and this machine's."""
    return int.from_bytes(value.to_bytes(8, "big"), sys.byteorder)


def check(size: int, offset: int) -> None:
    """:raise ValueError: the transfer would leave the device's buffer, at which QEMU up to 9.0 aborts, and 9.1 to
    10.2 overrun their heap.
    """
    if size < 0 or offset < 0 or offset + size > LONGEST:
        raise ValueError(f"a transfer of {size} bytes at {offset} leaves the {LONGEST} usable bytes of edu's buffer")


def transfer(kernel: Kernel, registers: Registers, iova: int, size: int, offset: int, *, to_memory: bool) -> bool:
    """Move `size` bytes between bus address `iova` and the device's buffer at `offset`, and wait for the end.

    :return: False if it did not end within the limit. Nothing tells whether an access was refused.
    :raise ValueError: see `check`; before the device is touched.
    """
    check(size, offset)
    inside = BUFFER + offset
    registers.write64(SOURCE, swap(inside if to_memory else iova))
    registers.write64(DESTINATION, swap(iova if to_memory else inside))
    registers.write64(COUNT, swap(size))
    registers.write64(COMMAND, swap(RUN | TO_MEMORY if to_memory else RUN))
    end = kernel.monotonic() + TIME_LIMIT
    while swap(registers.read64(COMMAND)) & RUN:
        if kernel.monotonic() > end:
            return False
        kernel.sleep(_POLL)
    return True
