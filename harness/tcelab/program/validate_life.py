"""The part of `tcelab.program.validate` about events in the life of a table.

Each family of events has its own rules here; `Life` knows what those before have made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tcelab.program.lifeops import Crash, Kexec, Load, Reboot, Reset, Save
from tcelab.program.topology import Topology


@dataclass(slots=True)
class Life:
    """What is plugged in, on the guest as it is now.

    :ivar guarded: PEs are guarded.
    :ivar devices: names of devices that are there; `phbs`: indexes of bridges that are.
    :ivar dimms: names of memory that was plugged in.
    :ivar used: names of devices that a program has opened.
    :ivar saved: the guest is saved, and stands still.
    :ivar crashed: it runs a crash kernel.
    """

    topology: Topology
    guarded: bool
    devices: set[str] = field(default_factory=set)
    phbs: set[int] = field(default_factory=set)
    dimms: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    saved: bool = False
    crashed: bool = False

    def __post_init__(self) -> None:
        there = [phb for phb in self.topology.phbs if phb.plugged]
        self.phbs = {phb.index for phb in there}
        self.devices = {device.name for phb in there for device in phb.devices if device.plugged}


_WORDS: Final = 512
"""Characters that may be added to a kernel's command line: it takes 2,048 (COMMAND_LINE_SIZE)."""


def _restarts(life: Life, _op: object) -> str:
    life.crashed = False
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


def _second(life: Life, op: Kexec | Crash) -> str:
    """Another kernel is started by the one that runs."""
    if life.crashed:
        return "a crash kernel starts no other one: reset or reboot it"
    if len(op.append) > _WORDS or not (op.append.isascii() and op.append.isprintable()):
        return f"append is no part of a command line: {_WORDS} printable ASCII characters at most"
    if isinstance(op, Crash):
        if not life.topology.crashkernel:
            return f"topology {life.topology.name} keeps no memory for a crash kernel: it needs crashkernel"
        life.crashed = True
    return ""


RULES: Final[Mapping[type, Callable[[Life, Any], str]]] = {
    Reset: _restarts,
    Reboot: _restarts,
    Kexec: _second,
    Crash: _second,
    Save: _save,
    Load: _load,
}
"""By operation: why it cannot be done; empty if it can. What has no rule cannot be done."""


def problem(life: Life, op: object) -> str:
    """Why an event cannot be; empty if it can, and then it has been."""
    rule = RULES.get(type(op))
    return "there is no rule for it: nobody knows what it may do" if rule is None else rule(life, op)
