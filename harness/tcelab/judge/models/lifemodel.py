"""What is right after each event in the life of a table.

Each family of events has its own functions; `LIFE` says which is whose. What has no function here is not known to the
judge, and no run with it passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tcelab.judge.models.eventfold import EventFold
from tcelab.program import LifeOp, Load, Reboot, Reset, Save
from tcelab.run.record import Outcome


def _restarted(fold: EventFold, op: Reset | Reboot, _outcome: Outcome, step: int) -> None:
    fold.end_kernel(f"operation {step} ({type(op).__name__.lower()})")
    fold.reset_machine(step)


def _saved(fold: EventFold, _op: Save, outcome: Outcome, _step: int) -> None:
    marks = {each["liobn"]: each.get("default") for each in outcome.fields.get("windows", ())}
    fold.defaults = {liobn: mark for liobn, mark in marks.items() if mark is not None}


def _loaded(fold: EventFold, _op: Load, _outcome: Outcome, _step: int) -> None:
    """All goes on as it was, in another QEMU; but of an edu it knows nothing (hw/misc/edu.c has no vmstate)."""
    for device in fold.devices.values():
        device.moved()


LIFE: Final[Mapping[type, Callable[[EventFold, Any, Outcome, int], None]]] = {
    Reset: _restarted,
    Reboot: _restarted,
    Save: _saved,
    Load: _loaded,
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
