"""Commands typed at the shell of a guest's console, as a person would; the agent never runs any.

A command is first written to a file, in lines that line editor and terminal leave unchanged, and then run without a
terminal as input. The mark of its end is random for each command, and never part of a typed line.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import pexpect
from pexpect.fdpexpect import fdspawn

from tcelab.errors import HarnessError
from tcelab.qemu.interact import Hearing
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession

_PIECE: Final = 160
"""Bytes of a command on one typed line: four characters each, and busybox edits lines of up to 1023."""

_TURN: Final = 0.25
"""Seconds between two checks whether the guest is still alive."""

_WINDOW: Final = 400
"""Bytes at the end of the output in which the mark is searched: a command may print a lot."""

_FILE: Final = "/run/typed"
_PROMPT: Final = "tcelab# "
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


if TYPE_CHECKING:  # the stubs make it generic, the class is not
    _Console = fdspawn[bytes]


class CommandEnded(NamedTuple):
    """How a command ended.

    :ivar status: its exit status, as a shell tells it.
    :ivar output: the console's output meanwhile, kernel messages included.
    """

    status: int
    output: str


class Typist:
    """At one guest's console. Between two commands the console is watched as ever."""

    def __init__(self, session: QemuSession, ready: float) -> None:
        """Wait for the shell.

        :param ready: seconds that it may take.
        :raise HarnessError: there is no shell at the console.
        """
        self._session = session
        with self._console() as console:
            console.send(b"\n")
            if not self._wait(console, _PROMPT.encode(), ready):
                raise HarnessError(
                    f"no shell at the guest's console within {ready:g} s",
                    next_step="an initrd of yours needs the prompt that tcelab's init gives: tcelab#",
                    scene=session.scene(),
                )

    def run(self, command: str, limit: float, meanwhile: Callable[[], None] | None = None) -> CommandEnded | None:
        """Run a command in a shell of its own. Its standard input is empty.

        :param limit: seconds.
        :param meanwhile: called now and then while the command runs.
        :return: None: it did not end in time, and still runs.
        :raise GuestLost: the guest died of it, or meanwhile.
        """
        mark = secrets.token_hex(8)
        data = command.encode()
        with self._console() as console:
            for at in range(0, max(1, len(data)), _PIECE):
                # Everything as octal numbers: terminal and shell find nothing to change.
                text = "".join(f"\\{byte:03o}" for byte in data[at : at + _PIECE])
                self._line(console, f"printf '{text}' >{'>' if at else ''}{_FILE}", limit)
            # In two words: what is typed must not look like what is awaited. The end is said three times, for the
            # kernel may write in the midst of a line.
            ending = f"s=$?; for i in 1 2 3; do echo ended-''{mark} $s; done"
            console.send(f"echo begun-''{mark}; sh {_FILE} </dev/null; {ending}\n".encode())
            if not self._wait(console, re.compile(rf"begun-{mark}\r?\n".encode()), limit):
                return None
            console.searchwindowsize = _WINDOW
            if not self._wait(console, re.compile(rf"ended-{mark} (\d+)\r?\n".encode()), limit, meanwhile):
                return None
            assert isinstance(console.match, re.Match)
            assert isinstance(console.before, bytes)
            status, output = console.match[1], console.before
            self._wait(console, _PROMPT.encode(), limit)
        return CommandEnded(int(status), _ESCAPES.sub("", output.decode("utf-8", "replace")))

    def begin(self, command: str, until: Callable[[Coroutine[Any, Any, None]], Coroutine[Any, Any, None]]) -> None:
        """Type a command that ends this kernel.

        :param until: awaits the typing, given to it, and then the end.
        """

        async def typed() -> None:
            console.send(f"{command}\n".encode())

        with self._console() as console:
            portal().call(until(typed()))

    def _line(self, console: _Console, line: str, limit: float) -> None:
        console.send(f"{line}\n".encode())
        if not self._wait(console, re.compile(rb"\n" + _PROMPT.encode()), limit):
            raise HarnessError(f"the guest's shell takes no line within {limit:g} s", scene=self._session.scene())

    def _wait(
        self,
        console: _Console,
        what: bytes | re.Pattern[bytes],
        limit: float,
        meanwhile: Callable[[], None] | None = None,
    ) -> bool:
        """Until it is seen. :raise GuestLost: the guest is gone."""
        deadline = time.monotonic() + limit
        pattern = what if isinstance(what, re.Pattern) else re.compile(re.escape(what))
        while (left := deadline - time.monotonic()) > 0:
            if not self._session.alive:
                raise self._session.loss()
            try:
                if console.expect([pattern, pexpect.TIMEOUT], timeout=min(left, _TURN)) == 0:
                    return True
                if meanwhile is not None:
                    meanwhile()
            except (pexpect.EOF, OSError):
                time.sleep(_TURN)  # whoever watches QEMU notices that it ended
        return False

    @contextmanager
    def _console(self) -> Iterator[_Console]:
        """The console's descriptor, lent. What is read from it is still watched."""
        guest = self._session.guest
        console = cast("_Console", fdspawn(portal().call(guest.lend_console()), use_poll=True))
        console.logfile_read = Hearing(guest)
        try:
            yield console
        finally:
            portal().call(guest.take_console_back())
