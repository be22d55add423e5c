"""Events in the life of a table, on the emulated machine.

Where another kernel follows, the session brings it up afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tcelab.emulator.platform import Machine
from tcelab.program import MemoryAdd, MemoryRemove, Reboot, Reset
from tcelab.run.record import Outcome


def _restarted(machine: Machine, _op: Reset | Reboot) -> Outcome:
    machine.end_kernel()
    machine.reset()
    return Outcome(value=0)


def _plugged(machine: Machine, op: MemoryAdd) -> Outcome:
    address = machine.memory.plug(machine.windows, op.dimm, op.mib << 20)
    return Outcome(value=0, fields={"address": address, "size": op.mib << 20})


def _pulled(machine: Machine, op: MemoryRemove) -> Outcome:
    machine.memory.pull(machine.windows, op.dimm)
    return Outcome(value=0)


EVENTS: Final[Mapping[type, Callable[[Machine, Any], Outcome]]] = {
    Reset: _restarted,
    Reboot: _restarted,
    MemoryAdd: _plugged,
    MemoryRemove: _pulled,
}
"""What has no function here the emulator cannot do."""
