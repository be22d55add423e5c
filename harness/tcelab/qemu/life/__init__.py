"""Events in the life of a table, as a guest under QEMU goes through them.

Each family of events is a module; `EVENTS` says which function does what. Before anything of a program runs,
`impossible` tells which of them this guest cannot go through.

- `restart`: reset and reboot
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tcelab.program import Reboot, Reset
from tcelab.qemu.life import restart
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.record import Outcome

EVENTS: Final[Mapping[type, Callable[[QemuSession, Any], Outcome]]] = {
    Reset: restart.reset,
    Reboot: restart.reboot,
}
