"""Runs the parts of a program side by side, each on a guest of its own, and judges them as one."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Final, Protocol

from tcelab.emulator.reference import second_opinion
from tcelab.errors import HarnessError, Interrupted, Scene, TcelabError, died
from tcelab.judge import Judge, Ledger, Verdict, conclude
from tcelab.judge.core import KEEP
from tcelab.judge.laws.difference import References
from tcelab.logs import NOTE, of_guest
from tcelab.program import Program
from tcelab.program.parts import Part, parts
from tcelab.run.fits import require
from tcelab.run.loop import Recorder
from tcelab.run.record import Ending, Facts, Outcome, RunRecord, Step
from tcelab.run.session import Session

_LOG: Final = logging.getLogger(__name__)

_LISTEN: Final = 0.5
"""Seconds after which the main thread looks for signals: one that another thread was given does not wake it."""


class Guest(Session, Protocol):
    """A session that can be ended from another thread, and tells where it is."""

    def close(self) -> None: ...

    def scene(self) -> Scene: ...


class ParallelRun:
    """One run of a program, on as many guests as it asks for.

    :ivar kept: the guest of the last part, if it is to be kept: closing it is the caller's.
    """

    def __init__(
        self,
        program: Program,
        opening: Callable[[Part], Guest],
        on_step: Callable[[Step, int], None] = lambda _step, _findings: None,
        *,
        give_up: Callable[[], None] = lambda: None,
        keep: bool = False,
        oracles: Callable[[Part, Facts], References | None] | None = None,
    ) -> None:
        """:param opening: gives the guest for a part; called from several threads.
        :param on_step: sees each step once it is judged, and how many findings there are; one call at a time.
        :param give_up: ends what `opening` is about, in whatever thread.
        :param oracles: whom to hold each part against; by default the emulator.
        """
        self._program = program
        self._parts = parts(program)
        self._opening, self._on_step, self._give_up, self._keep = opening, on_step, give_up, keep
        self._oracles = oracles or (lambda _, facts: second_opinion(program.topology, facts))
        self._ledger = Ledger(program, KEEP)
        self._lock = threading.Lock()
        self._guests: list[Guest] = []
        self._interrupted = threading.Event()
        self._facts: Facts | None = None
        self.kept: Guest | None = None

    def run(self) -> tuple[RunRecord, Verdict]:
        """Run all parts, and judge the whole. An interrupt ends them; what was seen until then is judged.

        :raise TcelabError: no guest could be had at all.
        """
        futures: list[Future[RunRecord]] = []
        with ThreadPoolExecutor((os.cpu_count() or 1) + 1, "tcelab-part") as pool:
            while True:
                try:
                    while len(futures) < len(self._parts):
                        futures.append(pool.submit(self._part, self._parts[len(futures)]))
                    while wait(futures, timeout=_LISTEN).not_done:
                        pass
                    break
                except KeyboardInterrupt:  # as often as somebody is impatient: what was found must be told
                    self._stop(futures)
        return self._merged(futures)

    def _part(self, part: Part) -> RunRecord:
        with of_guest(f"guest {part.number + 1}"):
            return self._performed(part)

    def _performed(self, part: Part) -> RunRecord:
        if self._interrupted.is_set():
            raise Interrupted
        try:
            guest = self._opening(part)
        except TcelabError as error:
            if self._interrupted.is_set():
                raise Interrupted(scene=error.scene) from None
            raise
        try:
            require(self._program, guest.facts)
        except TcelabError:
            guest.close()
            raise
        with self._lock:
            self._guests.append(guest)
            self._facts = self._facts or guest.facts
        try:
            oracles = self._oracles(part, guest.facts)
            judge = Judge(self._program, guest.facts, ledger=self._ledger, part=part.number, oracles=oracles)

            def on_step(step: Step) -> bool:
                with self._lock:
                    suspicious = judge.feed(step)
                    self._on_step(step, judge.findings)
                return suspicious

            _LOG.debug("part %d: %d operations from number %d on", part.number + 1, len(part.ops), part.first)
            recorder = Recorder(self._program, guest, on_step, first=part.first)
            if self._interrupted.is_set():
                raise Interrupted
            recorder.perform(part.ops)
            recorder.finish()
            ending = recorder.run.ending
            if ending is not None:
                if self._interrupted.is_set() and not died(ending.error):
                    ending = recorder.run.ending = Ending(Interrupted(), ending.in_flight)
                if not ending.scene.phase:
                    ending.error.scene = guest.scene()
            with self._lock:
                judge.end(recorder.run)
            if self._keep and ending is None and part == self._parts[-1] and not self._interrupted.is_set():
                self.kept = guest
            return recorder.run
        finally:
            if self.kept is not guest:
                guest.close()

    def _stop(self, futures: list[Future[RunRecord]]) -> None:
        """End all guests, also those that are on their way, so that the parts end."""
        self._interrupted.set()
        self.kept = None
        for future in futures:
            future.cancel()
        with self._lock:
            guests = list(self._guests)
        for guest in guests:
            guest.close()
        self._give_up()

    def _merged(self, futures: list[Future[RunRecord]]) -> tuple[RunRecord, Verdict]:
        runs: list[RunRecord] = []
        errors: list[TcelabError] = []
        for future in futures:
            try:
                runs.append(future.result())
            except CancelledError:
                errors.append(Interrupted())
            except TcelabError as error:
                errors.append(error)
            except Exception as error:  # noqa: BLE001 - what other parts found must not be lost with this one
                _LOG.error("internal error", exc_info=error, extra=NOTE)
                errors.append(HarnessError(f"internal error: {error!r}", next_step="please report it"))
        dead = [each for each in errors if died(each)]
        if self._facts is None:
            raise next(iter([*dead, *errors]))
        for each in dead:
            self._ledger.report("kernel", "died", f"the kernel died before its program began: {each.message}")
        whole = RunRecord(self._program, self._facts, trouble=tuple(line for each in runs for line in each.trouble))
        # Asking for a guest is an operation as well, and was done if there was one.
        asked = [part.first - 1 for part in self._parts[1:]][: max(0, len(runs) - 1)]
        fresh = [Step(number, self._program.ops[number], Outcome(value=0)) for number in asked]
        steps = [step for each in runs for step in each.steps]
        whole.steps = sorted([*steps, *fresh], key=lambda step: step.number)
        for cause in errors:
            self._ledger.undecided_because(f"a part of the program had no guest: {cause.message}")
        endings = [each.ending for each in runs if each.ending is not None]
        whole.ending = next(iter([*endings, *(Ending(cause, None) for cause in errors)]), None)
        whole.facts.versions["guests"] = len(self._parts)
        return whole, conclude(self._ledger, whole)
