"""A night: its cells run side by side, each is written down as soon as it has ended, and one that changes its word is
flaky.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import tcelab
from tcelab.commandline import started
from tcelab.errors import HarnessError, TcelabError
from tcelab.history.nightfile import CELLS, Attempt, Cell, CellWord, Night, Pace
from tcelab.logs import NOTE
from tcelab.nightly import folder as folders
from tcelab.nightly import outcome, process
from tcelab.nightly.plan import PlannedCell, slug, title, with_folder, words_of
from tcelab.nightly.provision import Need, needs, provision
from tcelab.nightly.schedule import Schedule, busy_cores
from tcelab.run import exitcode

_LOG: Final = logging.getLogger(__name__)

_MOST: Final = 2
"""Attempts of a cell."""
_NAME: Final = 60
"""Characters of a cell in its folder's name."""
_SHOWN: Final = 1.0
"""Seconds between two looks at what runs."""
INTERRUPTED: Final = "interrupted"


class History(Protocol):
    """What a night asks of the history, and tells it; see `tcelab.history.store`."""

    def begin(self, night: Night) -> None: ...
    def record(self, night: Night, cell: Cell) -> None: ...
    def end(self, night: Night) -> None: ...
    def seconds(self) -> dict[str, float]: ...
    def last(self, cell_id: str, seed: int) -> CellWord | None: ...


def begin(cells: Sequence[PlannedCell], matrix: Path, sha256: str, out: Path | None, when: float) -> tuple[Night, Path]:
    """A new night and its folder.

    :raise TcelabError: there can be no folder.
    """
    name, folder = folders.new(out, when)
    night = Night(
        id=name,
        tcelab=tcelab.__version__,
        began=when,
        matrix=str(matrix.absolute()),
        matrix_sha256=sha256,
        host=host(),
        folder=str(folder),
        cells=[each.cell for each in cells],
    )
    folders.save(night, folder)
    return night, folder


