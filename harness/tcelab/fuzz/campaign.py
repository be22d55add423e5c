"""A campaign: random programs on fresh guests, each compared with the emulator. A program that differs is shrunk and
saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

import msgspec

from tcelab.emulator.reference import EmulatorReferences
from tcelab.errors import Interrupted, TcelabError, Unsupported, counted, died
from tcelab.fuzz.generate import generate
from tcelab.fuzz.keptprogram import to_save, until_step
from tcelab.fuzz.samefailure import shows_again
from tcelab.fuzz.shrink import EnoughError, Fails, shrink, watch_all
from tcelab.fuzz.tally import Done, Found, Ran, Tally
from tcelab.fuzz.turns import DRIVEN, LONG_AGO, NOW_AND_THEN, STEPS, USUAL, plan
from tcelab.job.keeping import Keeper
from tcelab.job.parallel import EndableSession
from tcelab.job.setup import TODAYS_PROFILES
from tcelab.judge import Finding, Judge, Verdict
from tcelab.logs import NOTE, about, of_guest
from tcelab.program import Program
from tcelab.program.topology import topology
from tcelab.run.loop import Tee, perform_program
from tcelab.run.record import Ending, Step

_LOG: Final = logging.getLogger(__name__)

EVERY: Final = 50
"""Operations between two checkpoints."""
TRIES: Final = 400
"""Most guests for shrinking one finding."""
_SHRINKING: Final = 600.0
"""Seconds that shrinking may take once the time of the campaign is over."""
SILENCE: Final = 10.0
"""Seconds of silence after which a line reports the current work."""
_LISTEN: Final = 0.5
"""Seconds between the main thread's checks for signals: one delivered to another thread does not wake it."""
_SPARED: Final = 3
"""PEs of a machine on which the driver takes none from hypercalls."""


