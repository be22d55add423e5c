"""The configuration space of a PCI device: 256 bytes, and which of their bits a write changes.

Source: PCI Local Bus Specification 3.0, chapter 6.1 (header), 6.2.5 (base addresses), 6.8.1 (MSI).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SIZE: Final = 256

VENDOR: Final = 0x00
COMMAND: Final = 0x04
STATUS: Final = 0x06
REVISION: Final = 0x08
CLASS: Final = 0x09
BAR0: Final = 0x10
SUBSYSTEM: Final = 0x2C
CAPABILITIES: Final = 0x34
INTERRUPT_PIN: Final = 0x3D
FIRST_CAPABILITY: Final = 0x40

MEMORY: Final = 0x0002
MASTER: Final = 0x0004
INTX_OFF: Final = 0x0400
"""Bits of the command register."""

QEMU_VENDOR: Final = 0x1234
"""The vendor of devices that no vendor makes (QEMU hw/misc/edu.c)."""

INTX_PENDING: Final = 0x0008
HAS_CAPABILITIES: Final = 0x0010
"""Bits of the status register."""

MSI: Final = 0x05
_MSI_SIZE: Final = 14
_MSI_64: Final = 0x0080
_BARS: Final = 6
_LEAST: Final = 16
_MOST: Final = 1 << 31
_MOST_VECTORS: Final = 32

_WRITABLE: Final = {COMMAND: b"\x46\x05", 0x0C: b"\xff", 0x3C: b"\xff"}
"""Bits that a write changes: memory, bus master, parity, SERR and INTx disable; cache line size; interrupt line."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A memory BAR of 32 bits. :ivar size: bytes, a power of two from 16 on."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class Identity:
    """:ivar class_code: base class, subclass and interface: 24 bits."""

    vendor: int
    device: int
    subsystem_vendor: int = 0
    subsystem: int = 0
    class_code: int = 0xFF0000
    revision: int = 0


class ConfigSpace:
    """:ivar msi: offset of the MSI capability, 0: none."""

    def __init__(self, identity: Identity, bars: Sequence[Bar], *, vectors: int, intx: bool) -> None:
        """:param vectors: of MSI, a power of two up to 32; 0: no MSI.
        :raise ValueError: what is described is no PCI device.
        """
        self._data = bytearray(SIZE)
        self._mask = bytearray(SIZE)
        for at, mask in _WRITABLE.items():
            self._mask[at : at + len(mask)] = mask
        self._put(VENDOR, identity.vendor, 2)
        self._put(VENDOR + 2, identity.device, 2)
        self._put(REVISION, identity.revision, 1)
        self._put(CLASS, identity.class_code, 3)
        self._put(SUBSYSTEM, identity.subsystem_vendor, 2)
        self._put(SUBSYSTEM + 2, identity.subsystem, 2)
        self._put(INTERRUPT_PIN, 1 if intx else 0, 1)
        if len({bar.index for bar in bars}) != len(bars):
            raise ValueError(f"two BARs of one number: {bars}")
        for bar in bars:
            if not 0 <= bar.index < _BARS or not _LEAST <= bar.size <= _MOST or bar.size & (bar.size - 1):
                raise ValueError(f"no BAR: {bar}")
            self._write_mask(BAR0 + 4 * bar.index, ~(bar.size - 1), 4)
        self.msi = FIRST_CAPABILITY if vectors else 0
        if vectors:
            self._add_msi(vectors)
        self._initial = bytes(self._data)

    def _put(self, at: int, value: int, size: int) -> None:
        self._data[at : at + size] = value.to_bytes(size, "little")

    def _write_mask(self, at: int, value: int, size: int) -> None:
        self._mask[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    def _add_msi(self, vectors: int) -> None:
        if vectors & (vectors - 1) or not 0 < vectors <= _MOST_VECTORS:
            raise ValueError(f"MSI has 1, 2, 4 .. {_MOST_VECTORS} vectors, not {vectors}")
        at = self.msi
        self._put(CAPABILITIES, at, 1)
        self._put(STATUS, HAS_CAPABILITIES, 2)
        self._put(at, MSI, 2)
        self._put(at + 2, _MSI_64 | (vectors.bit_length() - 1) << 1, 2)
        self._write_mask(at + 2, 0x0071, 2)
        self._mask[at + 4 : at + _MSI_SIZE] = b"\xfc" + b"\xff" * (_MSI_SIZE - 5)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._data[offset : offset + size])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        for at, byte in enumerate(data, offset):
            mask = self._mask[at]
            self._data[at] = self._data[at] & ~mask & 0xFF | byte & mask

    def reset(self) -> None:
        self._data[:] = self._initial

    @property
    def command(self) -> int:
        return int.from_bytes(self._data[COMMAND : COMMAND + 2], "little")

    @property
    def status(self) -> int:
        return int.from_bytes(self._data[STATUS : STATUS + 2], "little")

    def pend(self, *, asserted: bool) -> None:
        """Show in the status register whether INTx is asserted."""
        self._put(STATUS, self.status & ~INTX_PENDING | (INTX_PENDING if asserted else 0), 2)
