"""Forks that are ready before they are asked for: while one test runs, the next guest is already there."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final, Self

from tcelab.errors import TcelabError, died
from tcelab.image.bases import ChangedError
from tcelab.logs import NOTE, of_guest, screened
from tcelab.qemu import ram
from tcelab.qemu.fork import Forks
from tcelab.qemu.qemusession import QemuSession

_LOG: Final = logging.getLogger(__name__)

_DEAD: Final = 3
"""Consecutive forks that may die while they are kept ready; one more is an error."""


class Ahead:
    """Forks that are ready before they are asked for. A context manager, which closes the `Forks` that it is given."""

    def __init__(self, forks: Forks, folder: Callable[[], Path], count: int) -> None:
        """:param folder: makes a private folder for the artefacts of one fork.
        :param count: forks to keep; fewer where the host has no room.
        """
        room = max(0, (ram.available() - ram.HEADROOM) // ram.FORK_NEEDS)
        if room < count:
            _LOG.warning("only %d forks are kept ahead: there is no memory for %d", room, count, extra=NOTE)
        self._forks, self._folder = forks, folder
        self._count = min(count, room)
        self._makers = ThreadPoolExecutor(max(1, self._count), "tcelab-fork")
        self._ready: deque[Future[QemuSession]] = deque()
        self._lock = threading.Lock()
        self._phases: set[str] = set()
        self._forked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, more: int | None = None) -> QemuSession:
        """A fork, fit for use; closing it is the caller's. Another one is begun in its place.

        :param more: how many more will be asked for; None: nobody knows.
        :raise TcelabError: none can be had.
        """
        wanted = 1 + (self._count if more is None else max(0, min(more, self._count)))
        dead = 0
        while True:
            with self._lock:
                self._begin(wanted)
                first = next((each for each in self._ready if each.done()), self._ready[0])
                self._ready.remove(first)
            session = first.result()
            why = self._unfit(session)
            if why is None:
                return session
            session.close()
            dead += 1
            if dead == _DEAD or died(why):
                raise why
            _LOG.warning("a fork that was kept ahead is replaced: %s", why.message, extra=NOTE)

    def _unfit(self, session: QemuSession) -> TcelabError | None:
        """Why a fork cannot be handed out any more."""
        if not session.alive:
            return session.loss()
        try:
            self._forks.check()
        except ChangedError as error:
            return error
        return None

    def prepare(self) -> None:
        """Wait until the forks that are kept ready exist."""
        with self._lock:
            self._begin(self._count)
            ready = list(self._ready)
        wait(ready)

    def close(self) -> None:
        """End all forks, including those still being made."""
        with self._lock:
            ready = list(self._ready)
            self._ready.clear()
        for each in ready:
            each.cancel()
        self._forks.close()
        for each in ready:
            if not each.cancelled() and each.exception() is None:
                each.result().close()
        self._makers.shutdown()

    def _begin(self, wanted: int) -> None:
        """Begin as many as are missing; under the lock."""
        while len(self._ready) < wanted:
            self._ready.append(self._makers.submit(self._make))

    def _make(self) -> QemuSession:
        folder = self._folder()
        with of_guest(folder.name), screened(self._shows):
            return self._forks.open(folder)

    def _shows(self, phase: str) -> bool:
        """Of one guest. What comes before the first fork takes long, and is shown once."""
        if self._forked or phase in self._phases:
            return False
        self._forked = phase.startswith("forking")
        self._phases.add(phase)
        return not self._forked
