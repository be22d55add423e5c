"""A forked process that does operations for the agent, one at a time, over a socket pair."""

from __future__ import annotations

import posix

from tceagent import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tceagent.seam import Op, Outcome


class ChildError(Exception):
    """An error of a child, with its traceback; or how it died."""


class _Link(wire.Channel):
    """One end of the socket pair."""

    def _reconnected(self) -> None:
        raise EOFError("the other end is closed")


class LinuxChild:
    """The parent's end."""

    def __init__(self, pid: int, fd: int) -> None:
        self._pid = pid
        self._fd: int | None = fd
        self._link = _Link(fd)
        self._status: int | None = None

    def ask(self, op: Op) -> Outcome:
        """:raise ChildError: the operation raised there, or the child is dead."""
        self.begin(op)
        return self.answer()

    def begin(self, op: Op) -> None:
        """Have it begin an operation. :raise ChildError: it is dead."""
        if self._fd is None or self._status is not None:
            raise ChildError(self._death())
        try:
            self._link.send(wire.encode(op))
        except OSError:
            raise ChildError(self._death()) from None

    def answer(self) -> Outcome:
        """Its next answer. :raise ChildError: as `ask`."""
        try:
            answer = wire.decode(self._link.receive())
        except (EOFError, OSError):
            raise ChildError(self._death()) from None
        if "failed" in answer:
            raise ChildError(f"in process {self._pid}:\n{answer['failed']}")
        outcome: Outcome = answer["outcome"]
        return outcome

    def end(self) -> None:
        """Have it exit, and wait until it has: then its files are closed and its memory is gone.

        :raise ChildError: it had died before.
        """
        self.hang_up()
        if self._reap():
            raise ChildError(self._death())

    def hang_up(self) -> None:
        """Close this end. Each process that holds it must do so before the child sees its end."""
        if self._fd is not None:
            posix.close(self._fd)
            self._fd = None

    def _reap(self) -> int:
        if self._status is None:
            self._status = posix.waitpid(self._pid, 0)[1]
        return self._status

    def _death(self) -> str:
        status = self._reap()
        if posix.WIFSIGNALED(status):
            return f"process {self._pid} was killed by signal {posix.WTERMSIG(status)}"
        return f"process {self._pid} ended with status {posix.WEXITSTATUS(status)}"


def fork(become: Callable[[], Callable[[Op], Outcome]], others: Iterable[LinuxChild]) -> LinuxChild:
    """:param become: called in the child, makes it what it is to be; returns what does one operation there.
    :param others: the children before.
    :raise ChildError: it could not become that.
    """
    from _socket import socketpair  # noqa: PLC0415  hardly ever needed

    ours, theirs = socketpair()
    pid = posix.fork()
    if not pid:
        status = 1
        try:
            ours.close()
            for other in others:
                other.hang_up()
            _serve(_Link(theirs.fileno()), become)
            status = 0
        finally:
            # Always exit here: the agent's own loop, whose frames lie below, must not continue in the child.
            posix._exit(status)  # noqa: SLF001  the public name of what the os module has
    theirs.close()
    child = LinuxChild(pid, ours.detach())
    try:
        child.answer()
    except BaseException:
        child.hang_up()
        child._reap()  # noqa: SLF001  as its maker
        raise
    return child


def _serve(link: _Link, become: Callable[[], Callable[[Op], Outcome]]) -> None:
    """Answer until the agent hangs up. The first answer says that the child is ready."""
    try:
        do = become()
    except Exception:  # noqa: BLE001  whatever it is, the agent must hear of it
        link.send(wire.encode({"failed": wire.failure()}))
        return
    link.send(wire.encode({"outcome": {}}))
    while True:
        try:
            op = wire.decode(link.receive())
        except EOFError:
            return
        link.send(_answer(do, op))


def _answer(do: Callable[[Op], Outcome], op: Op) -> bytes:
    try:
        return wire.encode({"outcome": do(op)})
    except Exception:  # noqa: BLE001  whatever it is, the agent must hear of it
        return wire.encode({"failed": wire.failure()})
