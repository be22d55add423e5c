"""A task that runs on a worker of a cluster, as whoever waits for it here sees it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tcelab.cluster.task import OUTPUT, Returned, Task
from tcelab.nightly.process import GRACE, Ended
from tcelab.run import exitcode

_SPARE: Final = 2 * GRACE
"""Seconds beyond a task's limit in which its worker ends it, and tells."""


class Remote:
    """See `Going`. What it left is written here when it is reaped.

    :ivar turn: how often the task was asked for.
    :ivar began: a worker has said that it begins.
    :ivar over: it has ended, in whatever way.
    """

    def __init__(
        self, task: Task, out: Path, output: Path, flaky: Callable[[str], bool], drop: Callable[[Remote], None]
    ) -> None:
        """:param out: folder of its artefacts; `output`: file of what it prints.
        :param flaky: has the task of that key given two verdicts?
        :param drop: nobody wants it any more.
        """
        self.task, self.key = task, task.key()
        self.turn, self.began, self.over = 0, False, False
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.deadline = time.monotonic() + task.limit + _SPARE
        self._out, self._output, self._flaky, self._drop = out, output, flaky, drop
        self._returned: Returned | None = None
        self._why, self._late = "", False
        self._lock = threading.Lock()

    def end(self, *, late: bool = False) -> None:
        """Give it up: its worker sees that, and ends its command."""
        self._late = late
        if self.fail("it took too long" if late else "interrupted"):
            self._drop(self)

    def overdue(self) -> None:
        """See `Running`."""
        self.end(late=True)

    def kill(self) -> None:
        """See `Running`."""
        self.end()

    def fail(self, why: str) -> bool:
        """It has ended without a result. False: it had ended before."""
        return self._finish(None, why)

    def done(self, returned: Returned) -> bool:
        """It has ended with one. False: it had ended before."""
        return self._finish(returned, returned.why)

    def _finish(self, returned: Returned | None, why: str) -> bool:
        with self._lock:
            if self.over:
                return False
            self.over, self._returned, self._why = True, returned, why
            os.eventfd_write(self.descriptor, 1)
            return True

    def reap(self) -> Ended:
        """See `Running`."""
        os.close(self.descriptor)
        returned = self._returned
        if returned is None:
            return Ended(exitcode.COULD_NOT_JUDGE, time.time(), 0.0, 0.0, self._late, self._why, self._flaky(self.key))
        why = self._why
        try:
            for name, data in returned.files.items():
                _put(self._output if name == OUTPUT else self._out / name, self._out, data)
        except OSError as error:
            why = f"cannot write {error.filename or self._out}: {error.strerror}"
        late, flaky = returned.late, self._flaky(self.key)
        return Ended(returned.code, returned.began, returned.seconds, returned.cpu, late, why, flaky)


def _put(path: Path, out: Path, data: bytes) -> None:
    """Write a file below a folder; a worker has no say about any other place."""
    if path.is_relative_to(out) and ".." in path.parts:
        raise OSError(0, "a worker's file lies outside of its folder", str(path))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(data)
