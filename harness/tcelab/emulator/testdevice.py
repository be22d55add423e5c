"""QEMU's `iommu-testdev`: it writes a pattern to any bus address, at once (QEMU hw/misc/iommu-testdev.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from tceagent import testdev as registers
from tceagent import uapi
from tcelab.emulator.addressspaces import EmulatedRam
from tcelab.emulator.pci import PciDevice, RegionInfo
from tcelab.papr import dmarules, tce
from tcelab.papr.isolationrules import Isolation
from tcelab.papr.tcetable import Table
from tcelab.run.record import Refusal

_CONFIG: Final = bytes.fromhex("36 1b 05 00 02 00 10 00 00 00 ff 00 00 00 00 00".replace(" ", ""))
_IDLE: Final = 0xFFFFFFFF
_NOT_ARMED: Final = 0xDEAD0005
_WORD: Final = 4


class TestDevice(PciDevice):
    """Its registers, and what they make it do."""

    __test__ = False
    regions: ClassVar = {uapi.BAR0_REGION: RegionInfo(4096, 7)}

    def __init__(
        self,
        name: str,
        table: Table,
        ram: EmulatedRam,
        refuse: Callable[[Refusal], None],
        isolation: Isolation | None = None,
    ) -> None:
        super().__init__(name, _CONFIG, table, isolation)
        self._ram, self._refuse = ram, refuse
        self._words: dict[int, int] = {registers.RESULT: _IDLE}
        self._armed = False

    def read(self, offset: int, size: int) -> int:
        """See `PciDevice`. Other sizes than 4 bytes are refused."""
        if size != _WORD:
            return (1 << 8 * size) - 1
        if offset == registers.TRIGGER:
            self._words[registers.RESULT] = self._write() if self._armed else _NOT_ARMED
            self._armed = False
            return 0
        return self._words.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """See `PciDevice`."""
        if size != _WORD:
            return
        if offset == registers.DOORBELL:
            self._armed = bool(value & registers.ARM)
        else:
            self._words[offset] = value

    def _write(self) -> int:
        """What became of it."""
        low, high = (self._words.get(each, 0) for each in (registers.ADDRESS_LOW, registers.ADDRESS_HIGH))
        size = self._words.get(registers.LENGTH, 0)
        data = registers.pattern(size)
        tables = [each for each in (self.table, self.second) if each is not None]
        one, *more = [
            dmarules.Window(each.bus_offset, each.entries, _granted(each), each.page_shift) for each in tables
        ]
        pieces = dmarules.pieces(
            high << 32 | low,
            size,
            to_memory=True,
            entries=one.entries,
            permissions=one.permissions,
            window_start=one.start,
            page_shift=one.page_shift,
            more=[each for each in more if each.entries],
        )
        for piece in pieces:
            if piece.refused:
                line = f"{self.name}: write of {piece.size} bytes at {piece.iova:#x} refused: {piece.refused}"
                self._refuse(Refusal("write", piece.told, piece.size, line))
                continue
            table = tables[piece.window]
            inside = piece.offset & (1 << table.page_shift) - 1
            address = self.real(table, tce.address(table.get(piece.entry), table.page_shift) + inside)
            self._ram.write(address, data[piece.start : piece.start + piece.size])
        self.on_bus(pieces, "write")
        return registers.REFUSED if any(piece.refused for piece in pieces) else registers.MISMATCH


def _granted(table: Table) -> Callable[[int], int]:
    return lambda entry: tce.permissions(table.get(entry))
