"""Attributes refused accesses: QEMU's trace shows which device was told to do what, and so which one is to blame.

The doorbell identifies the device: QEMU traces each write to a device's registers, and the registers give the transfer.
A refused address must lie in a transfer in flight of exactly one device; otherwise nobody is blamed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection
from typing import Any, Final

import msgspec

from tcelab.papr import dmarules, tce, window
from tcelab.program.topology import Topology
from tcelab.qemu.guardeddevice import Direction, Flight, GuardedDevice, GuardedPe
from tcelab.qemu.guest import Guest
from tcelab.qemu.views.live import LiveMemory
from tcelab.run.record import Event

EVENTS: Final = ("memory_region_ops_write", "pci_cfg_write")
"""Trace events that show which device does what."""

_STORE: Final = re.compile(
    r"memory_region_ops_write cpu -?\d+ mr (0x[0-9a-f]+) addr 0x([0-9a-f]+) value 0x([0-9a-f]+) size \d+ name '([^']*)'"
)
_CONFIG: Final = re.compile(r"pci_cfg_write \S+ (?:[0-9a-f]+:)?([0-9a-f]+)\.[0-9a-f]+ @0x([0-9a-f]+) <- 0x([0-9a-f]+)")
_DOORBELLS: Final = {"edu": "edu-mmio", "virtio-blk": "virtio-pci-notify-virtio-blk"}
"""By model, QEMU's name of the memory region that is written to start something."""


class Control:
    """A deliberate violation. `before`: the device's command register."""

    def __init__(self, before: int) -> None:
        self.before = before
        self.seen = threading.Event()


