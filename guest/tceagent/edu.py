"""QEMU's `edu` device: registers and its DMA engine (QEMU hw/misc/edu.c, docs/specs/edu.rst)."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tceagent.seam import Kernel, Registers

IDENTITY = 0x00
LIVENESS = 0x04
"""Holds the bits of what was written there last, inverted, and does nothing."""
SOURCE = 0x80
DESTINATION = 0x88
COUNT = 0x90
COMMAND = 0x98

IS_EDU = 0x010000ED
"""What the register IDENTITY holds."""

RUN = 0x1
TO_MEMORY = 0x2

BUFFER = 0x40000
"""Device address of the internal buffer."""
BUFFER_SIZE = 4096
LONGEST = 4000
"""Bytes of the buffer that are used: some devices fail on a transfer near the end of theirs."""

ALL_ONES = (1 << 64) - 1
"""Value of unreachable registers: the PE is isolated."""

TIME_LIMIT = 2.0
"""Seconds; a transfer takes 0.1."""
MOST = 0.095
"""Seconds after its start in which no transfer of an edu ends."""
PROBE = 0x1CE01234
"""Device and vendor of tcelab's probe, which is an edu whose transfers end at once."""
POLL = 0.001
QUICK_LIMIT = 60.0
"""As `TIME_LIMIT`, of a probe: it takes the time that QEMU, and what follows a violation, take on the host."""


def swap(value: int) -> int:
    """A 64-bit register value between the device's byte order, big endian on ppc64, and this machine's."""
    return int.from_bytes(value.to_bytes(8, "big"), sys.byteorder)


def check(size: int, offset: int) -> None:
    """:raise ValueError: the transfer would leave the bytes that are used."""
    if size < 0 or offset < 0 or offset + size > LONGEST:
        raise ValueError(
            f"a transfer of {size} bytes at {offset} leaves the {LONGEST} bytes of edu's buffer that are used"
        )


def transfer(
    kernel: Kernel,
    registers: Registers,
    iova: int,
    size: int,
    offset: int,
    *,
    to_memory: bool,
    quick: bool = False,
) -> int | None:
    """Move `size` bytes between bus address `iova` and the device's buffer at `offset`, and wait for the end.

    :param quick: see `begin`.
    :return: 0 once it ended, `ALL_ONES` when the device could not be reached, None if it did not end within the limit.
        Nothing tells whether an access was refused.
    :raise ValueError: see `check`; before the device is touched.
    """
    if not begin(registers, iova, size, offset, to_memory=to_memory, quick=quick):
        return ALL_ONES
    return 0 if wait(kernel, registers, 0.0 if quick else MOST, quick=quick) else None


def words(iova: int, size: int, offset: int, *, to_memory: bool) -> dict[int, int]:
    """What starts a transfer, see `transfer`: the value of each register, in the order in which they are written."""
    inside = BUFFER + offset
    return {
        SOURCE: inside if to_memory else iova,
        DESTINATION: iova if to_memory else inside,
        COUNT: size,
        COMMAND: RUN | (TO_MEMORY if to_memory else 0),
    }


def begin(registers: Registers, iova: int, size: int, offset: int, *, to_memory: bool, quick: bool = False) -> bool:
    """Start a transfer, see `transfer`.

    :param quick: it may isolate its PE at once, so whether registers can be reached is asked before, not after.

    :return: False when its registers cannot be reached: nothing was started then.
    :raise ValueError: see `check`; before the device is touched.
    """
    check(size, offset)
    reached = quick and registers.read64(COMMAND) != ALL_ONES
    for register, value in words(iova, size, offset, to_memory=to_memory).items():
        registers.write64(register, swap(value))
    return reached if quick else registers.read64(COMMAND) != ALL_ONES


def wait(kernel: Kernel, registers: Registers, pause: float = MOST, *, quick: bool = False) -> bool:
    """Wait until a transfer that was started has ended.

    :param pause: seconds until a transfer that has not ended is looked at again; from then on it is `POLL`.
    :return: False if it did not end within the limit. Registers that cannot be reached any more end the waiting.
    """
    end = kernel.monotonic() + (QUICK_LIMIT if quick else TIME_LIMIT)
    while swap(command := registers.read64(COMMAND)) & RUN and command != ALL_ONES:
        if kernel.monotonic() > end:
            return False
        kernel.beat()
        kernel.sleep(pause)
        pause = POLL
    return True


def identity(registers: Registers) -> int:
    """The device's identity: 0x010000ed, or all ones (32 bits) when it cannot be reached."""
    return swap(registers.read32(IDENTITY)) >> 32
