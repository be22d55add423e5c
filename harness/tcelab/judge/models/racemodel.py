"""What hypercalls that were made at once have left: the fold does them again in an order that explains it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tcelab.judge.models.tablemodel import TableModel
from tcelab.papr.window import Shape
from tcelab.program import AtOnce, Hcall, HcallBatch, Op, Tce
from tcelab.run.record import Outcome, Step, TableView
from tcelab.run.serialorder import Place, reading, serial, single

Again = Callable[[HcallBatch, Outcome, int], None]
"""Folds in a call once more: the operation, its outcome, and the number of the step."""


class Races:
    """Follows a run, once each step is folded in.

    :ivar contended: entries that several have written since the last checkpoint.
    """

    def __init__(self, unknown: list[str]) -> None:
        """:param unknown: takes reasons why something could not be folded."""
        self._unknown: Final = unknown
        self._left = 0
        self._group: list[Step] = []
        self.contended: frozenset[Place] = frozenset()

    def feed(self, step: Step, tables: Mapping[int, TableModel]) -> None:
        """One operation was folded in, after those that were begun with it and stand before it."""
        if isinstance(step.op, AtOnce) and step.outcome is not None and not step.outcome.errno:
            self._expect_looked_at(step)
            self._left, self._group = step.op.count, []
        elif self._left:
            self._left -= 1
            self._group.append(step)
            if not self._left:
                self._judge(tables)
        else:
            self._expect_looked_at(step)

    def _expect_looked_at(self, step: Step) -> None:
        if self.contended:
            self._unknown.append(
                f"step {step.number} came before a checkpoint showed which of the hypercalls made at once were the last"
            )
            self.contended = frozenset()

    def _judge(self, tables: Mapping[int, TableModel]) -> None:
        shapes = {liobn: Shape(model.entries, model.page_shift, model.start) for liobn, model in tables.items()}
        found = serial(self._done(), shapes)
        if found.unknown:
            self._unknown.append(found.unknown)
        self.contended = found.contended

    def _done(self) -> list[tuple[Op, Outcome]]:
        return [(step.op, step.outcome) for step in self._group if step.outcome is not None]

    def seen(self, shown: Iterable[TableView], again: Again) -> tuple[Place, ...]:
        """A checkpoint shows what was left, by its first view. Folds the calls in again, in an order that explains it.

        :return: entries that no order explains together.
        """
        if not self.contended:
            return ()
        found = serial(self._done(), *reading(shown))
        if found.unknown:
            self._unknown.append(found.unknown)
        for lane, position in found.order:
            step = self._group[lane]
            again(single(step.op, position), _outcome(step, position), step.number)
        self.contended = frozenset()
        return found.contradiction


def _outcome(step: Step, position: int) -> Outcome:
    """What came of one call."""
    assert step.outcome is not None
    assert isinstance(step.op, Hcall | HcallBatch)
    calls = [step.op.call] if isinstance(step.op, Hcall) else step.op.calls
    named = [sum(isinstance(word, Tce) for word in (*call.args, *(call.tces or ()))) for call in calls]
    first = sum(named[:position])
    frames = step.outcome.frames[first : first + named[position]]
    # Its registers were judged when it was made.
    return Outcome(value=0, fields={"statuses": [0], "registers": [[]]}, frames=frames)
