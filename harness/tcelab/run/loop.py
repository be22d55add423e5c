"""The one loop that performs a program on a session, and records it.

Every platform, replay and pytest go through `run`: it splits the program at its host operations, so that the guest
operations between two of them cost one request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from tcelab.errors import GuestLost, Interrupted, TcelabError, UsageError
from tcelab.program import Checkpoint, GuestOp, HostOp, Op, Program
from tcelab.program.parts import parts, stretches
from tcelab.run.fits import require
from tcelab.run.record import Ending, Outcome, RunRecord, Snapshot, Step
from tcelab.run.session import Session

_LOG: Final = logging.getLogger(__name__)

OnStep = Callable[[Step], bool]
"""Sees each step as it is done; True: suspicious, have it confirmed by every view while the guest is as it is."""


def perform_program(program: Program, session: Session, on_step: OnStep = lambda _: False) -> RunRecord:
    """Perform a program on one guest. Never raises for what the guest did: that is in `RunRecord.ending`.

    :raise UsageError: the program asks for more than one guest; see `tcelab.job.parallel`.
    :raise Unsupported: the guest is not what it was made for, see `tcelab.program.fits`.
    """
    if len(parts(program)) > 1:
        raise UsageError(f"program {program.name!r} asks for several guests, and here is one")
    require(program, session.facts)
    recorder = Recorder(program, session, on_step)
    recorder.perform(program.ops)
    recorder.finish()
    return recorder.run


class Recorder:
    """Performs the operations of a program as they come, and keeps the record.

    :ivar run: what has happened so far; once it has an ending, nothing more is performed.
    """

    def __init__(
        self, program: Program, session: Session, on_step: OnStep = lambda _: False, *, first: int = 0
    ) -> None:
        """:param program: its operations from number `first` on must be, or come to be, those that are performed."""
        self.run = RunRecord(program, session.facts)
        self._first = first
        self._session = session
        self._on_step = on_step
        self._frames: dict[int, None] = {}

    @property
    def frames(self) -> Collection[int]:
        """Guest physical addresses of all pages that operations told: those of buffers."""
        return self._frames.keys()

    def perform(self, ops: Sequence[Op]) -> list[Step]:
        """Do operations after those before, as far as they can be done. Returns their steps."""
        begin = len(self.run.steps)
        for offset, part in stretches(ops):
            if self.run.ending is not None:
                break
            number = self._first + begin + offset
            try:
                if isinstance(part, list):
                    self._guest(number, part)
                else:
                    self.run.steps.append(self._intervene(number, part))
            except TcelabError as error:
                begun = error.in_flight if isinstance(error, GuestLost) else None
                self.run.ending = Ending(error, None if begun is None else number + begun)
                _LOG.info("the run ends at operation %d: %s", number + (begun or 0), error)
            except KeyboardInterrupt:
                self.run.ending = Ending(Interrupted(), None)
        return self.run.steps[begin:]

    def finish(self) -> None:
        """A kernel that dies of the last operation must not pass because nobody asked it anything any more."""
        try:
            ended = self.run.ending is not None
            self.run.trouble = self._session.trouble() if ended else self._session.finish()
        except TcelabError as error:
            self.run.ending = self.run.ending or Ending(error, None)

    def _guest(self, first: int, ops: list[GuestOp]) -> None:
        _LOG.debug("operations %d to %d", first, first + len(ops) - 1)
        for i, outcome in enumerate(self._session.perform(ops)):
            self._frames.update(dict.fromkeys(outcome.frames))
            step = Step(first + i, ops[i], outcome)
            self.run.steps.append(step)
            self._on_step(step)

    def _intervene(self, number: int, op: HostOp) -> Step:
        frames = list(self._frames)
        _LOG.debug(
            "operation %d: %s%s", number, type(op).__name__, f" {op.label}" if isinstance(op, Checkpoint) else ""
        )
        result = self._session.intervene(op, frames)
        if isinstance(result, Outcome):
            step = Step(number, op, outcome=result)
            self._on_step(step)
            return step
        step = Step(number, op, snapshot=result)
        if self._on_step(step) and isinstance(op, Checkpoint) and not op.stream:
            _LOG.debug("operation %d: something is wrong there, read again by every view", number)
            confirmed = self._session.intervene(msgspec.structs.replace(op, stream=True), frames)
            step = Step(number, op, snapshot=result, confirmed=confirmed if isinstance(confirmed, Snapshot) else None)
            self._on_step(step)
        return step
