"""Events in the life of a table, as a guest under QEMU goes through them.

Each family of events is a module; `EVENTS` says which function does what. Before anything of a program runs,
`impossible` tells which of them this guest cannot go through.

- `kexec`: kexec and kdump
- `restart`: reset and reboot
- `migration`: save and load
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tcelab.program import Crash, Kexec, Load, Reboot, Reset, Save
from tcelab.qemu.life import kexec, migration, restart
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.record import Outcome

EVENTS: Final[Mapping[type, Callable[[QemuSession, Any], Outcome]]] = {
    Reset: restart.reset,
    Reboot: restart.reboot,
    Kexec: kexec.kexec,
    Crash: kexec.crash,
    Save: migration.save,
    Load: migration.load,
}
