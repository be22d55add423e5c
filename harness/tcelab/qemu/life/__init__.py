"""Events in the life of a table, as a guest under QEMU goes through them.

Each family of events is a module; `EVENTS` says which function does what. Before anything of a program runs,
`impossible` tells which of them this guest cannot go through.

- `hotplug`: devices and PHBs come and go
- `restart`: reset and reboot
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tcelab.program import BridgeAdd, BridgeRemove, DeviceAdd, DeviceRemove, Reboot, Reset
from tcelab.qemu.life import hotplug, restart
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.record import Outcome

EVENTS: Final[Mapping[type, Callable[[QemuSession, Any], Outcome]]] = {
    Reset: restart.reset,
    Reboot: restart.reboot,
    DeviceAdd: hotplug.device_add,
    DeviceRemove: hotplug.device_remove,
    BridgeAdd: hotplug.bridge_add,
    BridgeRemove: hotplug.bridge_remove,
}
