"""A fuzz campaign whose programs are tasks: each runs once, in a process of its own, and what they find is gathered by
signature and shrunk once.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from tcelab.cluster.board import Board, Doing, last_line
from tcelab.cluster.task import OUTPUT
from tcelab.commandline import started
from tcelab.errors import HarnessError, UsageError, counted
from tcelab.fuzz import piece
from tcelab.fuzz.piece import Piece, PieceFound
from tcelab.fuzz.tally import Tally
from tcelab.history.signature import signature
from tcelab.job.keeping import expecting_room
from tcelab.logs import NOTE
from tcelab.nightly import process
from tcelab.nightly.folder import put
from tcelab.run import exitcode

_LOG: Final = logging.getLogger(__name__)

TASKS: Final = "tasks"
"""The folder of all tasks, in the campaign's folder."""
INTERRUPTED: Final = "interrupted"
_LIMIT: Final = 4 * 3600.0
"""Seconds that one task may take: a program of 5,000 operations takes minutes, shrinking it an hour."""
_LOOK: Final = 1.0
"""Seconds between two looks at what runs."""
_LATE: Final = 10.0
"""Minutes of shrinking once the time of the campaign is over."""
_HANDED: Final = "found.json"
NOTED: Final = "noted.json"
"""In a task's folder: it counts."""


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """A task that counts: it is on the disk before it is counted.

    :ivar code: exit code of its command.
    :ivar why: why nobody knows how it ended; empty if somebody does.
    :ivar flaky: it was run twice, and gave two verdicts.
    :ivar cpu: CPU seconds.
    """

    code: int
    why: str = ""
    flaky: bool = False
    cpu: float = 0.0


@dataclass(frozen=True)
class _Job:
    """A task that waits or runs.

    :ivar number: of its program.
    :ivar inputs: the folder of the finding that it shrinks; None: it runs a program.
    """

    name: str
    title: str
    words: list[str]
    number: int
    inputs: Path | None = None


@dataclass(frozen=True)
class _Begun:
    job: _Job
    going: process.Going
    since: float
    slot: int


