"""Progress on standard error while a run lasts: a live line on a terminal, now and then a plain line without one."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from tcelab.errors import counted
from tcelab.logs import shown_on
from tcelab.program import Checkpoint
from tcelab.run.record import Step

EVERY: Final = 4
"""Batch sizes between two plain lines."""


_WIDE: Final = 100
"""Least columns of a terminal with room for a bar beside the text."""
RUNNING: Final = "running"


class _LineColumn(ProgressColumn):
    """One line of text, shortened on a narrow terminal; `what` makes it."""

    def __init__(self, what: Callable[[Task], str]) -> None:
        super().__init__(Column(no_wrap=False))
        self._what = what

    def render(self, task: Task) -> Text:
        return Text(self._what(task), no_wrap=True, overflow="ellipsis")


class Progress:
    """A context manager that shows phase, step, batch size, findings and elapsed time: the display of what is logged.

    :param console: where to write; standard error if not given.
    :ivar findings: findings so far, kept by the caller.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.findings = 0
        self._started = time.monotonic()
        self._phase = ""
        self._batch = 0
        self._told: set[int] = set()
        self._done = 0
        self._bar: Bar | None = None
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            bar = [BarColumn(bar_width=24)] if self.console.width >= _WIDE else []
            self._bar = Bar(
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                _LineColumn(lambda task: str(task.fields["detail"])),
                TimeElapsedColumn(table_column=Column(no_wrap=True)),
                *bar,
                _LineColumn(lambda task: task.description),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=None, detail="")

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._showing = shown_on(self)
        self._showing.__enter__()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        self._showing.__exit__(kind, error, trace)

    def phase(self, text: str) -> None:
        """A new phase begins: before the program, or of a further guest while another one runs the program."""
        if text == self._phase:
            return
        self._phase = text
        if self._bar is None:
            self._plain(text)
        elif not self._done:
            self._bar.update(self._task, description=text)

    def note(self, text: str) -> None:
        """One line that stays."""
        (self._bar.console if self._bar else self.console).print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, step: Step, total: int) -> None:
        """An operation of `total` is done."""
        self._done += 1
        if isinstance(step.op, Checkpoint) and step.op.batch != self._batch:
            self._batch = step.op.batch
            self._new_batch(total)
        if self._bar:
            self._bar.update(self._task, description=RUNNING, completed=self._done, total=total, detail=self._detail())

    def _new_batch(self, total: int) -> None:
        group = (self._batch - 1) // EVERY
        if self._bar is None and self._batch and group not in self._told:
            self._told.add(group)
            self._plain(f"{self._done:,} of {total:,} operations, {self._detail()}")

    def _detail(self) -> str:
        parts = [f"batch size {self._batch}"] if self._batch else []
        parts.append(counted(self.findings, "finding"))
        return ", ".join(parts)

    def _plain(self, text: str) -> None:
        self.note(f"[{time.monotonic() - self._started:6.1f} s] {text}")
