"""The doorbells of tcelab's probe: many transfers of any length at any address, by registers above those of an edu.

Numbers are little endian, 64 bits. See docs/probe.md.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tceagent.seam import Interrupt, Kernel, Registers


class Register:
    """Offsets of the doorbells' registers.

    Write ADDRESS, LENGTH, STRIDE, COUNT and PATTERN, then COMMAND. The transfer number i is about ADDRESS + i * STRIDE
    (modulo 2^64). Data to memory are PATTERN, repeated; of data from memory, DIGEST is the CRC-32 of all that was read.
    """

    MAGIC = 0x1000
    ADDRESS = 0x1008
    LENGTH = 0x1010
    STRIDE = 0x1018
    COUNT = 0x1020
    PATTERN = 0x1028
    COMMAND = 0x1030
    STATUS = 0x1038
    ALLOWED = 0x1040
    REFUSED = 0x1048
    ERRNO = 0x1050
    FIRST_REFUSED = 0x1058
    DIGEST = 0x1060


RESULTS = {
    "allowed": Register.ALLOWED,
    "refused": Register.REFUSED,
    "errno": Register.ERRNO,
    "first_refused": Register.FIRST_REFUSED,
    "digest": Register.DIGEST,
}
"""What a doorbell tells at its end, by the name that an outcome has for it."""

RUN = 1
TO_MEMORY = 2
INTERRUPT = 4
SHARED = 8
"""Bits of COMMAND: the last: by the files that QEMU has passed, judged by the probe's own table alone."""
BUSY = 1
INVALID = 2
"""Bits of STATUS; the second: LENGTH or COUNT is 0 or too large, and nothing was done."""

LONGEST = 1 << 20
"""Bytes of one transfer."""
MOST = 1 << 20
"""Transfers of one doorbell."""

ALL_ONES = (1 << 64) - 1
"""Value of unreachable registers: the PE is isolated."""

TIME_LIMIT = 60.0
"""Seconds in which a doorbell must make progress."""
INTERRUPT_LIMIT = 30.0
"""Seconds between the end of its transfers and its MSI: as long as QEMU and the host may take."""
LEAST, LONG = 0.01, 0.5
"""Seconds, at first and at most, after which its status is looked at: an isolated device sends no MSI."""


def words(iova: int, size: int, *, stride: int, count: int, pattern: int, command: int) -> dict[int, int]:
    """What starts a doorbell: the value of each register, in the order in which they are written."""
    return {
        Register.ADDRESS: iova,
        Register.LENGTH: size,
        Register.STRIDE: stride,
        Register.COUNT: count,
        Register.PATTERN: pattern,
        Register.COMMAND: command | RUN,
    }


def swap(value: int) -> int:
    """A 64-bit register value between the doorbells' byte order, which is little, and this machine's."""
    return int.from_bytes(value.to_bytes(8, "little"), sys.byteorder)


class Doorbell:
    """Of one device, as its driver sees it."""

    def __init__(self, kernel: Kernel, registers: Registers) -> None:
        self._kernel, self._registers = kernel, registers

    def reached(self) -> bool:
        """Can its registers be reached?"""
        return self._registers.read64(Register.STATUS) != ALL_ONES

    def begin(self, values: dict[int, int]) -> None:
        """See `words`."""
        for register, value in values.items():
            self._registers.write64(register, swap(value))

    def end(self, line: Interrupt | None, *, awaited: bool) -> int | None:
        """Wait until it has ended, and for its MSI.

        :param line: its MSI, if the program asks for that one; `awaited`: the device may send it.
        :return: how many MSIs came; None: it did not end within the limit.
        """
        came, pause, before = 0, LEAST, -1
        limit = self._kernel.monotonic() + TIME_LIMIT
        while True:
            status = self._registers.read64(Register.STATUS)
            if status == ALL_ONES or not swap(status) & BUSY:
                break
            if (done := self._done()) != before:
                before, limit = done, self._kernel.monotonic() + TIME_LIMIT
            if self._kernel.monotonic() > limit:
                return None
            self._kernel.beat()
            if line is None:
                self._kernel.sleep(pause)
            else:
                came += line.wait(pause)
            pause = min(2 * pause, LONG)
        if line is not None:
            came += line.wait(INTERRUPT_LIMIT if awaited and not came and status != ALL_ONES else 0.0)
        return came

    def _done(self) -> int:
        return self._tell(Register.ALLOWED) + self._tell(Register.REFUSED)

    def status(self) -> int:
        """`INVALID`, 0, or `ALL_ONES`."""
        return self._tell(Register.STATUS)

    def results(self) -> dict[str, int]:
        """What it tells, see `RESULTS`."""
        return {name: self._tell(register) for name, register in RESULTS.items()}

    def _tell(self, register: int) -> int:
        return swap(self._registers.read64(register))
