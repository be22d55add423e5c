"""Events in the life of a table, on the emulated machine.

Where another kernel follows, the session brings it up afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tcelab.emulator.platform import Machine
from tcelab.program import Reboot, Reset
from tcelab.run.record import Outcome


def _restarted(machine: Machine, _op: Reset | Reboot) -> Outcome:
    machine.end_kernel()
    machine.reset()
    return Outcome(value=0)


EVENTS: Final[Mapping[type, Callable[[Machine, Any], Outcome]]] = {Reset: _restarted, Reboot: _restarted}
"""What has no function here the emulator cannot do."""