def host() -> dict[str, str]:
    """The host, for people."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return {
        "name": platform.node(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory} MiB",
        "system": f"{platform.system()} {platform.release()}",
    }


@dataclass(frozen=True)
class _Begun:
    """An attempt that goes on."""

    planned: PlannedCell
    running: process.Going
    folder: Path
    output: Path


@dataclass
class NightRun:
    """Runs the cells of a night that are still to be run.

    :ivar folder: of the night.
    :ivar minutes: after which it ends; None: as long as it takes.
    :ivar where: the folder in which commands are run.
    :ivar starts: starts a cell, here or on another machine.
    :ivar shows: told each second what runs: of each cell, the file of what it prints.
    """

    night: Night
    folder: Path
    plan: Sequence[PlannedCell]
    history: History
    slots: int
    where: Path
    minutes: float | None = None
    starts: process.Starts = process.here
    shows: Callable[[Mapping[str, Path]], None] | None = None
    _begun: dict[int, _Begun] = field(default_factory=dict, init=False)
    _spans: list[tuple[float, float, float]] = field(default_factory=list, init=False)
    _began: float = field(default=0.0, init=False)
    _failed: bool = field(default=False, init=False)

    def perform(self) -> int:
        """Until all has ended, or somebody or something ends it; `night.stopped` says why then.

        :return: the exit code: that of the night, and no pass if something went wrong.
        """
        night = self.night
        night.stopped, night.ended = "", 0.0
        for cell in night.cells:
            if [each.folder for each in cell.attempts] == [""]:  # its image could not be had
                cell.word, cell.attempts = "not-run", []
        self._began = time.monotonic()
        missing: dict[Need, str] = {}
        try:
            missing = provision(each for each in self.plan if self._is_open(each.cell))
        except KeyboardInterrupt:
            night.stopped = INTERRUPTED
        with process.signals() as waiter:
            if not night.stopped:
                self._run(missing, waiter)
            self._finish()
        return exitcode.of_untold(night.exit_code) if self._failed else night.exit_code

    def _run(self, missing: Mapping[Need, str], waiter: process.Waiter) -> None:
        try:
            schedule = Schedule(self.slots, self.history.seconds())
            schedule.add([each for each in self.plan if self._is_open(each.cell) and not self._lacks(each, missing)])
            with process.guarded(self.night.id):
                self._loop(schedule, waiter)
        except Exception as error:  # noqa: BLE001 - what was found must not be lost with it
            self._fail(error)

    def _is_open(self, cell: Cell) -> bool:
        """Not run, or to be run again to know whether it is flaky."""
        return cell.word == "not-run" or (not cell.right and len(cell.attempts) == 1)

    def _lacks(self, planned: PlannedCell, missing: Mapping[Need, str]) -> bool:
        """Note of a cell that cannot be run why that is."""
        reasons = [missing[need] for need in needs(planned) if need in missing]
        if not reasons or planned.cell.attempts:
            return False
        cell = planned.cell
        cell.word, cell.began = "could-not-judge", time.time()
        cell.attempts = [
            Attempt(word=cell.word, exit_code=exitcode.COULD_NOT_JUDGE, seconds=0.0, folder="", why=reasons[0])
        ]
        self._record(cell)
        return True

    # -- the loop

    def _loop(self, schedule: Schedule, waiter: process.Waiter) -> None:
        up = float("inf") if self.minutes is None else self._began + 60 * self.minutes
        asked = 0
        try:
            while True:
                while asked < waiter.stops:
                    asked += 1
                    self._interrupt()
                if time.monotonic() >= up and not self.night.stopped:
                    self._stop(f"the time was up: {self.minutes:g} minutes")
                if not self.night.stopped:
                    self._fill(schedule, up)
                if not self._begun:
                    break
                running = {key: each.running for key, each in self._begun.items()}
                until = float("inf") if self.night.stopped else up
                if self.shows is not None:
                    self.shows({title(each.planned.cell): each.output for each in self._begun.values()})
                    until = min(until, time.monotonic() + _SHOWN)
                for key in waiter.wait(running, until):
                    self._ended(self._begun.pop(key), schedule)
                for each in self._begun.values():
                    if time.monotonic() >= each.running.deadline:
                        each.running.overdue()
        finally:
            for each in self._begun.values():
                each.running.kill()
                each.running.reap()
        if schedule.waiting and not self.night.stopped:
            self.night.stopped = f"the time was too short for the rest: {self.minutes or 0:g} minutes"

    def _interrupt(self) -> None:
        """Somebody wants the night to end; who says so again does not want to wait for what was found."""
        if self.night.stopped:
            for each in self._begun.values():
                each.running.kill()
        self._stop(INTERRUPTED)

    def _stop(self, why: str) -> None:
        """End what runs; each cell writes down what it found."""
        if self.night.stopped:
            return
        self.night.stopped = why
        _LOG.info("%s: the night ends, and running cells (%d) are asked to", why, len(self._begun), extra=NOTE)
        for each in self._begun.values():
            each.running.end()

    def _fill(self, schedule: Schedule, up: float) -> None:
        """Begin all that fits."""
        left = up - time.monotonic()
        while (planned := schedule.next(lambda each: schedule.seconds.get(each.cell.id, 0.0) <= left)) is not None:
            try:
                begun = self._start(planned)
            except HarnessError as error:
                schedule.ended(planned)
                self._fail(error)
                return
            self._begun[begun.running.descriptor] = begun

    def _start(self, planned: PlannedCell) -> _Begun:
        cell = planned.cell
        number = 1 + next(at for at, each in enumerate(self.plan) if each is planned)
        attempt = len(cell.attempts) + 1
        name = f"{number:03}-{slug(cell, _NAME)}{f'-{attempt}' if attempt > 1 else ''}"
        folder, output = self.folder / CELLS / name, self.folder / CELLS / f"{name}.txt"
        try:
            if folder.exists():  # of an attempt that was interrupted
                shutil.rmtree(folder)
            output.unlink(missing_ok=True)
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise HarnessError(f"cannot write {folder}: {error.strerror}", next_step="make room there") from None
        words = with_folder(cell, str(folder))
        running = self.starts(
            words if cell.kind == "command" else [*started(), *words],
            output,
            out=folder,
            cookie=f"{self.night.id}/{name}",
            limit=planned.limit,
            folder=self.where,
        )
        _LOG.info("begins: %s%s", title(cell), " again" if attempt > 1 else "", extra=NOTE)
        return _Begun(planned, running, folder, output)

    # -- an attempt that has ended

    def _ended(self, begun: _Begun, schedule: Schedule) -> None:
        ended = begun.running.reap()
        schedule.ended(begun.planned)
        with contextlib.suppress(OSError):
            begun.output.replace(begun.folder / outcome.OUTPUT)
        cell = begun.planned.cell
        seen = outcome.read(cell, begun.folder, ended.code)
        sure = seen.word == "pass" or (seen.word == "finding" and cell.kind != "command")
        if self.night.stopped and not sure:
            return  # interrupted: it is not run, and will be when the night is resumed
        word, why = seen.word, seen.why
        if ended.late and not (sure and word == "finding"):
            word, why = "could-not-judge", f"it took longer than {begun.planned.limit / 60:g} minutes"
        if ended.why and word != "finding":
            word, why = "could-not-judge", ended.why
        cell.began = cell.began or ended.began
        cell.attempts.append(
            Attempt(
                word=word,
                exit_code=ended.code,
                seconds=round(ended.seconds, 3),
                cpu_seconds=round(ended.cpu, 3),
                folder=str(begun.folder.relative_to(self.folder)),
                why=why,
                findings=[each.key for each in seen.findings],
            )
        )
        self._spans.append((ended.began, ended.began + ended.seconds, ended.cpu))
        known = {each.key for each in cell.findings}
        cell.findings += [each for each in seen.findings if each.key not in known]
        cell.figures = seen.figures or cell.figures
        cell.versions = seen.versions or cell.versions
        again = self._judge(cell) and not ended.flaky
        cell.word = "flaky" if ended.flaky else cell.word
        if self._record(cell):
            told = words_of(word) if word == cell.expected else f"{words_of(word)}, not {words_of(cell.expected)}"
            _LOG.info("%s: %s, %.0f s", title(cell), told, ended.seconds, extra=NOTE)
        if again:
            schedule.again(begun.planned)

    def _judge(self, cell: Cell) -> bool:
        """The cell's word from its attempts; must it be run again?"""
        first, last = cell.attempts[0], cell.attempts[-1]
        if len(cell.attempts) >= _MOST:
            same = first.word == last.word and set(first.findings) == set(last.findings)
            cell.word = last.word if same else "flaky"
            return False
        cell.word = first.word
        try:
            before = self.history.last(cell.id, cell.seed)
        except TcelabError as error:
            self._fail(error)
            return False
        return not cell.right or (before is not None and before not in {"flaky", first.word})

    def _record(self, cell: Cell) -> bool:
        """Write a cell down; where there is no room, the night ends with what is there."""
        try:
            folders.save(self.night, self.folder)
            self.history.record(self.night, cell)
        except TcelabError as error:
            self._fail(error)
            return False
        return True

    def _fail(self, error: Exception) -> None:
        """The night ends with what is there: the disk is full, mostly."""
        self._failed = True
        if isinstance(error, TcelabError):
            self._stop(error.message)
            return
        _LOG.error("internal error", exc_info=error, extra=NOTE)
        self._stop(f"internal error: {error!r}, please report it")

    def _finish(self) -> None:
        """Write down the end; where there is no room, the last state that could be written stays."""
        night = self.night
        night.ended = time.time()
        night.pace = self._pace() if self._spans else night.pace
        try:
            folders.save(night, self.folder)
            self.history.end(night)
        except TcelabError as error:
            self._fail(error)

    def _pace(self) -> Pace:
        return Pace(
            wall=round(time.monotonic() - self._began, 3),
            cells=round(sum(end - start for start, end, _ in self._spans), 3),
            cpu=round(sum(cpu for *_, cpu in self._spans), 3),
            busy=round(busy_cores(self._spans, len(os.sched_getaffinity(0))), 3),
            slots=self.slots,
        )