@dataclass
class SplitCampaign:
    """:ivar words: of `tcelab fuzz`, for the same campaign alone, without --out and --minutes.

    :ivar numbers: of the programs.
    :ivar slots: tasks side by side.
    :ivar minutes: after which no program begins, and those that run end at a checkpoint.
    :ivar starts: starts a task, here or on another machine.
    :ivar tally: what was done so far.
    :ivar cpu: CPU seconds of all tasks.
    """

    words: Sequence[str]
    numbers: Sequence[int]
    folder: Path
    slots: int
    minutes: float | None = None
    starts: process.Starts = process.here
    board: Board = field(default_factory=Board)
    tally: Tally = field(default_factory=Tally)
    cpu: float = 0.0
    _waiting: deque[_Job] = field(default_factory=deque)
    _begun: dict[int, _Begun] = field(default_factory=dict)
    _finders: dict[str, list[int]] = field(default_factory=dict)
    _unshrunk: dict[str, tuple[PieceFound, Path]] = field(default_factory=dict)
    _counted: set[int] = field(default_factory=set)
    _until: float = math.inf
    _stopped: str = ""

    def perform(self) -> None:
        """Until all programs ran and all findings are shrunk, or somebody or something ends it; the tally says why."""
        tasks = self.folder / TASKS
        with expecting_room(tasks):
            tasks.mkdir(mode=0o700, exist_ok=True)
        began = time.monotonic()
        self._until = math.inf if self.minutes is None else began + 60 * self.minutes
        for number in self.numbers:
            words = [*self.words, "--program", str(number)]
            self._waiting.append(_Job(f"program-{number}", f"program {number}", words, number))
        try:
            with process.signals() as waiter, process.guarded(self._cookie()), self.board.shown():
                self._loop(waiter)
        finally:
            self.tally.spent = time.monotonic() - began
            self._conclude()

    def _cookie(self) -> str:
        return f"{self.folder.name}-{os.getpid()}"

    def _conclude(self) -> None:
        """Keep the findings that nobody shrank, and say what was not run."""
        for each, source in self._unshrunk.values():
            self._save(each, source)
        for key, numbers in self._finders.items():
            if len(numbers) > 1:
                others = ", ".join(map(str, numbers[1:]))
                _LOG.info("signature %s of program %d was found by more: %s", key, numbers[0], others, extra=NOTE)
        missing = [number for number in self.numbers if number not in self._counted]
        if missing and (self._stopped or time.monotonic() < self._until):
            ran = f"{len(missing)} of {counted(len(self.numbers), 'program')} did not end"
            self.tally.could_not.append(f"{self._stopped or 'no worker'}: {ran}")

    # -- the loop

    def _loop(self, waiter: process.Waiter) -> None:
        asked = 0
        try:
            while True:
                while asked < waiter.stops:
                    asked += 1
                    self._interrupt()
                if time.monotonic() >= self._until:
                    self._waiting = deque(each for each in self._waiting if each.inputs is not None)
                self._fill()
                if not self._begun:
                    return
                self._show()
                running = {key: each.going for key, each in self._begun.items()}
                for key in waiter.wait(running, time.monotonic() + _LOOK):
                    self._ended(self._begun.pop(key))
                for each in self._begun.values():
                    if time.monotonic() >= each.going.deadline:
                        each.going.overdue()
        finally:
            for each in self._begun.values():
                each.going.kill()
                each.going.reap()

    def _interrupt(self) -> None:
        """Somebody wants it to end; who says so again does not want to wait for what was done."""
        if self._stopped:
            for each in self._begun.values():
                each.going.kill()
        self.stop(INTERRUPTED)

    def stop(self, why: str) -> None:
        """End what runs; each task writes down what it did."""
        if self._stopped:
            return
        self._stopped = why
        _LOG.info("%s: tasks that run (%d) are asked to end", why, len(self._begun), extra=NOTE)
        for each in self._begun.values():
            each.going.end()

    def _fill(self) -> None:
        while self._waiting and len(self._begun) < self.slots and not self._stopped:
            job = self._waiting.popleft()
            noted = self._noted(job)
            if noted is not None:
                self._count(job, noted)
                continue
            try:
                begun = self._start(job)
            except HarnessError as error:
                self.stop(error.message)
                return
            self._begun[begun.going.descriptor] = begun

    def _start(self, job: _Job) -> _Begun:
        out, output = self._out(job), self._said(job)
        with expecting_room(out):
            shutil.rmtree(out, ignore_errors=True)  # of a sitting that was interrupted
            output.unlink(missing_ok=True)
        minutes = None if self.minutes is None else max(0.01, (self._until - time.monotonic()) / 60)
        if job.inputs is not None and minutes is not None:
            minutes += _LATE
        more = [] if minutes is None else ["--minutes", f"{minutes:.2f}"]
        going = self.starts(
            [*started(), *job.words, "--out", str(out), *more],
            output,
            out=out,
            cookie=f"{self._cookie()}/{job.name}",
            limit=_LIMIT,
            folder=self.folder,
            inputs=job.inputs,
        )
        _LOG.info("begins: %s", job.title, extra=NOTE)
        slot = min(set(range(1, self.slots + 1)) - {each.slot for each in self._begun.values()})
        return _Begun(job, going, time.monotonic(), slot)

    def _show(self) -> None:
        tally = self.tally
        head = f"{tally.programs} of {counted(len(self.numbers), 'program')}, {counted(tally.operations, 'operation')}"
        found = counted(len(self._finders), "finding")
        doing = [
            Doing(
                f"worker {each.slot}", each.job.title, self._out(each.job).with_name(f"{each.job.name}.txt"), each.since
            )
            for each in sorted(self._begun.values(), key=lambda each: each.slot)
        ]
        self.board.show(f"{head}, {found}", doing)

    # -- a task that has ended

    def _out(self, job: _Job) -> Path:
        return self.folder / TASKS / job.name

    def _said(self, job: _Job) -> Path:
        """What it prints, while it runs."""
        return self._out(job).with_name(f"{job.name}.txt")

    def _noted(self, job: _Job) -> Noted | None:
        """What was noted of a task in an earlier sitting."""
        try:
            return msgspec.json.decode((self._out(job) / NOTED).read_bytes(), type=Noted)
        except (OSError, msgspec.DecodeError):
            return None

    def _ended(self, begun: _Begun) -> None:
        job, ended, out = begun.job, begun.going.reap(), self._out(begun.job)
        self.cpu += ended.cpu
        why = ended.why or ("it took too long" if ended.late else "")
        noted = Noted(code=ended.code, why=why, flaky=ended.flaky, cpu=ended.cpu)
        try:
            with expecting_room(out):
                out.mkdir(mode=0o700, exist_ok=True)
                if (said := self._said(job)).exists():
                    said.replace(out / OUTPUT)
                if not self._stopped:
                    put(out / NOTED, msgspec.json.encode(noted))
        except HarnessError as error:
            self.stop(error.message)
        self._count(job, noted)

    def _count(self, job: _Job, noted: Noted) -> None:
        """Count a task; a pass is one only if exit code and piece say so."""
        out = self._out(job)
        if noted.flaky:
            self.tally.flaky.append(f"{job.title}: it was run twice, and gave two verdicts")
        done = self._piece(out)
        if job.inputs is not None:
            self._shrunk(job, done)
            return
        reasons = _reasons(noted, done, out)
        self.tally.could_not += [f"{job.title}: {each}" for each in reasons]
        if done is None:
            self._counted |= set() if self._stopped else {job.number}
            return
        self._counted.add(job.number)
        piece.add(self.tally, done)
        told = counted(len(done.found), "finding") if done.found else "could not judge" if reasons else "pass"
        _LOG.info("%s: %s, %s", job.title, told, counted(done.operations, "operation"), extra=NOTE)
        for each in done.found:
            self._gather(each, out)

    def _gather(self, each: PieceFound, out: Path) -> None:
        """A finding: the first one of its signature is shrunk, on the next worker that is free."""
        key = signature(each.finding).key()
        self._finders.setdefault(key, []).append(each.number)
        if len(self._finders[key]) > 1:
            return
        _LOG.info("program %d: %s: %s", each.number, each.finding.law, each.finding.message, extra=NOTE)
        self._unshrunk[key] = each, out
        inputs = self.folder / TASKS / f"shrink-{key}-of"
        try:
            with expecting_room(inputs):
                inputs.mkdir(mode=0o700, exist_ok=True)
                (inputs / _HANDED).write_bytes(piece.to_json(each))
                shutil.copyfile(out / each.original, inputs / each.original)
        except (OSError, HarnessError) as error:
            _LOG.warning("the finding of program %d is not shrunk: %s", each.number, error, extra=NOTE)
            return
        words = [*self.words, "--shrink", str(inputs / _HANDED)]
        title = f"shrinks the finding of program {each.number}"
        self._waiting.appendleft(_Job(f"shrink-{key}", title, words, each.number, inputs))

    def _shrunk(self, job: _Job, done: Piece | None) -> None:
        """What came of shrinking; whatever it was, the finding stands."""
        key = job.name.removeprefix("shrink-")
        if done is not None and done.found and self._save(done.found[0], self._out(job)):
            del self._unshrunk[key]

    def _save(self, each: PieceFound, source: Path) -> bool:
        try:
            self.tally.found.append(piece.found(each, source, self.folder, len(self.tally.found) + 1))
        except (OSError, UsageError) as error:
            self.tally.flaky.append(
                f"program {each.number}: {each.finding.message}: its program cannot be kept: {error}"
            )
            return False
        return True

    def _piece(self, out: Path) -> Piece | None:
        path = out / piece.NAME
        try:
            return piece.read(path.read_bytes(), str(path))
        except (OSError, UsageError):
            return None


def _reasons(noted: Noted, done: Piece | None, out: Path) -> list[str]:
    """Why a program was not judged; none if it was."""
    if done is None:
        last = last_line(out / OUTPUT)
        return [noted.why or (f"exit code {noted.code}: {last}" if last else f"exit code {noted.code}")]
    reasons = list(done.could_not)
    said = exitcode.of_result(exitcode.result(found=done.found, undecided=done.could_not))
    if noted.code != said and not reasons:
        reasons.append(noted.why or f"exit code {noted.code}, although its result says {said}")
    if not done.programs and not done.found and not reasons:
        reasons.append("no program was run")
    return reasons
