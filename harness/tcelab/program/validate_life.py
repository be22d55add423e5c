"""The part of `tcelab.program.validate` about events in the life of a table.

Each family of events has its own rules here; `Life` knows what those before have made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tcelab.program.lifeops import Reboot, Reset
from tcelab.program.topology import Topology


@dataclass(slots=True)
class Life:
    """What is plugged in, on the guest as it is now.

    :ivar guarded: PEs are guarded.
    :ivar devices: names of devices that are there; `phbs`: indexes of bridges that are.
    :ivar dimms: names of memory that was plugged in.
    :ivar used: names of devices that a program has opened.
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


RULES: Final[Mapping[type, Callable[[Life, Any], str]]] = {Reset: _always, Reboot: _always}
"""By operation: why it cannot be done; empty if it can. What has no rule cannot be done."""


def problem(life: Life, op: object) -> str:
    """Why an event cannot be; empty if it can, and then it has been."""
    rule = RULES.get(type(op))
    return "there is no rule for it: nobody knows what it may do" if rule is None else rule(life, op)
