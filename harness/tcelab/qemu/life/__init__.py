"""Events in the life of a table, as a guest under QEMU goes through them.

Each family of events is a module; `EVENTS` says which function does what. Before anything of a program runs,
`impossible` tells which of them this guest cannot go through.

- `restart`: reset and reboot
- `migration`: save and load
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tcelab.program import Load, Reboot, Reset, Save
from tcelab.qemu.life import migration, restart
from tcelab.qemu.machine import QemuOptions
from tcelab.qemu.probe import Abilities
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.record import Outcome

EVENTS: Final[Mapping[type, Callable[[QemuSession, Any], Outcome]]] = {
    Reset: restart.reset,
    Reboot: restart.reboot,
    Save: migration.save,
    Load: migration.load,
}

_IMPOSSIBLE: Final[Sequence[Callable[[QemuOptions, Abilities], dict[str, str]]]] = (migration.impossible,)


def impossible(options: QemuOptions, abilities: Abilities) -> dict[str, str]:
    """Events that a guest of this machine cannot go through, by the operation's name, and why."""
    return {name: why for each in _IMPOSSIBLE for name, why in each(options, abilities).items()}
