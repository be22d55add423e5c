"""What every device of the emulated machine has: its configuration space and registers, and the condition of its PE."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, Literal, NamedTuple

from tceagent import devices, uapi
from tcelab.papr import dmarules, tce
from tcelab.papr.isolationrules import Isolation
from tcelab.papr.tcetable import Table
from tcelab.run.record import Direction

CONFIG_SIZE: Final = 256
COMMAND: Final = devices.COMMAND
MASTER: Final = devices.BUS_MASTER


class RegionInfo(NamedTuple):
    """What DEVICE_GET_REGION_INFO says: flags READ 1, WRITE 2, MMAP 4, CAPS 8."""

    size: int = 0
    flags: int = 0


class PciDevice:
    """:ivar config: its PCI configuration space, little endian, with bus mastering as its driver wants it.

    :ivar table: of its PE's default window; `second`: of the other one, if it met one. `isolation`: the PE's condition.
    :ivar opens: how many files of it VFIO has open.
    :ivar on_bus: called with each transfer's pieces and direction. Transfers without a refusal may be left out.
    :ivar real: gives the real address that an entry of a table leads to, by the address in it.
    :ivar turn: order of transfers that are due at the same time.
    :ivar order: of the bytes in its registers.
    :ivar bar: the region that holds its registers.
    :ivar regions: that VFIO shows; those below the configuration space that are not named have no size.
    :ivar vectors: interrupts that it has, by MSI and by MSI-X.
    """

    order: Literal["little", "big"] = "little"
    bar = uapi.BAR0_REGION
    regions: ClassVar[Mapping[int, RegionInfo]] = {}
    vectors = 1, 0

    def __init__(self, name: str, config: bytes, table: Table, isolation: Isolation | None = None) -> None:
        self.name = name
        self.config = bytearray(config.ljust(CONFIG_SIZE, b"\0"))
        self.table = table
        self.second: Table | None = None
        self.isolation = isolation or Isolation()
        self.opens = 0
        self.turn = 0
        self.real: Callable[[Table, int], int] = lambda _table, address: address
        self.on_bus: Callable[[Sequence[dmarules.Piece], Direction], None] = lambda _pieces, _direction: None

    def more(self) -> list[dmarules.Window]:
        """The windows that it meets besides the first one."""
        second = self.second
        if second is None or not second.entries:
            return []
        granted = lambda entry: tce.permissions(second.get(entry))  # noqa: E731
        return [dmarules.Window(second.bus_offset, second.entries, granted, second.page_shift)]

    def move(self) -> None:
        """Another QEMU has it now. By default all of it was saved."""

    def read(self, offset: int, size: int) -> int:
        """Read a register, in the device's byte order."""
        raise NotImplementedError

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        raise NotImplementedError

    def region(self, index: int) -> RegionInfo | None:
        """One that VFIO shows, None where there is no such."""
        if index in self.regions:
            return self.regions[index]
        if index == uapi.CONFIG_REGION:
            return RegionInfo(CONFIG_SIZE, 3)
        return RegionInfo() if 0 <= index < uapi.CONFIG_REGION else None

    @property
    def wish(self) -> bool:
        """Whether its driver has enabled bus mastering."""
        return bool(self.config[COMMAND] & MASTER)

    @property
    def master(self) -> bool:
        """Whether it may master the bus. Set: whether its driver enables it."""
        return self.wish and self.isolation.dma

    @master.setter
    def master(self, on: bool) -> None:
        self.config[COMMAND] = self.config[COMMAND] & ~MASTER | (MASTER if on else 0)
        if not self.master:
            self.off_bus()

    def shown(self, start: int, size: int) -> bytes:
        """Bytes of its configuration space as read: an isolation clears bus mastering."""
        config = bytearray(self.config)
        config[COMMAND] &= ~(0 if self.master else MASTER)
        return bytes(config[start : start + size])

    def tick(self, now: float) -> None:
        """Time goes on."""

    def off_bus(self) -> None:
        """Its command register was written, and it may not master the bus."""

    def thawed(self) -> None:
        """Its registers can be reached again, after its PE was isolated or reset."""

    def renew(self) -> None:
        """As at the start, for another program."""
        self.master = False


class EmulatedRegisters:
    """A device's registers as a process has mapped them: native accesses. While its PE is isolated they read as all
    ones, and what is written is lost.
    """

    def __init__(self, device: PciDevice, release: Callable[[], None]) -> None:
        self._device = device
        self._release = release

    def read8(self, offset: int) -> int:
        return self._load(offset, 1)

    def write8(self, offset: int, value: int) -> None:
        self._store(offset, 1, value)

    def read16(self, offset: int) -> int:
        return self._load(offset, 2)

    def write16(self, offset: int, value: int) -> None:
        self._store(offset, 2, value)

    def read32(self, offset: int) -> int:
        return self._load(offset, 4)

    def write32(self, offset: int, value: int) -> None:
        self._store(offset, 4, value)

    def read64(self, offset: int) -> int:
        return self._load(offset, 8)

    def write64(self, offset: int, value: int) -> None:
        self._store(offset, 8, value)

    def _load(self, offset: int, size: int) -> int:
        _expect_aligned(offset, size)
        device = self._device
        if not device.isolation.mmio:
            return (1 << 8 * size) - 1
        value = device.read(offset, size)
        return value if device.order == sys.byteorder else _swap(value, size)

    def _store(self, offset: int, size: int, value: int) -> None:
        _expect_aligned(offset, size)
        device = self._device
        if device.isolation.mmio:
            device.write(offset, size, value if device.order == sys.byteorder else _swap(value, size))

    def close(self) -> None:
        self._release()


def _expect_aligned(offset: int, size: int) -> None:
    if offset < 0 or offset % size:
        raise ValueError(f"register offset {offset:#x} is not a multiple of {size}")


def _swap(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "big"), "little")
