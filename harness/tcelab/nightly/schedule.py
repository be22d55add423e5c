"""Which cell is next. A cell has a weight, the cores that it keeps busy; a night has slots."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tcelab.nightly.plan import PlannedCell

SPARE: Final = 1
"""Slots beside one for each core: guests are waited for, so cores would idle otherwise."""


def slots() -> int:
    """Of this host: the cores that this process may use, and `SPARE`."""
    return len(os.sched_getaffinity(0)) + SPARE


@dataclass
class Schedule:
    """The cells that wait, and those that run.

    :ivar seconds: how long each cell took last time, by id.
    :ivar running: those that run, in the order in which they began.
    """

    slots: int
    seconds: Mapping[str, float]
    waiting: list[PlannedCell] = field(default_factory=list)
    running: list[PlannedCell] = field(default_factory=list)
    _warm: set[str] = field(default_factory=set)

    def add(self, cells: Sequence[PlannedCell]) -> None:
        """Let cells wait: those that nobody has seen end first, then the longest ones; those that run alone last."""
        self.waiting = sorted([*self.waiting, *cells], key=self._place)

    def again(self, cell: PlannedCell) -> None:
        """Let a cell that has just run wait once more, ahead of all others."""
        self.waiting.insert(0, cell)

    def _place(self, planned: PlannedCell) -> tuple[bool, bool, float]:
        known = self.seconds.get(planned.cell.id)
        return planned.alone, known is not None, -self.expected(planned)

    def expected(self, planned: PlannedCell) -> float:
        """Seconds that a cell will take, as far as anybody knows."""
        return self.seconds.get(planned.cell.id, planned.guess)

    def next(self, allowed: Callable[[PlannedCell], bool] = lambda _: True) -> PlannedCell | None:
        """The cell that begins now, if one fits; it counts as running from now on.

        Cells that would wait for a guest that a running cell is just saving are put off, while there are others.
        """
        fitting = [each for each in self.waiting if self._fits(each) and allowed(each)]
        if not fitting:
            return None
        cold = {each.machine for each in self.running if each.machine not in self._warm}
        chosen = next((each for each in fitting if not each.machine or each.machine not in cold), fitting[0])
        self.waiting.remove(chosen)
        self.running.append(chosen)
        return chosen

    def _fits(self, planned: PlannedCell) -> bool:
        busy = sum(each.weight for each in self.running)
        return not self.running or (not planned.alone and busy + planned.weight <= self.slots)

    def ended(self, planned: PlannedCell) -> None:
        """A running cell has ended."""
        self.running.remove(planned)
        self._warm.add(planned.machine)


def busy_cores(spans: Collection[tuple[float, float, float]], cores: int, until: int = 2) -> float:
    """How many of the `cores` were kept busy, from the first cell's start until all but `until` had ended.

    :param spans: of each attempt: start, end, CPU seconds. CPU time of one that goes on is counted in proportion: an
        attempt that idles at its start would give more than there are cores.
    """
    ends = sorted(end for _, end, _ in spans)
    if not ends:
        return 0.0
    first, last = min(start for start, _, _ in spans), ends[max(0, len(ends) - 1 - until)]
    if last <= first:
        return 0.0
    used = sum(cpu * _share(start, end, last) for start, end, cpu in spans)
    return min(float(cores), used / (last - first))


def _share(start: float, end: float, last: float) -> float:
    """Of an attempt, how much was done until `last`."""
    return 1.0 if end <= last else max(0.0, last - start) / (end - start)
