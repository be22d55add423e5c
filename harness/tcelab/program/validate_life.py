"""The part of `tcelab.program.validate` about events in the life of a table.

Each family of events has its own rules here; `Life` knows what those before have made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tcelab.program import validate_flight, validate_hotplug, validate_memory
from tcelab.program.lifeops import (
    ENDS_KERNEL,
    FLOWN,
    RESETS,
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
from tcelab.program.plugged import DAEMON, HotPlug, Plugged
from tcelab.program.topology import Topology


@dataclass(slots=True)
class Life:
    """What is plugged in, on the guest as it is now.

    :ivar guarded: PEs are guarded.
    :ivar plugged: devices and PHBs that are there.
    :ivar daemon: see `validate_hotplug.taker`.
    :ivar saved: the guest is saved, and stands still.
    :ivar crashed: it runs a crash kernel.
    :ivar joined: devices that came to a PE that VFIO had, and were not pulled since.
    :ivar used: names of devices that a program has opened; see `validate_hotplug.Uses`.
    :ivar dimms: memory that was plugged in: its name, and MiB; `unused`: what of it the kernel does not use, which has
        booted since.
    """

    topology: Topology
    guarded: bool
    plugged: Plugged = field(init=False)
    dimms: dict[str, int] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    daemon: bool | None = None
    saved: bool = False
    crashed: bool = False
    joined: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.plugged = Plugged(self.topology)


NO_VFIO: Final = "a crash kernel gives VFIO no windows (SET_IOMMU or ENABLE fail): reset or reboot it before a bind"
_WORDS: Final = 512
"""Characters that may be added to a kernel's command line: it takes 2,048 (COMMAND_LINE_SIZE)."""


def _restarts(life: Life, _op: object) -> str:
    life.crashed = False
    life.unused = {*life.dimms}
    life.joined.clear()
    return ""


def _save(life: Life, _op: Save) -> str:
    if life.plugged != Plugged(life.topology) or life.dimms:
        return "a fresh QEMU is started as this one was, and something was plugged in or pulled since"
    life.saved = True
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
    if life.joined:
        return f"nobody knows what a second kernel makes of a window that {min(life.joined)} has found in use"
    if len(op.append) > _WORDS or not (op.append.isascii() and op.append.isprintable()):
        return f"append is no part of a command line: {_WORDS} printable ASCII characters at most"
    if life.topology.direct or life.dimms:
        what = "memory that was plugged in" if life.dimms else "a window of 64 bits that the kernel's own driver has"
        return f"nobody knows what a second kernel makes of {what}"
    if isinstance(op, Crash):
        if not life.topology.crashkernel:
            return f"topology {life.topology.name} keeps no memory for a crash kernel: it needs crashkernel"
        life.crashed = True
    return ""


def _device_add(life: Life, op: DeviceAdd) -> str:
    """One that comes while VFIO has its PE is looked for in the device tree, and then left alone."""
    taker = validate_hotplug.taker(op, daemon=life.daemon)
    if problem := taker or validate_hotplug.device_add(life.plugged, op):
        return problem
    place = life.plugged.place(op.device)
    there = set() if place is None else {device.name for device in place[0].devices}
    if not op.consent or not (life.used & there or "" in life.used):
        return ""
    if life.guarded or life.joined & there or isinstance(op.consent, str):
        return validate_hotplug.in_use(min(life.used & there, default=op.device))
    life.joined.add(op.device)
    return ""


def _plugs(rule: Callable[[Plugged, validate_hotplug.Uses, Any], str]) -> Callable[[Life, Any], str]:
    return lambda life, op: validate_hotplug.taker(op, daemon=life.daemon) or rule(life.plugged, life.used, op)


RULES: Final[Mapping[type, Callable[[Life, Any], str]]] = {
    Reset: _restarts,
    Reboot: _restarts,
    Kexec: _second,
    Crash: _second,
    DeviceAdd: _device_add,
    DeviceRemove: _plugs(validate_hotplug.device_remove),
    BridgeAdd: _plugs(validate_hotplug.bridge_add),
    BridgeRemove: _plugs(validate_hotplug.bridge_remove),
    MemoryAdd: lambda life, op: validate_memory.add(life.topology, life.dimms, op),
    MemoryRemove: lambda life, op: validate_memory.remove(life.dimms, life.unused, op),
    Save: _save,
    Load: _load,
}
"""By operation: why it cannot be done; empty if it can. What has no rule cannot be done."""


def problem(life: Life, op: object) -> str:
    """Why an event cannot be; empty if it can, and then it has been."""
    rule = RULES.get(type(op))
    if rule is None:
        return "there is no rule for it: nobody knows what it may do"
    flown = validate_flight.problem(life.plugged, op, crashed=life.crashed) if isinstance(op, FLOWN) else ""
    if problem := flown or rule(life, op):
        return problem
    if isinstance(op, ENDS_KERNEL):
        life.daemon = None
    if isinstance(op, RESETS):
        life.plugged.reset()
    elif isinstance(op, HotPlug):
        life.plugged.happened(op)
        life.joined &= life.plugged.devices
        life.daemon = op.consent == DAEMON
    return ""
