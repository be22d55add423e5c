"""Runs the parts of a program side by side, each on a guest of its own, and judges them as one."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Final, Protocol

from tcelab.emulator.reference import second_opinion
from tcelab.errors import HarnessError, Interrupted, Scene, TcelabError, died
from tcelab.judge import Judge, Verdict, conclude
from tcelab.judge.laws.difference import References
from tcelab.logs import NOTE, of_guest
from tcelab.program import Program
from tcelab.program.parts import Part, parts
from tcelab.run.guestfits import require
from tcelab.run.join import join
from tcelab.run.loop import perform_program
from tcelab.run.record import Ending, Facts, RunRecord, Snapshot, Step
from tcelab.run.session import Leaving, Session

_LOG: Final = logging.getLogger(__name__)

_LISTEN: Final = 0.5
"""Seconds between the main thread's checks for signals: one delivered to another thread does not wake it."""


class EndableSession(Session, Protocol):
    """A session that can be ended from another thread, and that knows its scene."""

    def close(self) -> None: ...

    def scene(self) -> Scene: ...


class _OneAtATime:
    """A judge of a part that runs while no other judge does: two at once would compete for the interpreter with each
    other and with the loop, for which stopped guests wait.
    """

    def __init__(self, judge: Judge, lock: threading.Lock, then: Callable[[Step], None]) -> None:
        self._judge, self._lock, self._then = judge, lock, then

    def feed(self, step: Step) -> bool:
        """See `tcelab.run.loop.Observer`."""
        with self._lock:
            suspicious = self._judge.feed(step)
            self._then(step)
        return suspicious

    def confirm(self, step: Step, snapshot: Snapshot) -> None:
        """See `tcelab.run.loop.Observer`."""
        with self._lock:
            self._judge.confirm(step, snapshot)


class ParallelRun:
    """One run of a program, on as many guests as it asks for.

    :ivar kept: the guest of the last part, if it is to be kept; the caller closes it.
    """

    def __init__(
        self,
        program: Program,
        opening: Callable[[Part], EndableSession],
        on_step: Callable[[Step, int], None] = lambda _step, _findings: None,
        *,
        give_up: Callable[[], None] = lambda: None,
        keep: bool = False,
        references: Callable[[Part, Facts], References | None] | None = None,
    ) -> None:
        """:param opening: gives the guest for a part; called from several threads.
        :param on_step: called with each judged step and the number of findings; one call at a time.
        :param give_up: aborts a call of `opening` in any thread.
        :param references: what to compare each part with; by default the emulator.
        """
        self._program = program
        self._parts = parts(program)
        self._opening, self._on_step, self._give_up, self._keep = opening, on_step, give_up, keep
        self._references = references or (lambda _, facts: second_opinion(program.topology, facts))
        self._lock = threading.Lock()
        self._guests: list[EndableSession] = []
        self._interrupted = threading.Event()
        self._facts: dict[int, Facts] = {}
        self._judges: dict[int, Judge] = {}
        self.kept: EndableSession | None = None

    def run(self) -> tuple[RunRecord, Verdict]:
        """Run all parts, and judge the whole. An interrupt ends them; everything seen until then is judged.

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
                except KeyboardInterrupt:  # after every further interrupt: findings must be reported
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
            self._facts[part.number] = guest.facts
        try:
            references = self._references(part, guest.facts)
            judge = Judge(self._program, guest.facts, references=references)
            with self._lock:
                self._judges[part.number] = judge
            _LOG.debug("part %d: %d operations from number %d on", part.number + 1, len(part.ops), part.first)
            if self._interrupted.is_set():
                raise Interrupted
            record = perform_program(self._program, guest, _OneAtATime(judge, self._lock, self._tell), part=part)
            if record.ending is None and not self._keep and isinstance(guest, Leaving):
                self._leave(record, guest)
            self._explain_ending(record, guest)
            with self._lock:
                judge.end(record)
            if self._keep and record.ending is None and part == self._parts[-1] and not self._interrupted.is_set():
                self.kept = guest
            return record
        finally:
            if self.kept is not guest:
                guest.close()

    def _leave(self, record: RunRecord, guest: Leaving) -> None:
        try:
            record.parting = guest.leave()
        except TcelabError as error:
            record.ending = Ending(error, None)

    def _explain_ending(self, record: RunRecord, guest: EndableSession) -> None:
        """Replace errors of guests that the interrupt ended, and add the scene to an error without one."""
        ending = record.ending
        if ending is None:
            return
        if self._interrupted.is_set() and not died(ending.error):
            ending = record.ending = Ending(Interrupted(), ending.in_flight)
        if not ending.scene.phase:
            ending.error.scene = guest.scene()

    def _tell(self, step: Step) -> None:
        self._on_step(step, sum(each.findings for each in self._judges.values()))

    def _stop(self, futures: list[Future[RunRecord]]) -> None:
        """End all guests, including those being made, so that the parts end."""
        self._interrupted.set()
        self.kept = None
        for future in futures:
            future.cancel()
        with self._lock:
            guests = list(self._guests)
        for guest in guests:
            guest.close()
        self._give_up()

    def _merged(self, futures: Sequence[Future[RunRecord]]) -> tuple[RunRecord, Verdict]:
        """The record of the whole, and the judge's verdict on it."""
        records: dict[int, RunRecord] = {}
        lost: dict[int, TcelabError] = {}
        for number, future in enumerate(futures):
            try:
                records[number] = future.result()
            except CancelledError:
                lost[number] = Interrupted()
            except TcelabError as error:
                lost[number] = error
            except Exception as error:  # noqa: BLE001 - what other parts found must not be lost with this one
                _LOG.error("internal error", exc_info=error, extra=NOTE)
                lost[number] = HarnessError(f"internal error: {error!r}", next_step="please report it")
        if not self._facts:
            raise next(iter(sorted(lost.values(), key=died, reverse=True)))
        whole = join(self._program, self._facts[min(self._facts)], records, lost)
        return whole, conclude([self._judges[number].ledger for number in sorted(self._judges)], whole, lost)
