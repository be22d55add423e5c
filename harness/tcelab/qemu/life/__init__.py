"""Events in the life of a table, as a guest under QEMU goes through them.

Each family of events is a module; `EVENTS` says which function does what. Before anything of a program runs,
`impossible` tells which of them this guest cannot go through.

- `kexec`: kexec and kdump
- `counting`: hypercalls meanwhile
- `flight`: a device in flight over an event
- `hotplug`: devices and PHBs come and go
- `mtree`: after each, QEMU's windows by its memory map
- `memory`: memory that is plugged in and pulled
- `restart`: reset and reboot
- `migration`: save and load
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from tcelab.program import (
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
from tcelab.qemu.life import hotplug, kexec, memory, migration, mtree, restart
from tcelab.qemu.life.counting import counted
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.record import Outcome

Go = Callable[[QemuSession, Any], Outcome]


def _checked(go: Go) -> Go:
    """Hypercalls are counted meanwhile; after the event, its windows are where QEMU has them."""

    def event(session: QemuSession, op: Any) -> Outcome:  # noqa: ANN401 - each is another operation
        with counted(session) as counts:
            outcome = go(session, op)
        mtree.check(session)
        return msgspec.structs.replace(outcome, fields={**outcome.fields, "hypercalls": counts.told()})

    return event


_EVENTS: Final[Mapping[type, Go]] = {
    Reset: restart.reset,
    Reboot: restart.reboot,
    Kexec: kexec.kexec,
    Crash: kexec.crash,
    DeviceAdd: hotplug.device_add,
    DeviceRemove: hotplug.device_remove,
    BridgeAdd: hotplug.bridge_add,
    BridgeRemove: hotplug.bridge_remove,
    MemoryAdd: memory.add,
    MemoryRemove: memory.remove,
}
EVENTS: Final[Mapping[type, Go]] = {
    **{kind: _checked(go) for kind, go in _EVENTS.items()},
    # A guest that is saved stands still; where windows arrive is the judge's to say (law `inventory`).
    Save: migration.save,
    Load: migration.load,
}
