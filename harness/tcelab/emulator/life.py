"""Events in the life of a table, on the emulated machine.

Where another kernel follows, the session brings it up afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tcelab.emulator.platform import Machine
from tcelab.program import Load, Reboot, Reset, Save
from tcelab.run.record import Outcome


def _restarted(machine: Machine, _op: Reset | Reboot) -> Outcome:
    machine.end_kernel()
    machine.reset()
    return Outcome(value=0)


def _saved(machine: Machine, _op: Save) -> Outcome:
    return Outcome(value=0, fields={"windows": _windows(machine)})


def _loaded(machine: Machine, _op: Load) -> Outcome:
    """All goes on as it was, but for what QEMU does not save of an edu (hw/misc/edu.c)."""
    machine.move()
    return Outcome(value=0, fields={"windows": _windows(machine)})


def _windows(machine: Machine) -> list[dict[str, Any]]:
    tables = (table for pe in machine.pes.values() for table in pe.windows.active)
    return [
        {"liobn": each.liobn, "entries": each.entries, "page_shift": each.page_shift, "start": each.bus_offset}
        for each in sorted(tables, key=lambda each: each.liobn)
    ]


EVENTS: Final[Mapping[type, Callable[[Machine, Any], Outcome]]] = {
    Reset: _restarted,
    Reboot: _restarted,
    Save: _saved,
    Load: _loaded,
}
"""What has no function here the emulator cannot do."""
