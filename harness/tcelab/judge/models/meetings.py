"""Whether loops of the DMA API that were begun at once were in the kernel's allocator at the same time.

The driver counts how often a loop came inside and found another one's there (guest/kmod/tce_dma_tables.c). What never
met was tried one after the other, and says nothing about several CPUs.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final, NamedTuple

from tcelab.program import AtOnce, DmaRepeat
from tcelab.run.record import Facts, Outcome, Step

_ONE_BY_ONE: Final = {"emulator"}
"""Platforms that do what is begun at once in the order in which it stands."""


class Loop(NamedTuple):
    """What a loop tells.

    :ivar met: how often it found another one inside, with the same table; `beside`: with others.
    :ivar checked: entries that it read while they were mapped.
    """

    liobn: int
    met: int
    beside: int
    checked: int


def told(op: object, outcome: Outcome) -> Loop | None:
    """What an operation tells of its loop; None: it is none, or tells nothing."""
    numbers = [outcome.fields.get(name) for name in Loop._fields]
    if not isinstance(op, DmaRepeat) or not all(type(each) is int for each in numbers):
        return None
    return Loop(*numbers)  # type: ignore[arg-type]


class Meetings:
    """Follows a run."""

    def __init__(self, facts: Facts, unknown: list[str]) -> None:
        """:param unknown: takes reasons why a run cannot pass."""
        self._asked = facts.platform not in _ONE_BY_ONE
        self._unknown: Final = unknown
        self._left = 0
        self._loops: dict[int, Loop | None] = {}

    def feed(self, step: Step) -> Loop | None:
        """One operation was done: what it tells of its loop, if it was begun at once with others."""
        if isinstance(step.op, AtOnce):
            self._left, self._loops = step.op.count, {}
            return None
        if not self._left or step.outcome is None:
            return None
        self._left -= 1
        loop = told(step.op, step.outcome)
        if isinstance(step.op, DmaRepeat):
            self._loops[step.number] = loop
        if not self._left and self._asked and len(self._loops) > 1:
            self._judge()
        return loop

    def _judge(self) -> None:
        tables: defaultdict[int, list[Loop]] = defaultdict(list)
        for number, loop in self._loops.items():
            if loop is None:
                self._unknown.append(f"the loop of step {number} does not tell whether it met another one")
                return
            tables[loop.liobn].append(loop)
        for liobn, loops in tables.items():
            if len(loops) > 1 and not any(each.met for each in loops):
                self._unknown.append(
                    f"loops that were begun at once never met in the kernel, with LIOBN {liobn:#x} ({self._which()})"
                )
        if len(tables) > 1 and not any(each.beside for loops in tables.values() for each in loops):
            self._unknown.append(
                f"loops that were begun at once never met in the kernel, each with its own table ({self._which()})"
            )

    def _which(self) -> str:
        return f"steps {min(self._loops)} to {max(self._loops)}"
