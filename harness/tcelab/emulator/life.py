"""Events in the life of a table, on the emulated machine.

Where another kernel follows, the session brings it up afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from tcelab.emulator.effects_v1 import SpaprTce
from tcelab.emulator.effects_v2 import SpaprTceV2
from tcelab.emulator.flights import EmulatedFlight
from tcelab.emulator.platform import EmulatedPe, Machine
from tcelab.errors import Unsupported
from tcelab.papr import window
from tcelab.program import (
    BridgeAdd,
    BridgeRemove,
    Crash,
    DeviceAdd,
    DeviceRemove,
    Kexec,
    Load,
    MemoryAdd,
    MemoryRemove,
    Reboot,
    Reset,
    Save,
)
from tcelab.program.plugged import HotPlug
from tcelab.quirks import COMING_LOSES, KEXEC_KEEPS, KEXEC_LOSES
from tcelab.run.record import Outcome

Flown: TypeAlias = Reset | Reboot | Kexec | Crash | DeviceRemove | BridgeRemove | Save
_ALOFT: Final[WeakKeyDictionary[Machine, EmulatedFlight | None]] = WeakKeyDictionary()
"""Of machines that are saved."""

_BY_DEVICE, _BY_BUS = 2, 1
"""How often a second kernel looks for the window of a PE (pseries/iommu.c, pci_dma_find): for the group and the set-up
of each device; for the set-up of the bus.
"""


def _restarted(machine: Machine, op: Reset | Reboot) -> Outcome:
    flight = _aloft(machine, op)
    machine.end_kernel(memory=True)
    machine.reset()
    outcome = _landed(flight)
    machine.ram.clear()
    return outcome


def _aloft(machine: Machine, op: Flown, *, masters: bool = False) -> EmulatedFlight | None:
    """The device that is in flight over an event."""
    return None if op.flight is None else EmulatedFlight(machine, op.flight, masters=masters)


def _landed(flight: EmulatedFlight | None) -> Outcome:
    """The outcome of an event, once a device in flight has done what it does."""
    return Outcome(value=0, fields={} if flight is None else {"flight": flight.ends().fields()})


def _saved(machine: Machine, op: Save) -> Outcome:
    _ALOFT[machine] = _aloft(machine, op)
    return Outcome(value=0, fields={"windows": _windows(machine)})


def _loaded(machine: Machine, _op: Load) -> Outcome:
    """All goes on as it was, but for what QEMU does not save of an edu (hw/misc/edu.c)."""
    machine.move()
    outcome = _landed(_ALOFT.pop(machine, None))
    return Outcome(value=0, fields={**outcome.fields, "windows": _windows(machine)})


def _windows(machine: Machine) -> list[dict[str, Any]]:
    tables = (table for pe in machine.pes.values() for table in pe.windows.active)
    return [
        {"liobn": each.liobn, "entries": each.entries, "page_shift": each.page_shift, "start": each.bus_offset}
        for each in sorted(tables, key=lambda each: each.liobn)
    ]


def _odd(pe: EmulatedPe) -> bool:
    """Its v2 container has removed the default window, or made another in its place."""
    driver = _driver(pe)
    if not isinstance(driver, SpaprTceV2) or driver.pending:
        return False
    low = next((each for each in driver.windows if each.table is pe.windows.low), None)
    return low is None or (low.size, low.table.page_shift) != (pe.window_size, window.PAGE_SHIFT)


def _kexeced(machine: Machine, op: Kexec) -> Outcome:
    """A second kernel clears the tables that its device tree has.

    :raise Unsupported: there is no rule for what a device tree has.
    """
    if any(map(_odd, machine.pes.values())):
        raise Unsupported("the emulator has no rule for a kexec while a container has no default window")
    lost, high = _taken(machine)
    machine.end_kernel(memory=True)
    outcome = _landed(_aloft(machine, op))
    machine.ram.clear()
    for pe in machine.pes.values():
        if pe not in high:
            pe.table.clear()
            continue
        pe.inherited = True
        pe.windows.high.clear()
        if KEXEC_KEEPS not in machine.quirks:
            pe.table.clear()
        elif pe.table.words.any():
            machine.hit_quirk(KEXEC_KEEPS)
    _lose(machine, lost)
    return outcome


def _crashed(machine: Machine, op: Crash) -> Outcome:
    """A crash kernel leaves all tables as they are."""
    lost, _ = _taken(machine)
    outcome = _landed(_aloft(machine, op))
    machine.end_kernel(memory=True)
    _lose(machine, lost)
    return outcome


def _taken(machine: Machine) -> tuple[list[EmulatedPe], list[EmulatedPe]]:
    """PEs whose container has not made its default window yet; those in which one has made a high one."""
    lost, high = [], []
    for pe in machine.pes.values():
        driver = _driver(pe)
        if isinstance(driver, SpaprTce) and driver.pending:
            lost.append(pe)
        if isinstance(driver, SpaprTceV2) and any(each.table is pe.windows.high for each in driver.windows):
            high.append(pe)
    return lost, high


def _driver(pe: EmulatedPe) -> object:
    """Of the container that has its group; None: there is none."""
    container = getattr(pe.group_file, "container", None)
    return None if container is None else container.driver


def _lose(machine: Machine, pes: list[EmulatedPe]) -> None:
    """Their window is in no device tree (spapr_tce_platform_iommu_attach_dev removed it)."""
    for pe in pes if KEXEC_LOSES in machine.quirks else ():
        pe.owned = True
        machine.hit_quirk(KEXEC_LOSES)
        for _ in range(_BY_BUS + _BY_DEVICE * len(pe.devices)):
            machine.warn("pci_dma_find: WARN_ON")


def _plugged(machine: Machine, op: HotPlug) -> Outcome:
    flight = _aloft(machine, op, masters=bool(op.consent)) if isinstance(op, DeviceRemove | BridgeRemove) else None
    machine.plugged.happened(op)
    machine.plug()
    if isinstance(op, DeviceAdd) and op.consent:
        _scanned(machine, op.device)
    elif isinstance(op, BridgeAdd) and op.consent and machine.pes[op.phb].devices:
        _scanned(machine, "")
    return _landed(flight)


def _scanned(machine: Machine, comes: str) -> None:
    """All buses are scanned: for the device that comes, and, the first time, for the bus, the kernel looks for the
    window of the PE in the device tree. A container has removed it until it has mapped something; and once more when
    another device joins its group.
    """
    taken, _ = _taken(machine)
    warnings = 0
    for pe in machine.pes.values():
        own = comes in pe.devices and _driver(pe) is not None
        without = pe in taken or own
        warnings += (pe in taken and own) + (without and not pe.scanned) + own
        pe.scanned = True
    for _ in range(warnings if COMING_LOSES in machine.quirks else 0):
        machine.warn("pci_dma_find: WARN_ON")
    if warnings and COMING_LOSES in machine.quirks:
        machine.hit_quirk(COMING_LOSES)


def _grown(machine: Machine, op: MemoryAdd) -> Outcome:
    address = machine.memory.plug(machine.windows, op.dimm, op.mib << 20)
    return Outcome(value=0, fields={"address": address, "size": op.mib << 20})


def _shrunk(machine: Machine, op: MemoryRemove) -> Outcome:
    machine.memory.pull(machine.windows, op.dimm)
    return Outcome(value=0)


EVENTS: Final[Mapping[type, Callable[[Machine, Any], Outcome]]] = {
    Reset: _restarted,
    Reboot: _restarted,
    Kexec: _kexeced,
    Crash: _crashed,
    DeviceAdd: _plugged,
    DeviceRemove: _plugged,
    BridgeAdd: _plugged,
    BridgeRemove: _plugged,
    MemoryAdd: _grown,
    MemoryRemove: _shrunk,
    Save: _saved,
    Load: _loaded,
}
"""What has no function here the emulator cannot do."""
