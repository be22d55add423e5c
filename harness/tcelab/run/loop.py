"""The one loop that performs a program on a session, and records it.

Every verb goes through `perform_program`, also for the parts of a program that run side by side, and so does the
fuzzer. It drives a `Recorder`, which the pytest plugin drives call by call. The recorder splits operations at those of
the host, so that the guest operations between two of them cost one request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final, Protocol

import msgspec

from tcelab.errors import GuestLost, Interrupted, TcelabError, UsageError
from tcelab.program import Checkpoint, GuestOp, HostOp, Op, Program
from tcelab.program.parts import Part, parts, stretches
from tcelab.run.guestfits import require
from tcelab.run.record import Ending, Outcome, RunRecord, Snapshot, Step
from tcelab.run.session import Session
from tcelab.run.sharing import Sharing

_LOG: Final = logging.getLogger(__name__)


class Observer(Protocol):
    """Sees each step as it is done: usually a `tcelab.judge.Judge`, whose docstring explains the two functions."""

    def feed(self, step: Step) -> bool:
        """Takes each step, once and in order.

        :return: true if something is newly wrong. If the step is a checkpoint taken by the first view only, the loop
            then takes a second snapshot with every view, before any other request to the guest, and passes it to
            `confirm`.
        """
        ...

    def confirm(self, step: Step, snapshot: Snapshot) -> None:
        """Takes the second snapshot of the step that was fed last."""
        ...


class _Nobody:
    def feed(self, step: Step) -> bool:  # noqa: ARG002 - as of any observer
        return False

    def confirm(self, step: Step, snapshot: Snapshot) -> None: ...


NOBODY: Final = _Nobody()
"""Finds nothing suspicious."""


class Tee:
    """An observer, and a function that is called after each step that it was fed."""

    def __init__(self, observer: Observer, then: Callable[[Step], None]) -> None:
        self._observer, self._then = observer, then

    def feed(self, step: Step) -> bool:
        """See `Observer`."""
        suspicious = self._observer.feed(step)
        self._then(step)
        return suspicious

    def confirm(self, step: Step, snapshot: Snapshot) -> None:
        """See `Observer`."""
        self._observer.confirm(step, snapshot)


def perform_program(
    program: Program,
    session: Session,
    observer: Observer = NOBODY,
    *,
    part: Part | None = None,
    enough: Callable[[], bool] = lambda: False,
    keep: bool = True,
) -> RunRecord:
    """Perform a program, or one part of it, on one guest. Never raises for what the guest did: that is in
    `RunRecord.ending`.

    :param part: of several that run side by side, each on a guest of its own; see `tcelab.run.join`.
    :param enough: asked after each checkpoint. If so, the program ends there, and the record's program with it.
    :param keep: see `Recorder`.
    :raise UsageError: the program asks for more than one guest, and no part is named; see `tcelab.job.parallel`.
    :raise Unsupported: the guest is not what it was made for, see `tcelab.run.guestfits`.
    """
    if part is None:
        part, *others = parts(program)
        if others:
            raise UsageError(f"program {program.name!r} asks for several guests, and here is one")
    require(program, session.facts)
    recorder = Recorder(program, session, observer, first=part.first, keep=keep)
    done = 0
    for end in _looks(part.ops):
        recorder.perform(part.ops[done:end])
        done = end
        if recorder.run.ending is not None:
            break
        if done < len(part.ops) and enough():
            recorder.run.program = msgspec.structs.replace(program, ops=program.ops[: part.first + done])
            break
    recorder.finish()
    return recorder.run


def _looks(ops: Sequence[Op]) -> list[int]:
    """For each checkpoint and for the end: how many operations are then done."""
    return [*(number for number, op in enumerate(ops, 1) if isinstance(op, Checkpoint) and number < len(ops)), len(ops)]


class Recorder:
    """Performs the operations of a program as they come, and keeps the record.

    :ivar run: what has happened so far; once it has an ending, nothing more is performed.
    """

    def __init__(
        self, program: Program, session: Session, observer: Observer = NOBODY, *, first: int = 0, keep: bool = True
    ) -> None:
        """:param program: its operations from number `first` on must be, or come to be, those that are performed.
        :param keep: what checkpoints saw stays in the record; otherwise the observer alone gets it.
        """
        self.run = RunRecord(program, session.facts)
        self._first, self._keep = first, keep
        self._session = session
        self._observer = observer
        self._frames: dict[int, None] = {}
        self._sharing = Sharing()

    @property
    def frames(self) -> Collection[int]:
        """Guest physical addresses of all pages that operations reported: the buffers' pages."""
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
        """Check the guest once more: a kernel that died of the last operation must not pass because no request
        followed.
        """
        try:
            ended = self.run.ending is not None
            self.run.trouble = self._session.trouble() if ended else self._session.finish()
        except TcelabError as error:
            self.run.ending = self.run.ending or Ending(error, None)

    def _guest(self, first: int, ops: list[GuestOp]) -> None:
        _LOG.debug("operations %d to %d", first, first + len(ops) - 1)
        for i, outcome in enumerate(self._session.perform(ops)):
            self._frames.update(dict.fromkeys(outcome.frames))
            step = Step(first + i, ops[i], outcome, boot=self._session.boot)
            self.run.steps.append(step)
            self._observer.feed(step)

    def _intervene(self, number: int, op: HostOp) -> Step:
        frames = list(self._frames)
        _LOG.debug(
            "operation %d: %s%s", number, type(op).__name__, f" {op.label}" if isinstance(op, Checkpoint) else ""
        )
        result = self._session.intervene(op, frames)
        if isinstance(result, Outcome):
            step = Step(number, op, outcome=result, boot=self._session.boot)
            self._observer.feed(step)
            return step
        # The judge gets each disk as it was read: a disk that is as before is then the same object.
        step = Step(number, op, snapshot=result, boot=self._session.boot)
        held = replace(step, snapshot=self._sharing.shared(result) if self._keep else None)
        if self._observer.feed(step) and isinstance(op, Checkpoint) and not op.stream:
            _LOG.debug("operation %d: something is wrong there, read again by every view", number)
            again = self._session.intervene(msgspec.structs.replace(op, stream=True), frames)
            if isinstance(again, Snapshot):
                self._observer.confirm(step, again)
                return replace(held, confirmed=again) if self._keep else held
        return held
