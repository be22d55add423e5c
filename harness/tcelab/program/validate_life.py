"""The part of `tcelab.program.validate` about events in the life of a table.

Each family of events has its own rules here; `Life` knows what those before have made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tcelab.program.lifeops import Load, Reboot, Reset, Save
from tcelab.program.topology import Topology


@dataclass(slots=True)
class Life:
    """What is plugged in, on the guest as it is now.

    :ivar guarded: PEs are guarded.
    :ivar devices: names of devices that are there; `phbs`: indexes of bridges that are.
    :ivar dimms: names of memory that was plugged in.
    :ivar used: names of devices that a program has opened.
    :ivar saved: the guest is saved, and stands still.
    """

    topology: Topology
    guarded: bool
    devices: set[str] = field(default_factory=set)
    phbs: set[int] = field(default_factory=set)
    dimms: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    saved: bool = False

    def __post_init__(self) -> None:
        there = [phb for phb in self.topology.phbs if phb.plugged]
        self.phbs = {phb.index for phb in there}
        self.devices = {device.name for phb in there for device in phb.devices if device.plugged}


def _always(_life: Life, _op: object) -> str:
    return ""


def _save(life: Life, _op: Save) -> str:
    life.saved = True
    first = Life(life.topology, life.guarded)
    changed = sorted(life.devices ^ first.devices) + [f"PHB {each}" for each in sorted(life.phbs ^ first.phbs)]
    if changed := [*changed, *sorted(life.dimms)]:
        return f"a fresh QEMU is started as this one was, and {changed[0]} was plugged in or pulled since"
    return ""


def _load(life: Life, op: Load) -> str:
    if not life.saved:
        return "nothing was saved before: add a `save`"
    life.saved = False
    if op.qemu and not life.topology.machine_type:
        return f"{op.qemu} may have another newest machine: give the topology a machine_type, as pseries-10.0"
    return ""


RULES: Final[Mapping[type, Callable[[Life, Any], str]]] = {
    Reset: _always,
    Reboot: _always,
    Save: _save,
    Load: _load,
}
"""By operation: why it cannot be done; empty if it can. What has no rule cannot be done."""


def problem(life: Life, op: object) -> str:
    """Why an event cannot be; empty if it can, and then it has been."""
    rule = RULES.get(type(op))
    return "there is no rule for it: nobody knows what it may do" if rule is None else rule(life, op)
