"""What is right after each event in the life of a table.

Each family of events has its own functions; `LIFE` says which is whose. What has no function here is not known to the
judge, and no run with it passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tcelab.judge.models.eventfold import EventFold
from tcelab.program import LifeOp, Reboot, Reset
from tcelab.run.record import Outcome


def _restarted(fold: EventFold, op: Reset | Reboot, _outcome: Outcome, step: int) -> None:
    fold.end_kernel(f"operation {step} ({type(op).__name__.lower()})")
    fold.reset_machine(step)


LIFE: Final[Mapping[type, Callable[[EventFold, Any, Outcome, int], None]]] = {
    Reset: _restarted,
    Reboot: _restarted,
}


class LivingFold(EventFold):
    """The fold of a whole run, events included."""

    def event(self, op: LifeOp, outcome: Outcome, step: int) -> None:
        """Fold in an event that succeeded."""
        rule = LIFE.get(type(op))
        if rule is None:
            super().event(op, outcome, step)
        else:
            rule(self, op, outcome, step)
