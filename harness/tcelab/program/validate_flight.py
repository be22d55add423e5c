"""The part of `tcelab.program.validate_life` about a device in flight over an event."""

from __future__ import annotations

from typing import Final, TypeAlias

from tceagent import edu
from tcelab.program.lifeops import RESETS, BridgeRemove, Crash, DeviceRemove, Flight, Kexec, Reboot, Reset, Save
from tcelab.program.plugged import Plugged
from tcelab.program.topology import Device
from tcelab.program.validate_hotplug import absent

Flown: TypeAlias = Reset | Reboot | Kexec | Crash | DeviceRemove | BridgeRemove | Save
_WORD: Final = 64


def problem(plugged: Plugged, op: Flown, *, crashed: bool) -> str:
    """Why its device cannot be in flight; empty if it can, or none is.

    :param plugged: before the event; `crashed`: a crash kernel runs then.
    """
    if (flight := op.flight) is None:
        return ""
    place = plugged.place(flight.device)
    if place is None:
        return f"the topology has no device {flight.device!r}"
    phb, device = place
    if problem := absent(plugged, flight.device) or _transfer(flight, device):
        return problem
    if isinstance(op, RESETS) and {flight.device, phb.index} & plugged.leaving:
        return f"a reset takes {flight.device!r} away, which was to go"
    return _leaves(plugged, op, flight, crashed=crashed) if isinstance(op, DeviceRemove | BridgeRemove) else ""


def _transfer(flight: Flight, device: Device) -> str:
    if device.model != "edu":
        return f"{flight.device} is a {device.model}: only an edu is in flight over an event"
    if not 0 <= flight.iova < 1 << _WORD:
        return f"a bus address has {_WORD} bits, and {flight.iova} has not"
    try:
        edu.check(flight.size, flight.offset)
    except ValueError as error:
        return str(error)
    return ""


def _leaves(plugged: Plugged, op: DeviceRemove | BridgeRemove, flight: Flight, *, crashed: bool) -> str:
    if isinstance(op.consent, str):
        return f"{op.consent} gives a device back by itself, and leaves no time for one in flight"
    if crashed:
        return "nobody knows which devices master the bus under a crash kernel"
    phb = plugged.phb(op.phb) if isinstance(op, BridgeRemove) else None
    going = [op.device] if isinstance(op, DeviceRemove) else [] if phb is None else [each.name for each in phb.devices]
    return "" if flight.device in going else f"{flight.device!r} does not go by it"
