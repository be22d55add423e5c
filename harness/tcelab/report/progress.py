"""Progress on standard error while a run lasts: a live line on a terminal, now and then a plain line without one."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from tcelab.program import Checkpoint
from tcelab.run import Step

EVERY: Final = 4
"""Batch sizes between two plain lines."""


class Progress:
    """A context manager that shows phase, step, batch size, findings and elapsed time.

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
            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                TimeElapsedColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=None, detail="")

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def phase(self, text: str) -> None:
        """A new phase begins."""
        if text == self._phase:
            return
        self._phase = text
        if self._bar:
            self._bar.update(self._task, description=text)
        else:
            self._plain(text)

    def note(self, text: str) -> None:
        """One line that stays."""
        (self._bar.console if self._bar else self.console).print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, step: Step, total: int) -> None:
        """An operation of `total` is done."""
        self._done += step.confirmed is None
        if isinstance(step.op, Checkpoint) and step.op.batch != self._batch:
            self._batch = step.op.batch
            self._new_batch(total)
        if self._bar:
            self._bar.update(self._task, completed=self._done, total=total, detail=self._detail())

    def _new_batch(self, total: int) -> None:
        group = (self._batch - 1) // EVERY
        if self._bar is None and self._batch and group not in self._told:
            self._told.add(group)
            self._plain(f"{self._done} of {total} operations, {self._detail()}")

    def _detail(self) -> str:
        parts = [f"batch size {self._batch}"] if self._batch else []
        parts.append(f"{self.findings} findings")
        return ", ".join(parts)

    def _plain(self, text: str) -> None:
        self.note(f"[{time.monotonic() - self._started:6.1f} s] {text}")
