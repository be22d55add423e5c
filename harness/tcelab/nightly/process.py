"""One running command of a night, with all that it starts: it ends whole, and is waited for by event."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

from tcelab.errors import HarnessError

COOKIE: Final = "TCELAB_NIGHT_CELL"
"""Environment variable by which everything that a cell started is known, whatever session it is in."""
GRACE: Final = 60.0
"""Seconds in which a command that is asked to end writes down what it found."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    :ivar code: exit code; negative: the signal that ended it.
    :ivar began: seconds since 1970 (UTC).
    :ivar cpu: CPU seconds of it and of all its children that were waited for.
    :ivar late: it was ended because its time was up.
    :ivar why: why nobody knows how it ended, empty if somebody does: its machine was lost.
    :ivar flaky: it was run twice, because a machine was lost, and did not end the same way.
    """

    code: int
    began: float
    seconds: float
    cpu: float
    late: bool
    why: str = ""
    flaky: bool = False


class Going(Protocol):
    """A command that runs, here or on another machine.

    :ivar descriptor: ready to be read once it has ended.
    :ivar deadline: by the monotonic clock, when `overdue` is to be called.
    """

    descriptor: int
    deadline: float

    def end(self, *, late: bool = False) -> None: ...
    def overdue(self) -> None: ...
    def kill(self) -> None: ...
    def reap(self) -> Ended: ...


class Starts(Protocol):
    """Starts commands."""

    def __call__(
        self,
        words: Sequence[str],
        output: Path,
        *,
        out: Path,
        cookie: str,
        limit: float,
        folder: Path,
        inputs: Path | None = None,
    ) -> Going:
        """See `Running`.

        :param out: the folder of its artefacts, which its words name.
        :param inputs: a folder of files that its words name, if there is one.
        """
        ...


class Running:
    """A command in a session of its own. It dies with this process: it is to be started by the main thread, because the
    kernel tells a child of its parent's death when the thread ends that made it.
    """

    def __init__(self, words: Sequence[str], output: Path, *, cookie: str, limit: float, folder: Path) -> None:
        """:param output: a new file, for all that it prints.
        :param limit: seconds after which it is asked to end.
        :param folder: where it is run.
        :raise HarnessError: it cannot be started.
        """
        self.cookie = cookie
        self._late = False
        self._asked = False
        environment = {**os.environ, COOKIE: cookie}
        self._began, self._clock = time.time(), time.monotonic()
        self.deadline = self._clock + limit
        try:
            with output.open("xb") as said:
                self._process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", "--", *words],  # noqa: S607 - of util-linux, as for QEMU
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=folder,
                    start_new_session=True,
                )
        except OSError as error:
            raise HarnessError(f"cannot start {words[0]}: {error.strerror}") from error
        self.descriptor = os.pidfd_open(self._process.pid)

    def end(self, *, late: bool = False) -> None:
        """Ask it to end, once; it is killed when it has not after `GRACE`."""
        if self._asked:
            return
        self._asked, self._late = True, late
        self.deadline = time.monotonic() + GRACE
        self._signal(signal.SIGTERM)

    def overdue(self) -> None:
        """Its deadline has passed."""
        if self._asked:
            self.kill()
            self.deadline = float("inf")
        else:
            self.end(late=True)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        self._signal(signal.SIGKILL)
        kill_all(self.cookie)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def reap(self) -> Ended:
        """After its end: how it was. What it started and left behind is killed."""
        _, status, usage = os.wait4(self._process.pid, 0)
        os.close(self.descriptor)
        self._process.returncode = os.waitstatus_to_exitcode(status)  # or else Popen would wait for it again
        kill_all(self.cookie)
        return Ended(
            self._process.returncode,
            self._began,
            time.monotonic() - self._clock,
            usage.ru_utime + usage.ru_stime,
            self._late,
        )


def here(
    words: Sequence[str],
    output: Path,
    *,
    out: Path,
    cookie: str,
    limit: float,
    folder: Path,
    inputs: Path | None = None,
) -> Running:
    """A command on this machine. See `Starts`."""
    del out, inputs  # its words name them
    return Running(words, output, cookie=cookie, limit=limit, folder=folder)


def kill_all(cookie: str) -> int:
    """Kill every process that a command started, other than this one: how many there were.

    :param cookie: of the command; or with a `/` at its end: of all those whose cookie begins so.
    """
    found = started_by(cookie)
    for number in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    return len(found)


def started_by(cookie: str) -> dict[int, int]:
    """The processes that a command started, as far as they live, and the parent of each; see `kill_all`."""
    wanted = f"{COOKIE}={cookie}".encode()
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            words = (path / "environ").read_bytes().split(b"\0")
            if any(each == wanted or (cookie.endswith("/") and each.startswith(wanted)) for each in words):
                # After the name, which may hold anything, the state and the parent.
                found[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    found.pop(os.getpid(), None)
    return found


@contextmanager
def guarded(night: str) -> Iterator[None]:
    """While the block lasts, a process waits beside this one: should this one be killed, it ends what is left.

    :param night: what all cookies begin with.
    """
    words = [sys.executable, "-m", __name__, f"{night}/"]
    environment = {name: value for name, value in os.environ.items() if name != COOKIE}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=environment, start_new_session=True
    ) as guard:
        yield
        guard.communicate()  # its end of the pipe is closed: it goes


def guard(cookie: str) -> None:
    """Wait until the other end of standard input is closed, by the night or by its death. Then ask what is left to end,
    children after their parents, and kill what has not after `GRACE`.
    """
    sys.stdin.buffer.read()
    end = time.monotonic() + GRACE
    asked: set[int] = set()
    while (left := started_by(cookie)) and (seconds := end - time.monotonic()) > 0:
        poll = select.poll()
        descriptors = []
        for number, parent in left.items():
            try:
                descriptors.append(os.pidfd_open(number))
                poll.register(descriptors[-1], select.POLLIN)
                if parent not in left and number not in asked:
                    asked.add(number)
                    os.kill(number, signal.SIGTERM)
            except ProcessLookupError:  # gone meanwhile: its children are to be asked now
                seconds = 0.0
        poll.poll(seconds * 1e3 + 1)
        for each in descriptors:
            os.close(each)
    kill_all(cookie)


class Waiter:
    """Waits until a command ends, a deadline passes or a signal comes.

    :ivar stops: how often somebody wanted the night to end.
    """

    def __init__(self, wakes: int) -> None:
        """:param wakes: descriptor on which signals announce themselves."""
        self.stops = 0
        self._wakes = wakes

    def wait(self, running: Mapping[int, Going], until: float) -> list[int]:
        """Those that have ended, by their keys.

        :param until: by the monotonic clock, when to return in any case.
        """
        poll = select.poll()
        poll.register(self._wakes, select.POLLIN)
        by_descriptor = {}
        for key, each in running.items():
            poll.register(each.descriptor, select.POLLIN)
            by_descriptor[each.descriptor] = key
        nearest = min([until, *(each.deadline for each in running.values())])
        seconds = nearest - time.monotonic()
        found = poll.poll(None if nearest == float("inf") else max(0.0, seconds * 1e3 + 1))
        if any(descriptor == self._wakes for descriptor, _ in found):
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakes, 4096)
        return [by_descriptor[descriptor] for descriptor, _ in found if descriptor != self._wakes]


@contextmanager
def signals() -> Iterator[Waiter]:
    """While the block lasts, Ctrl-C and SIGTERM are counted, and raise nothing: no command is lost between its start
    and the moment when it is known.
    """
    reads, writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    waiter = Waiter(reads)

    def stop(_number: int, _frame: FrameType | None) -> None:
        waiter.stops += 1

    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in wanted}
    former = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    try:
        yield waiter
    finally:
        signal.set_wakeup_fd(former)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reads)
        os.close(writes)


if __name__ == "__main__":
    guard(sys.argv[1])
