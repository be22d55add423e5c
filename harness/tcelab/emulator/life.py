"""Events in the life of a table, on the emulated machine.

Where another kernel follows, the session brings it up afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tcelab.emulator.platform import Machine
from tcelab.program import BridgeAdd, BridgeRemove, DeviceAdd, DeviceRemove, Reboot, Reset
from tcelab.program.plugged import HotPlug
from tcelab.run.record import Outcome


def _restarted(machine: Machine, _op: Reset | Reboot) -> Outcome:
    machine.end_kernel()
    machine.reset()
    return Outcome(value=0)


def _plugged(machine: Machine, op: HotPlug) -> Outcome:
    machine.plugged.happened(op)
    machine.plug()
    return Outcome(value=0)


EVENTS: Final[Mapping[type, Callable[[Machine, Any], Outcome]]] = {
    Reset: _restarted,
    Reboot: _restarted,
    DeviceAdd: _plugged,
    DeviceRemove: _plugged,
    BridgeAdd: _plugged,
    BridgeRemove: _plugged,
}
"""What has no function here the emulator cannot do."""
