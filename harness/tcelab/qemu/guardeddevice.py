"""What a guard knows of each device: its configuration registers, whether its driver wants bus mastering, and the
transfers that it was told to do, by QEMU's trace.

Source: QEMU hw/pci/trace-events (pci_cfg_write), system/trace-events (memory_region_ops_write), hw/misc/edu.c,
hw/virtio/virtio-pci.c, hw/ppc/spapr.c (spapr_phb_placement).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from tceagent import devices, edu
from tcelab.papr import window
from tcelab.papr.isolationrules import Isolation
from tcelab.program.topology import Device, Phb
from tcelab.qemu.qtest import ConfigRegister

COMMAND: Final = devices.COMMAND
MASTER: Final = devices.BUS_MASTER
MEMORY: Final = 0x2
ROM: Final = 0x30
BAR_FLAGS: Final = 0xF
"""Bits of a memory BAR that are no address."""
_WORD: Final = 0xFFFF

BARS: Final = {"edu": 0x10, "probe": 0x10, "virtio-blk": 0x20}
"""By model, the configuration register of the BAR that holds the registers; it lies in the 32-bit window."""
UNASSIGNED: Final = (0, 0xFFFFFFF0)
"""What a BAR holds that has no address, or whose size is being asked for."""

_MMIO_BASE: Final = 0x2000_0000_0000
_MMIO_SIZE: Final = 0x8000_0000
"""Each PHB has a 32-bit window, at bus address 2 GiB, one after the other from the second place on."""

Direction = Literal["read", "write"]


class Flight(NamedTuple):
    """A transfer that a device was told to do."""

    direction: Direction
    iova: int
    size: int

    def located(self, direction: str, address: int, size: int, windows: Iterable[window.Shape]) -> int | None:
        """The bus address of a refused access of some bytes, if it belongs to this transfer.

        :param address: as QEMU reports it: the offset in the window when the table refused it, else the bus address.
            QEMU reports whole words, so the first may begin before the transfer does.
        :param windows: those of the PE.
        """
        if direction != self.direction:
            return None
        whole = self.iova, self.iova + self.size
        inside = [(max(whole[0], each.start), min(whole[1], each.end), each.start) for each in windows]
        for first, end, shift in (*inside, (*whole, 0)):
            if first - shift < address + max(size, 1) and address < end - shift:
                return address + shift
        return None


@dataclass(slots=True)
class GuardedPe:
    """One PE: its PHB, its condition, its devices."""

    phb: Phb
    isolation: Isolation = field(default_factory=Isolation)
    devices: list[GuardedDevice] = field(default_factory=list)


class GuardedDevice:
    """A device.

    :ivar command: its command register; `bar`: the register of its BAR; `rom`: that of its ROM. As last seen or set.
    :ivar there: it is plugged in. `wish`: its driver wants it to master the bus.
    :ivar regions: QEMU's names (addresses) of its doorbells.
    :ivar flights: transfers that it was told to do since the guard settled last.
    :ivar rung: its doorbell was rung.
    :ivar ring: where its queue lies, for a virtio device.
    """

    def __init__(self, device: Device, pe: GuardedPe) -> None:
        self.name, self.slot, self.model, self.mask, self.pe = device.name, device.slot, device.model, device.mask, pe
        self.command = self.bar = self.rom = 0
        self.there = device.plugged and pe.phb.plugged
        self.wish = False
        self.regions: set[str] = set()
        self.flights: list[Flight] = []
        self.rung = False
        self.ring: list[Flight] = []
        self._ours: Counter[tuple[int, int]] = Counter()
        self._words = {edu.SOURCE: 0, edu.DESTINATION: 0, edu.COUNT: 0}

    def register(self, offset: int) -> ConfigRegister:
        """Of its configuration space."""
        return ConfigRegister(window.buid(self.pe.phb.index), self.slot, offset, 2 if offset == COMMAND else 4)

    @property
    def address(self) -> int | None:
        """Guest physical address of its registers, None where they have none."""
        bar = self.bar & ~BAR_FLAGS
        if bar in UNASSIGNED:
            return None
        return _MMIO_BASE + (self.pe.phb.index + 1) * _MMIO_SIZE + bar - _MMIO_SIZE

    def restarted(self) -> None:
        """The machine was reset. Its doorbells keep QEMU's names."""
        self.command = self.bar = self.rom = 0
        self.wish = self.rung = False
        self.flights, self.ring = [], []
        self._ours.clear()
        self._words = dict.fromkeys(self._words, 0)

    # -- what the guest does

    def configured(self, offset: int, value: int) -> bool:
        """A configuration register was written. True if the guest wrote it."""
        ours = self._ours[offset, value] > 0
        if ours:
            self._ours[offset, value] -= 1
        if offset == COMMAND:
            self.command = value & _WORD
            if not ours:
                self.wish = bool(value & MASTER)
        elif offset == BARS[self.model]:
            self.bar = value
        elif offset == ROM:
            self.rom = value
        return not ours

    def stored(self, address: int, value: int) -> None:
        """A register of an edu was written, or a virtio device was notified. A probe tells itself what it does."""
        self.rung = True
        if self.model != "edu":
            return
        offset = address - (self.bar & ~BAR_FLAGS)
        if offset in self._words:
            self._words[offset] = value
        elif offset == edu.COMMAND and value & edu.RUN:
            to_memory = bool(value & edu.TO_MEMORY)
            iova = self._words[edu.DESTINATION if to_memory else edu.SOURCE] & self.mask
            self.flights.append(Flight("write" if to_memory else "read", iova, self._words[edu.COUNT]))

    def flight(
        self, direction: str, address: int, size: int, windows: Collection[window.Shape]
    ) -> tuple[Flight, int] | None:
        """The last transfer in flight that a refused access may belong to, and the bus address of that access."""
        ring = self.ring if self.rung else []
        for flight in [*reversed(self.flights), *ring]:
            at = flight.located(direction, address, size, windows)
            if at is not None:
                return flight, at
        return None

    # -- what we do

    def moves(self, register: ConfigRegister, value: int) -> bool:
        """Does writing a register change the memory map of the guest's CPUs? Bus mastering does not."""
        return register.offset != COMMAND or bool((self.command ^ value) & ~MASTER)

    def written(self, register: ConfigRegister, value: int) -> None:
        """We write one of its registers: QEMU's trace will report it."""
        self._ours[register.offset, value] += 1
        if register.offset == COMMAND:
            self.command = value
        elif register.offset == ROM:
            self.rom = value
