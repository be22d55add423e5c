"""The events in the life of a table that a run went through: which boot each led to, and the hypercalls meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from tcelab.program import LifeOp
from tcelab.run.record import RunRecord

SHOWN = 6
"""Rows of hypercalls of one event that are printed."""


class HypercallCount(msgspec.Struct, kw_only=True):
    """Hypercalls of one kind on one table.

    :ivar liobn: LIOBN of the table.
    :ivar kind: name of the hypercall.
    :ivar calls: how many, whatever their status.
    """

    liobn: int
    kind: str
    calls: int


class LifeEvent(msgspec.Struct, kw_only=True):
    """One event.

    :ivar step: number of the operation.
    :ivar event: its name.
    :ivar boot: number of the guest's boot after it.
    :ivar hypercalls: those that the guest made meanwhile, its whole boot included, by LIOBN and kind.
    """

    step: int
    event: str
    boot: int
    hypercalls: list[HypercallCount] = []


def life(run: RunRecord) -> list[LifeEvent]:
    """In order."""
    return [
        LifeEvent(
            step=step.number,
            event=type(step.op).__name__.lower(),
            boot=step.boot,
            hypercalls=msgspec.convert(step.outcome.fields.get("hypercalls", []), list[HypercallCount]),
        )
        for step in run.steps
        if isinstance(step.op, LifeOp) and step.outcome is not None
    ]


def life_lines(events: Sequence[LifeEvent]) -> Iterator[str]:
    """One line for each event."""
    for each in events:
        rows = [f"{row.calls:,} {row.kind} on LIOBN {row.liobn:#x}" for row in each.hypercalls]
        more = [f"and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
        calls = ", ".join([*rows[:SHOWN], *more]) or "no hypercall on a table"
        yield f"step {each.step}, {each.event}: boot {each.boot}; meanwhile {calls}"