class Campaign:
    """:ivar tally: what was done so far.

    :ivar keeper: of what was found.
    :ivar known: quirks that need no further report: those declared, and those found and named.
    """

    def __init__(
        self,
        seed: int,
        opening: Callable[[str], EndableSession],
        folder: Path,
        *,
        steps: int = STEPS,
        every: int = EVERY,
        usual: str | None = None,
        only: int | None = None,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        """:param opening: a fresh guest on the topology of that name.
        :param steps: operations of one program.
        :param give_up: aborts a call of `opening` in any thread.
        :param only: number of the one program that is run; nothing is shrunk then.
        :param usual: the one topology for all programs; by default others have their turn.
        """
        self.tally = Tally()
        self.keeper = Keeper(folder)
        self.known: frozenset[str] | None = None
        self._counted: set[int] = set()
        self._seed, self._opening, self._folder = seed, opening, folder
        self._give_up = give_up
        self._steps, self._every, self._usual = steps, every, usual
        self._only = only
        self._workers = os.cpu_count() or 1
        self._lock, self._opened = threading.Lock(), threading.Lock()
        self._interrupted = threading.Event()
        self._guests: set[EndableSession] = set()
        self._doing: dict[int, str] = {}
        self._told = self._began = 0.0
        self._until = math.inf

    def run(self, steps: int, minutes: float | None = None) -> None:
        """Run until that many operations were done, or the time is over, or a finding cannot be explained. Programs run
        side by side; which ones depends only on the seed and on `steps`. Once the time is over, each ends at its next
        checkpoint at which it can be judged. An interrupt ends the guests at once; what was done and found until then
        is in the tally.

        :raise Interrupted: somebody wanted it to end.
        :raise TcelabError: no guest can be had.
        """
        self._until = math.inf if minutes is None else time.monotonic() + 60 * minutes
        programs = plan(steps, self._steps, self._usual)
        wanted = iter([each for each in programs if self._only in {None, each[0]}])
        self._began = self._told = time.monotonic()
        going: deque[Future[Done]] = deque()
        with ThreadPoolExecutor(self._workers, "tcelab-fuzz") as pool:
            try:
                going.extend(pool.submit(self._one, *each) for each in itertools.islice(wanted, self._workers))
                while going:
                    done = self._done(going[0])
                    more = self._take(done) and time.monotonic() < self._until
                    following = next(wanted, None) if more else None
                    going.popleft()
                    if following is not None:
                        going.append(pool.submit(self._one, *following))
                    elif not more:
                        wanted = iter(())
            except KeyboardInterrupt:
                self._stop(going)
                raise Interrupted from None
            except TcelabError:
                self._stop(going)
                raise

    def shrink(self, ran: Ran, finding: Finding, minutes: float) -> None:
        """Shrink and save what another process has found.

        :param minutes: after which the smallest program until then is saved.
        :raise Interrupted: somebody wants it to end; the finding is saved.
        """
        self._until = time.monotonic() + 60 * minutes - _SHRINKING
        self._keep(ran, finding)

    def _done(self, future: Future[Done]) -> Done:
        """Wait for a program's result; meanwhile, report the current work."""
        while wait([future], timeout=_LISTEN).not_done:
            self._say()
        return future.result()

    def _say(self, line: str = "") -> None:
        """Print a line: by default the current work, after a long silence."""
        now = time.monotonic()
        if not line and now - self._told >= SILENCE:
            tally = self.tally
            doing = [f"program {number}: {what}" for number, what in sorted(self._doing.copy().items())]
            ran = f"{counted(tally.programs, 'program')} and {counted(tally.operations, 'operation')}"
            done = f"{ran} done, {counted(len(tally.found), 'finding')}"
            line = "; ".join([done, *doing])
        if line:
            self._told = now
            _LOG.info("%s", line, extra=NOTE)

    def _stop(self, going: deque[Future[Done]]) -> None:
        """End all guests, including those being made. Findings must still be reported."""
        self._interrupted.set()
        for each in going:
            each.cancel()
        with self._lock:
            guests = list(self._guests)
        for guest in guests:
            with contextlib.suppress(TcelabError):
                guest.close()
        self._give_up()
        for each in going:
            with contextlib.suppress(TcelabError, OSError, CancelledError):  # its guest was not up yet
                self._put_down(each.result())

    def _put_down(self, done: Done) -> None:
        """Record the result of an interrupted program, or of one not yet looked at."""
        if done.number not in self._counted:
            self._count(done)
        if done.verdict.findings and all(each.original is not done.program for each in self.tally.found):
            finding = done.verdict.findings[0]
            self._save(done, finding, until_step(done.program, finding.step))

    def _one(self, number: int, name: str, size: int) -> Done:
        """One program on a guest of its own."""
        self._doing[number] = f"waits for a guest on {name}"
        try:
            with of_guest(f"program {number}"):
                return self._made(number, name, size)
        finally:
            self._doing.pop(number, None)

    def _made(self, number: int, name: str, size: int) -> Done:
        name, guest = self._machine(name)
        with self._lock:
            known = self.known = guest.facts.quirks if self.known is None else self.known
        rng = random.Random(f"{self._seed}/{number}")  # noqa: S311 - repeatable on purpose
        made = generate(
            rng,
            topology(name),
            size,
            every=self._every,
            quirks=known,
            hypercalls=guest.facts.hypercalls,
            v2=guest.facts.profile in TODAYS_PROFILES,
            huge=guest.facts.huge > 0,
            drivers=guest.facts.drivers and self._has_driver(number, name),
        )
        # Many sizes were drawn for this kernel's pages: with other pages the program would not show its finding.
        program = msgspec.structs.replace(
            made.program,
            name=f"fuzz {self._seed}/{number}",
            seed=self._seed,
            page_sizes=[guest.facts.page_size],
        )
        program, verdict = self._judged(program, guest, known, number)
        _LOG.debug("%d operations on %s: %s", len(program.ops), name, verdict.result)
        return Done(number, program, known, verdict, made.left_out)

    def _machine(self, name: str) -> tuple[str, EndableSession]:
        """A guest on the topology of that name, or on the usual one, where QEMU has no iommu-testdev."""
        try:
            return name, self._open(name)
        except Unsupported:
            if name != DRIVEN or self._usual:
                raise
            return USUAL, self._open(USUAL)

    def _has_driver(self, number: int, name: str) -> bool:
        """Does a driver of the DMA API get a PE? Where there are two, every other program; the usual machine has one
        when QEMU has no other for it.
        """
        if len(topology(name).at_start.phbs) >= _SPARED:
            return True
        return bool(number % 2) if self._usual else NOW_AND_THEN.get(number % LONG_AGO) == DRIVEN

    def _open(self, name: str) -> EndableSession:
        with self._opened:  # opening one topology closes the forks that are kept ready for another
            if self._interrupted.is_set():
                raise Interrupted
            return self._opening(name)

    def _take(self, done: Done) -> bool:
        """Count one program; False: going on is useless."""
        known = self.known or frozenset()
        if done.verdict.findings and done.known != known:
            # Quirks that were found and explained while it ran need no second report.
            _, verdict = self._judged(done.program, self._open(done.program.topology.name), known)
            done = dataclasses.replace(done, known=known, verdict=verdict)
        verdict = done.verdict
        self._count(done)
        if verdict.findings:
            if self._only is not None:
                self._put_down(done)
                return True
            began = time.monotonic()
            explained = self._keep(done, verdict.findings[0])
            self._began += time.monotonic() - began
            return explained
        if verdict.could_not:
            self.tally.could_not += [f"program {done.number}: {reason}" for reason in verdict.could_not]
            return False
        return True

    def _judged(
        self, program: Program, guest: EndableSession, known: frozenset[str], number: int | None = None
    ) -> tuple[Program, Verdict]:
        """Run a program on a guest, which ends with it.

        :param number: of a program of the campaign.
        :return: the program as far as it was run, and the verdict. A program of the campaign ends early once the time
            is over.
        :raise Interrupted: somebody wants it to end, and it is none of the campaign's.
        """
        total = len(program.ops)
        try:
            with self._lock:
                self._guests.add(guest)
            if self._interrupted.is_set():
                raise Interrupted
            facts = dataclasses.replace(guest.facts, quirks=known)
            judge = Judge(program, facts, references=EmulatorReferences(program.topology, facts))

            def then(step: Step) -> None:
                if number is not None:
                    self._doing[number] = f"{step.number + 1:,} of {total:,} operations"

            def enough() -> bool:
                return number is not None and time.monotonic() >= self._until and judge.proven(facts.views)

            record = perform_program(program, guest, Tee(judge, then), enough=enough, keep=False)
            ending = record.ending
            if ending is not None and self._interrupted.is_set() and not died(ending.error):
                record.ending = Ending(Interrupted(), ending.in_flight)
            elif ending is not None and isinstance(ending.error, Interrupted):
                raise Interrupted
            return record.program, judge.verdict(record)
        finally:
            with self._lock:
                self._guests.discard(guest)
            guest.close()

    def _count(self, done: Done) -> None:
        self._counted.add(done.number)
        tally, evidence = self.tally, done.verdict.evidence
        tally.programs += 1
        tally.operations += evidence.operations
        tally.checkpoints += evidence.checkpoints
        tally.entries += evidence.entries
        tally.spent = time.monotonic() - self._began
        tally.quirks.update(evidence.quirks)
        tally.left_out.update(done.left_out)

    def _keep(self, done: Ran, finding: Finding) -> bool:
        """Shrink and save a finding. True: a quirk explains it, and the campaign goes on with that quirk known."""
        program = done.program
        self._say(f"program {done.number}: {finding.law}: {finding.message}")
        self._say(f"  shrinking its {len(program.ops):,} operations, on {TRIES} guests at most")
        file = self._folder / f"finding-{len(self.tally.found) + 1}.json"
        self.keeper.write(file.with_suffix(".original.json").name, program.to_json())  # now: shrinking takes its time
        cut = until_step(program, finding.step)
        told, best = finding, cut
        interrupted = shows = False
        tries = itertools.count(1)

        def judged(candidate: Program) -> Verdict:
            _, verdict = self._judged(candidate, self._open(candidate.topology.name), done.known)
            return verdict

        def fails(candidate: Program) -> bool:
            nonlocal told, best, interrupted, shows
            if shows and candidate.ops == best.ops:
                return True
            if self._too_late():
                raise EnoughError
            number = next(tries)
            if time.monotonic() - self._told >= SILENCE:
                self._say(f"  shrinking: try {number}, of {len(candidate.ops):,} operations")
            try:
                with of_guest(f"try {number}"):
                    hit = shows_again(finding, candidate, judged)
            except (KeyboardInterrupt, Interrupted):
                interrupted = True
                raise EnoughError from None
            if hit is not None:
                told, best, shows = hit, candidate, True  # the last one that failed is the smallest
                self._told = time.monotonic()  # shrinking says so
            return hit is not None

        missed = False
        try:
            with about("  shrinking"):
                # Checkpoints everywhere name the operation that did it, and take the time that some failures need.
                for number, start in enumerate((watch_all(cut), cut), 1):
                    if not shows and not interrupted and _in_time(fails, start):
                        # What came after the step at which it showed needs no tries.
                        shrink(until_step(start, told.step), fails, most=TRIES - number)
                missed = not shows and not interrupted and not self._too_late()
        except KeyboardInterrupt:
            interrupted = True
        finally:  # whatever happens, the finding stands
            self._save(done, told, best, missed=missed)
        with self._lock:
            self.known = (self.known or frozenset()) | _named(finding)
        if interrupted:
            raise Interrupted
        return bool(finding.quirk)

    def _too_late(self) -> bool:
        return time.monotonic() > self._until + _SHRINKING

    def _save(self, done: Ran, finding: Finding, program: Program, *, missed: bool = False) -> None:
        """Save a finding as a program whose last operation is a checkpoint."""
        file = self._folder / f"finding-{len(self.tally.found) + 1}.json"
        self.keeper.write(file.name, to_save(program).to_json())
        self.tally.found.append(Found(finding, program, done.program, file, done.known, missed, done.number))


def _in_time(fails: Fails, program: Program) -> bool:
    try:
        return fails(program)
    except EnoughError:
        return False


def _named(finding: Finding) -> frozenset[str]:
    """Quirks that explain a finding."""
    return frozenset(filter(None, finding.quirk.split(", ")))
