"""A device of the emulated machine in flight over an event."""

from __future__ import annotations

from typing import Final

from tceagent import edu
from tcelab.emulator.edudevice import TRANSFER_TIME, Edu
from tcelab.emulator.platform import EmulatedPe, Machine
from tcelab.papr import tce, window
from tcelab.papr.tcetable import Table
from tcelab.program import Flight
from tcelab.run.flown import Flown, flown_page

_WORD: Final = 8


class EmulatedFlight:
    """One transfer, which was started when this was made.

    :ivar started: the device took it.
    """

    def __init__(self, machine: Machine, flight: Flight, *, masters: bool = False) -> None:
        """:param masters: the device is let master the bus, whatever its driver has left."""
        self._machine = machine
        pe = next(pe for pe in machine.pes.values() if flight.device in pe.devices)
        device = pe.devices[flight.device]
        assert isinstance(device, Edu)  # validated
        self.started = device.isolation.mmio
        self._earlier, machine.refusals = machine.refusals, []
        self._frames = _leads_to(pe, flight.iova & device.mask, flight.size)
        self._before = machine.ram.iommu_pages(frozenset(self._frames.values()))
        if self.started:
            if masters:
                device.master = True
            _start(device, flight, machine.now)

    def ends(self) -> Flown:
        """Let it end, by the tables and the device as they are."""
        machine = self._machine
        machine.sleep(TRANSFER_TIME)
        own, machine.refusals = machine.refusals, self._earlier
        after = machine.ram.iommu_pages(frozenset(self._frames.values()))
        pages = [flown_page(*place, self._before[place[1]], after[place[1]]) for place in sorted(self._frames.items())]
        return Flown(self.started, [(each.address, each.size) for each in own], pages)


def _start(device: Edu, flight: Flight, now: float) -> None:
    device.tick(now)
    words = edu.words(flight.iova, flight.size, flight.offset, to_memory=flight.to_memory)
    for offset, value in words.items():
        device.write(offset, _WORD, value)


def _leads_to(pe: EmulatedPe, iova: int, size: int) -> dict[int, int]:
    """By bus page of 4 KiB, the page of RAM to which the tables lead."""
    out = {}
    for page in range(iova >> window.PAGE_SHIFT, (iova + max(size, 1) - 1 >> window.PAGE_SHIFT) + 1):
        ioba = page << window.PAGE_SHIFT
        for table in pe.windows.active:
            if (frame := _frame(table, ioba)) is not None:
                out[ioba] = frame
    return out


def _frame(table: Table, ioba: int) -> int | None:
    index = table.index(ioba)
    entry = table.get(index) if 0 <= index < table.entries else 0
    inside = ioba - table.bus_offset & (1 << table.page_shift) - 1
    return tce.address(entry, table.page_shift) + inside if tce.permissions(entry) else None
