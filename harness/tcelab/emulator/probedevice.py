"""The probe (`tcelab.device.probe`) of the emulated machine: to its driver an edu, which waits for the consequences of
each page of a transfer; with doorbells above its registers.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable
from typing import Any, ClassVar, Final

from tceagent import doorbell, edu
from tceagent.doorbell import Register
from tcelab.emulator.edudevice import Edu
from tcelab.papr import dmarules

_WORD: Final = 8
_ADDRESSES: Final = 1 << 64
_INPUTS: Final = (Register.ADDRESS, Register.LENGTH, Register.STRIDE, Register.COUNT, Register.PATTERN)


class EmulatedProbe(Edu):
    """:ivar freezes: a violation isolates its PE before the next page of the transfer is asked for.

    :ivar sent: MSIs that nobody has taken yet.
    """

    identifies = edu.PROBE.to_bytes(4, "little") + Edu.identifies[4:]
    transfer_time: ClassVar[float] = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - those of an edu
        super().__init__(*args, **options)
        self.freezes = False
        self.sent = self._command = 0
        self._bell: dict[int, int] = {}

    def pieces(self, iova: int, size: int, *, to_memory: bool) -> list[dmarules.Piece]:
        """See `Edu.pieces`."""
        pieces = super().pieces(iova, size, to_memory=to_memory)
        return dmarules.stopped(pieces) if self.freezes else pieces

    # -- doorbells

    def read(self, offset: int, size: int) -> int:
        """See `Edu.read`. A doorbell's registers are little endian, and those of an edu are not."""
        if offset < Register.MAGIC or size != _WORD:
            return super().read(offset, size)
        return _turned(self._bell.get(offset, 0))

    def write(self, offset: int, size: int, value: int) -> None:
        if offset < Register.MAGIC or size != _WORD:
            super().write(offset, size, value)
        elif self._bell.get(Register.STATUS, 0) & doorbell.BUSY:
            return
        elif offset in _INPUTS:
            self._bell[offset] = _turned(value)
        elif offset == Register.COMMAND and _turned(value) & doorbell.RUN:
            self._command = _turned(value)
            self._bell[Register.STATUS] = doorbell.BUSY

    def tick(self, now: float) -> None:
        """See `PciDevice.tick`."""
        super().tick(now)
        if self._bell.get(Register.STATUS, 0) & doorbell.BUSY:
            self._ring()

    def _ring(self) -> None:
        bell = self._bell
        bell.update(dict.fromkeys((*doorbell.RESULTS.values(), Register.STATUS), 0))
        size, count = bell.get(Register.LENGTH, 0), bell.get(Register.COUNT, 0)
        if not 0 < size <= doorbell.LONGEST or not 0 < count <= doorbell.MOST:
            bell[Register.STATUS] = doorbell.INVALID
            return
        stopped = False
        for number in range(count):
            address = (bell.get(Register.ADDRESS, 0) + number * bell.get(Register.STRIDE, 0)) % _ADDRESSES
            if address + size > _ADDRESSES:
                self._count(address, errno.ERANGE)
                continue
            stopped = self._answer(address, size, stopped=stopped) or stopped
        if self._command & doorbell.INTERRUPT and self.master and not stopped:
            self.sent += 1

    def _answer(self, address: int, size: int, *, stopped: bool) -> bool:
        """Do one transfer. :param stopped: its PE is isolated. :return: whether it is afterwards."""
        to_memory = bool(self._command & doorbell.TO_MEMORY)
        pattern = self._bell.get(Register.PATTERN, 0).to_bytes(_WORD, "little")
        data = bytearray((pattern * (size // _WORD + 1))[:size]) if to_memory else bytearray(size)
        pieces = self.pieces(address, size, to_memory=to_memory)
        if stopped:
            pieces = dmarules.blocked(pieces)
        for piece in pieces:
            self.through(piece, data, piece.start, to_memory=to_memory)
        if not to_memory:
            self._bell[Register.DIGEST] = zlib.crc32(data, self._bell[Register.DIGEST])
        self.on_bus(pieces, "write" if to_memory else "read")
        refused = next((piece for piece in pieces if piece.refused), None)
        self._count(refused.iova if refused else 0, errno.ENODEV if refused else 0)
        return self.freezes and refused is not None and refused.refused != dmarules.NO_MASTER

    def _count(self, address: int, refused: int) -> None:
        if not refused:
            self._bell[Register.ALLOWED] += 1
            return
        if not self._bell[Register.REFUSED]:
            self._bell[Register.ERRNO], self._bell[Register.FIRST_REFUSED] = refused, address
        self._bell[Register.REFUSED] += 1


class EmulatedInterrupt:
    """Its MSI, see `tceagent.seam.Interrupt`."""

    def __init__(self, sleep: Callable[[float], None], device: EmulatedProbe) -> None:
        """:param sleep: lets time pass."""
        self._sleep, self._device = sleep, device
        device.sent = 0

    def wait(self, seconds: float) -> int:
        """See `tceagent.seam.Interrupt.wait`."""
        if not self._device.sent:
            self._sleep(seconds)
        came, self._device.sent = self._device.sent, 0
        return came

    def close(self, *, keep: bool) -> None:
        """Does nothing: whoever asks next begins anew."""


def _turned(value: int) -> int:
    """A word in the byte order of an edu's registers, as one of a doorbell's, or back."""
    return int.from_bytes(value.to_bytes(_WORD, "little"), "big")