class TraceReader:
    """The reader of one guest. It gets lines on the log's thread, and is never called by two threads at once.

    :ivar learning: the device whose doorbell is being rung, to learn QEMU's name for it.
    :ivar controls: by device, deliberate violations that are to be seen.
    """

    def __init__(self, guest: Guest, live: LiveMemory, topology: Topology) -> None:
        self._guest, self._live = guest, live
        self.pes = {phb.index: GuardedPe(phb) for phb in topology.phbs}
        for guarded in self.pes.values():
            guarded.devices = [GuardedDevice(device, guarded) for device in guarded.phb.devices]
        self.devices = {device.name: device for each in self.pes.values() for device in each.devices}
        self.learning: GuardedDevice | None = None
        self.controls: dict[str, Control] = {}
        self._by_slot = {device.slot: device for device in self.devices.values()}
        self._by_region: dict[str, GuardedDevice] = {}
        self._lock = threading.RLock()
        self._events: list[Event] = []
        self._judged: set[tuple[str, Flight]] = set()
        self._blameless: set[int] = set()  # numbers of pages
        self._last: tuple[GuardedDevice, Flight] | None = None
        self._failed: Exception | None = None

    # -- what comes of it

    def violated(self, guarded: GuardedPe, event: Event) -> None:
        """A device of a PE violated its table."""
        raise NotImplementedError

    def changed(self, device: GuardedDevice) -> None:
        """The guest wrote to a device's configuration space."""
        raise NotImplementedError

    # -- what QEMU says, on the log's thread

    def line(self, line: str) -> None:
        """One line of QEMU's log that is about no table."""
        with self._lock:
            try:
                self._line(line)
            except Exception as error:  # noqa: BLE001 - told when the guard is asked next
                self._failed = self._failed or error

    def _line(self, line: str) -> None:
        if line.startswith("memory_region_ops_write"):
            if found := _STORE.match(line):
                self._stored(found[1], int(found[2], 16), int(found[3], 16), found[4])
        elif found := _CONFIG.match(line):
            device = self._by_slot.get(int(found[1], 16))
            # What is just being plugged in is no concern of its PE's yet.
            if device is not None and device.configured(int(found[2], 16), int(found[3], 16)) and device.there:
                self.changed(device)

    def left(self, device: GuardedDevice) -> None:
        """A device was pulled: QEMU may use the names of its doorbells again."""
        with self._lock:
            device.there = False
            device.restarted()
            device.regions.clear()
            self._by_region = {region: each for region, each in self._by_region.items() if each is not device}

    def _stored(self, region: str, address: int, value: int, name: str) -> None:
        if self.learning is not None and name == _DOORBELLS[self.learning.model]:
            self.learning.regions.add(region)
            self._by_region[region] = self.learning
        elif (device := self._by_region.get(region)) is not None:
            self._last = None
            device.stored(address, value)

    def refused(self, direction: Direction, address: int, size: int) -> None:
        """QEMU refused an access. On the log's thread."""
        with self._lock:
            last = self._last
            if last is not None and last[1].located(direction, address, size, self._shapes(last[0])) is not None:
                return
            try:
                self._refused(direction, address, size)
            except Exception as error:  # noqa: BLE001 - told when the guard is asked next
                self._failed = self._failed or error

    def _refused(self, direction: Direction, address: int, size: int) -> None:
        found = [
            (device, *place)
            for device in self.devices.values()
            if (place := device.flight(direction, address, size, self._shapes(device))) is not None
        ]
        if found and all(device.model == "probe" for device, *_ in found):
            return  # its own process is told which one, see `tcelab.qemu.probewatch`
        if len(found) != 1:
            names = " and ".join(device.name for device, *_ in found)
            why = f"{names} both have a transfer there" if found else "no device has a transfer there"
            self._unblamed(direction, address, size, why)
            return
        device, flight, iova = found[0]
        self._last = device, flight
        if flight in device.ring and device.flights and not device.pe.isolation.dma:
            # The device never learns what it was to do: that is what was blocked.
            flight = device.flights[0]
            iova = flight.iova
        if device.name in self.controls:
            self.controls[device.name].seen.set()
        elif (device.name, flight) not in self._judged:
            self._judged.add((device.name, flight))
            self._judge(device, flight, iova)

    def _judge(self, device: GuardedDevice, flight: Flight, address: int) -> None:
        """The first access that was refused of a transfer, at a bus address."""
        if not device.wish:
            return  # its driver has bus mastering off: nothing has reached the PE
        guarded = device.pe
        at = self._guest.waiter.elapsed()
        place = _place(guarded, device, flight) | {"iova": max(address, flight.iova), "at": at}
        liobn, reason, entry, neighbours = self._table(guarded, address, flight.direction)
        place |= {"liobn": liobn, "entry": entry, "neighbours": neighbours}
        if not guarded.isolation.dma:
            self._tell(Event(kind="blocked", reason=dmarules.ISOLATED, **place))
        elif not reason:
            self._unblamed(flight.direction, address, flight.size, f"the table of {device.name} lets it pass")
        else:
            self.violated(guarded, Event(kind="violation", reason=reason, **place))

    def _shapes(self, device: GuardedDevice) -> Collection[window.Shape]:
        """The windows of a device's PE. QEMU tells in one stream when they come and go, and what it refuses."""
        return self._guest.log.tables.windows(device.pe.phb).values()

    def _table(self, guarded: GuardedPe, address: int, direction: str) -> tuple[int, str, int | None, list[int]]:
        """Which table refuses an access, by its LIOBN, and why: the reason, the entry, and those beside it. Outside all
        windows, it is the first one.
        """
        tables = self._guest.log.tables
        windows = tables.windows(guarded.phb)
        liobn = next((each for each, its in windows.items() if its.start <= address < its.end), next(iter(windows)))
        shape, at = windows[liobn], tables.at.get(liobn)
        number, count = (address - shape.start) >> shape.page_shift, shape.entries
        if at is None or not 0 <= number < count:
            return liobn, dmarules.OUTSIDE, None, self._beside(at, number, count)
        (entry,) = self._live.entries(at, number, 1)
        needed = tce.WRITE if direction == "write" else tce.READ
        granted = tce.permissions(entry)
        reason = dmarules.NO_ENTRY if not granted else "" if granted & needed else dmarules.PERMISSION
        return liobn, reason, entry, self._beside(at, number, count)

    def _beside(self, at: int | None, number: int, count: int) -> list[int]:
        if at is None:
            return []
        return [self._live.entries(at, each, 1)[0] for each in (number - 1, number + 1) if 0 <= each < count]

    def _unblamed(self, direction: Direction, address: int, size: int, why: str) -> None:
        page = address >> window.PAGE_SHIFT
        if page not in self._blameless:
            self._blameless.add(page)
            event = Event(kind="unblamed", pe=-1, iova=address, size=size, direction=direction, reason=why)
            self._tell(msgspec.structs.replace(event, at=self._guest.waiter.elapsed()))

    def _tell(self, event: Event) -> None:
        # Keep all, because each is judged: at most one for each transfer, and one for each page outside any transfer.
        self._events.append(event)

    def _forget(self) -> None:
        self._events, self._last, self._judged, self._blameless = [], None, set(), set()
        for device in self.devices.values():
            device.flights, device.rung = [], False


def _place(guarded: GuardedPe, device: GuardedDevice, flight: Flight) -> dict[str, Any]:
    return {
        "pe": guarded.phb.index,
        "device": device.name,
        "start": flight.iova,
        "size": flight.size,
        "direction": flight.direction,
    }
