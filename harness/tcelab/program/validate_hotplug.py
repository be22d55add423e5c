"""The part of `tcelab.program.validate_life` about hot plug of devices and PHBs.

Whoever uses a device through VFIO goes first: the kernel waits for that, and not every kernel bears another order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, TypeAlias

from tcelab.program.lifeops import BridgeAdd, BridgeRemove, DeviceAdd, DeviceRemove
from tcelab.program.plugged import DAEMON, HotPlug, Plugged
from tcelab.program.topology import Device

Uses: TypeAlias = Collection[str]
"""Names of devices of which a file, or the file of their group, is open, or that another process knows. An empty name
stands for any: the file of a group that the program knows by its number.
"""

_NOT_TAKEN: Final = "was offered, and the guest has not taken it"


def taker(op: HotPlug, *, daemon: bool | None) -> str:
    """Why the guest's part cannot be done by whom the program names; empty if it can.

    :param daemon: rtas_errd does it on this kernel; None: nobody has yet.
    """
    if daemon is None or daemon == (op.consent == DAEMON):
        return ""
    return f"{DAEMON} takes whatever comes and leaves whatever is to go: all hot plug of a kernel is its own, or none"


def device_add(plugged: Plugged, op: DeviceAdd) -> str:
    """Why it cannot be; empty if it can."""
    if (place := plugged.place(op.device)) is None:
        return f"the topology has no device {op.device!r}"
    index = place[0].index
    if op.device in plugged.devices:
        return f"device {op.device!r} is there already"
    if index not in plugged.phbs:
        return f'PHB {index} is not there: add a `bridgeadd` with "phb": {index}'
    if index in plugged.leaving:
        return f"PHB {index} is to go"
    if op.device in plugged.offered and not op.consent:
        return f"device {op.device!r} was offered already"
    return _movable([place[1]])


def device_remove(plugged: Plugged, used: Uses, op: DeviceRemove) -> str:
    """Why it cannot be; empty if it can."""
    if (place := plugged.place(op.device)) is None:
        return f"the topology has no device {op.device!r}"
    if problem := absent(plugged, op.device) or _movable([place[1]]):
        return problem
    if not op.consent:
        return f"device {op.device!r} is to go already" if op.device in plugged.leaving else ""
    return _free(used, [device.name for device in place[0].devices])


def bridge_add(plugged: Plugged, _used: Uses, op: BridgeAdd) -> str:
    """Why it cannot be; empty if it can."""
    if (phb := plugged.phb(op.phb)) is None:
        return f"the topology has no PHB {op.phb}"
    if op.phb in plugged.phbs:
        return f"PHB {op.phb} is there already"
    if problem := _movable(phb.devices):
        return problem
    return f"PHB {op.phb} was offered already" if op.phb in plugged.offered and not op.consent else ""


def bridge_remove(plugged: Plugged, used: Uses, op: BridgeRemove) -> str:
    """Why it cannot be; empty if it can."""
    if (phb := plugged.phb(op.phb)) is None:
        return f"the topology has no PHB {op.phb}"
    if op.phb not in plugged.phbs:
        return f"PHB {op.phb} {_NOT_TAKEN if op.phb in plugged.offered else 'is not there'}"
    if problem := _movable(phb.devices):
        return problem
    if not op.consent:
        return f"PHB {op.phb} is to go already" if op.phb in plugged.leaving else ""
    if asked := [device.name for device in phb.devices if device.name in plugged.offered]:
        return f"device {asked[0]!r} {_NOT_TAKEN}"
    return _free(used, [device.name for device in phb.devices])


def absent(plugged: Plugged, name: str) -> str:
    """Why a device cannot be used; empty if it is there."""
    if name in plugged.devices or plugged.place(name) is None:
        return ""
    if name in plugged.offered:
        return f"device {name!r} {_NOT_TAKEN}"
    return f'device {name!r} is not there: add a `deviceadd` with "device": "{name}"'


def _movable(devices: Sequence[Device]) -> str:
    others = [device for device in devices if device.model != "edu"]
    return f"{others[0].name} is a {others[0].model}: only an edu comes and goes" if others else ""


def _free(used: Uses, devices: list[str]) -> str:
    if taken := [name for name in devices if name in used or "" in used]:
        return in_use(taken[0])
    return ""


def in_use(name: str) -> str:
    """The message for a device that VFIO has."""
    return f"the group of device {name!r} is in use: close its files first, and let other processes exit"
