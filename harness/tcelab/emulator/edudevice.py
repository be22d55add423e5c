"""QEMU's `edu` device: registers, its buffer, and a DMA engine with a timer (QEMU hw/misc/edu.c).

Registers are big endian on qemu-system-ppc64 (DEVICE_NATIVE_ENDIAN). Its transfers go through the PE's table, IOMMU
page by page; the device does not learn what was refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import ClassVar, Final

from tceagent import edu as registers
from tceagent import uapi
from tcelab.emulator.addressspaces import MASK, EmulatedRam
from tcelab.emulator.pci import PciDevice, RegionInfo
from tcelab.papr import dmarules, tce
from tcelab.papr.isolationrules import Isolation
from tcelab.papr.tcetable import Table
from tcelab.run.record import Refusal

IDENTITY: Final = registers.IS_EDU
LIVENESS: Final = registers.LIVENESS
ALL_ONES: Final = 0xFFFFFFFF
"""Value of reads where there is no register."""
TRANSFER_TIME: Final = 0.1
"""Seconds of the guest's clock between the command and the transfer."""

BAR_SIZE: Final = 1 << 20

_CONFIG: Final = bytes.fromhex("34 12 e8 11 02 00 10 00 10 00 ff 00 00 00 00 00".replace(" ", ""))
"""Vendor, device, command as vfio-pci leaves it, status, revision, class."""


_TURN = itertools.count()


class Edu(PciDevice):
    """:ivar memory: its buffer, 4096 bytes, which outlives open and close.

    :ivar mask: of bus addresses, ANDed before the transfer (property dma_mask).
    """

    order = "big"
    identifies: ClassVar[bytes] = _CONFIG
    transfer_time: ClassVar[float] = TRANSFER_TIME
    regions: ClassVar = {uapi.BAR0_REGION: RegionInfo(BAR_SIZE, 7)}

    def __init__(
        self,
        name: str,
        table: Table,
        ram: EmulatedRam,
        refuse: Callable[[Refusal], None],
        mask: int = MASK,
        *,
        isolation: Isolation | None = None,
    ) -> None:
        super().__init__(name, self.identifies, table, isolation)
        self.memory = bytearray(registers.BUFFER_SIZE)
        self.mask = mask
        self._ram, self._refuse = ram, refuse
        self._words = {registers.SOURCE: 0, registers.DESTINATION: 0, registers.COUNT: 0, registers.COMMAND: 0}
        self._inverted = 0
        self._due: float | None = None
        self._now = 0.0

    def move(self) -> None:
        """Another QEMU has it now, and nothing of it was saved: a transfer under way is never done."""
        self.memory[:] = bytes(len(self.memory))
        self._words = dict.fromkeys(self._words, 0)
        self._inverted, self._due = 0, None

    def read(self, offset: int, size: int) -> int:
        """Read a register, in the device's byte order. An unsupported size reads as all ones."""
        if size == 8 and offset in self._words:  # noqa: PLR2004 - bytes
            return self._words[offset]
        if size == 4:  # noqa: PLR2004 - bytes
            known = {0: IDENTITY, LIVENESS: self._inverted} | self._words
            return known.get(offset, ALL_ONES) & 0xFFFFFFFF
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == LIVENESS and size == 4:  # noqa: PLR2004 - bytes
            self._inverted = ~value & 0xFFFFFFFF
        if size not in {4, 8} or offset not in self._words or self._words[registers.COMMAND] & registers.RUN:
            return  # writes are ignored while a transfer runs
        if offset == registers.COMMAND:
            if not value & registers.RUN:
                return
            self._due = self._now + self.transfer_time
            self.turn = next(_TURN)
        self._words[offset] = value

    def tick(self, now: float) -> None:
        """Let time pass: do a transfer that is due."""
        self._now = now
        if self._due is not None and now >= self._due:
            self._due = None
            self._transfer()
            self._words[registers.COMMAND] &= ~registers.RUN

    def _transfer(self) -> None:
        to_memory = bool(self._words[registers.COMMAND] & registers.TO_MEMORY)
        inside, iova = self._words[registers.SOURCE], self._words[registers.DESTINATION]
        if not to_memory:
            inside, iova = iova, inside
        size, at = self._words[registers.COUNT], inside - registers.BUFFER
        if not 0 <= at <= at + size <= registers.BUFFER_SIZE:
            return  # as of QEMU 42f599172ae0: a transfer outside the buffer is skipped
        pieces = self.pieces(iova & self.mask, size, to_memory=to_memory)
        for piece in pieces:
            self.through(piece, self.memory, at + piece.start, to_memory=to_memory)
        self.on_bus(pieces, "write" if to_memory else "read")

    def pieces(self, iova: int, size: int, *, to_memory: bool) -> list[dmarules.Piece]:
        """Of a transfer, by the table as it is now."""
        return dmarules.pieces(
            iova,
            size,
            to_memory=to_memory,
            entries=self.table.entries,
            permissions=lambda entry: tce.permissions(self.table.get(entry)),
            window_start=self.table.bus_offset,
            page_shift=self.table.page_shift,
            more=self.more(),
            master=self.wish,
            isolated=not self.isolation.dma,
        )

    def through(self, piece: dmarules.Piece, memory: bytearray, at: int, *, to_memory: bool) -> None:
        """Move one piece between guest memory and a place in the device's own, or have it refused."""
        inside = slice(at, at + piece.size)
        if piece.refused:
            direction = "write" if to_memory else "read"
            line = f"{self.name}: {direction} of {piece.size} bytes at {piece.iova:#x} refused: {piece.refused}"
            self._refuse(Refusal("write" if to_memory else "read", piece.told, piece.size, line))
            if not to_memory:
                memory[inside] = bytes(piece.size)
            return
        table = self.second if piece.window and self.second is not None else self.table
        inside_page = piece.offset & (1 << table.page_shift) - 1
        address = self.real(table, tce.address(table.get(piece.entry), table.page_shift) + inside_page)
        if to_memory:
            self._ram.write(address, bytes(memory[inside]))
        else:
            memory[inside] = self._ram.read(address, piece.size)
