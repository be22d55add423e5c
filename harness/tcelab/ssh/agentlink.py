"""Frames over an ssh channel. Each wait belongs to a named phase, and ends when nothing has come for its limit."""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tcelab.errors import GuestLost, HarnessError, Scene, TcelabError
from tcelab.qemu.console import FATAL
from tcelab.qemu.limits import Limits

if TYPE_CHECKING:
    from paramiko import Channel

_LOG: Final = logging.getLogger(__name__)

LOG: Final = "agent.log"
LOST: Final = -1
"""Exit status of a command whose connection broke: nobody has told any."""
_LENGTH: Final = struct.Struct(">I")
_LONGEST: Final = 64 << 20
_CHUNK: Final = 1 << 18
_TURN: Final = 0.2
"""Seconds between two looks at what the agent has printed."""
_NOISE: Final = 1 << 16
"""Bytes that a shell may print before the agent begins."""
_LINES: Final = 400
_SHOWN: Final = 8
_KERNEL: Final = "tcelab: kernel: "


@contextmanager
def bounded(channel: Channel, limit: float) -> Iterator[None]:
    """Within it, paramiko's calls that know no time limit end after one, and the connection with them."""
    timer = threading.Timer(limit, channel.get_transport().close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Beat(msgspec.Struct):
    """A sign of life: at is the request, and the operation of it, that was begun last."""

    beat: int | None = None
    at: tuple[int, int] = (0, 0)


class AgentLink:
    """One request, one answer. Whatever the other side prints besides is in `agent.log`.

    :ivar host: for messages.
    :ivar handshake_done: from here on a kernel that dies is a finding.
    :ivar status: the agent's exit status, once it has one; -1: the connection broke.
    """

    def __init__(self, channel: Channel, host: str, folder: Path, limits: Limits) -> None:
        self.host, self.limits = host, limits
        self.handshake_done = False
        self.status: int | None = None
        self._channel = channel
        self._folder = folder
        self._log = (folder / LOG).open("wb", buffering=0)
        self._buffer = bytearray()
        self._partial = b""
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._phase, self._began = "login", time.monotonic()
        self._beaten = ""
        self._closed = False

    def begin(self, command: str) -> None:
        """Run a command there; what it prints is read by the other methods."""
        from paramiko import SSHException  # noqa: PLC0415 - see the package

        self._channel.settimeout(_TURN)
        try:
            with bounded(self._channel, self.limits.login):
                self._channel.exec_command(command)
        except (SSHException, OSError, EOFError) as error:
            raise HarnessError(
                f"{self.host} runs no command: {error}", next_step="see its sshd's log", scene=self.scene()
            ) from None

    def send(self, data: bytes, phase: str, limit: float) -> None:
        """:raise TcelabError: the connection broke, or takes nothing."""
        self._enter(phase)
        rest = memoryview(data)
        moved = time.monotonic()
        while rest:
            try:
                with bounded(self._channel, limit):
                    sent = self._channel.send(bytes(rest[:_CHUNK]))
            except TimeoutError:
                sent = 0
            except (OSError, EOFError):
                raise self._loss() from None
            rest = rest[sent:]
            moved = self._expect_in_time(moved, limit, moved_on=sent > 0)
            self._hear()

    def line(self, mark: str, phase: str, limit: float) -> str:
        """The next line that begins with a mark, without it. What comes before is noise, and goes to the log."""
        self._enter(phase)
        moved = time.monotonic()
        while True:
            at = self._buffer.find(mark.encode())
            end = self._buffer.find(b"\n", at) if at >= 0 else -1
            if end >= 0:
                self._note(bytes(self._buffer[:at]))
                text = self._buffer[at + len(mark) : end].decode("utf-8", "replace")
                del self._buffer[: end + 1]
                return text
            if len(self._buffer) > _NOISE:
                raise HarnessError(
                    f"{self.host} prints more than {_NOISE >> 10} KiB before the agent begins",
                    next_step="what does its shell print for a command? See agent.log there",
                    scene=self.scene(),
                )
            moved = self._more(moved, limit)

    def ask(self, request: bytes, phase: str, limit: float) -> bytes:
        """Send a frame and return the next one that is no beat; each beat is progress.

        :raise HarnessError: it is no frame.
        :raise GuestLost: the connection broke, or nothing came.
        """
        self.send(_LENGTH.pack(len(request)) + request, phase, limit)
        while True:
            frame = self._frame(limit)
            if frame.startswith(b'{"id":null,"beat"'):
                beat = msgspec.json.decode(frame, type=Beat)
                self._beaten = f", begun last: operation {beat.at[1]} of request {beat.at[0]}"
                continue
            self._beaten = ""
            return frame

    def tail(self, lines: int = _SHOWN) -> list[str]:
        """What the other side printed last."""
        return list(self._lines)[-lines:]

    def scene(self) -> Scene:
        return Scene(self._phase, time.monotonic() - self._began, self.tail(), self._folder)

    def close(self) -> None:
        """Let the agent end, and see that it does; then close. May be called twice, and from two threads."""
        if self._closed:
            return
        self._closed = True
        with self._log:  # closed whatever happens: the connection may break at each of these steps
            try:
                try:
                    with bounded(self._channel, self.limits.close):
                        self._channel.shutdown_write()
                    self._channel.status_event.wait(self.limits.close)
                    if not self._channel.status_event.is_set():
                        _LOG.info("the agent on %s did not end within %g s", self.host, self.limits.close)
                    self._end()
                finally:
                    self._channel.close()
            except (OSError, EOFError) as error:
                _LOG.debug("closing: %r", error)

    # -- reading

    def _frame(self, limit: float) -> bytes:
        moved = time.monotonic()
        while len(self._buffer) < _LENGTH.size:
            moved = self._more(moved, limit)
        (length,) = _LENGTH.unpack_from(self._buffer)
        if not 0 < length <= _LONGEST:
            raise HarnessError(
                f"malformed frame from the agent on {self.host}: bytes {bytes(self._buffer[:16]).hex()}",
                next_step="something else than the agent writes to its output there; see agent.log",
                scene=self.scene(),
            )
        while len(self._buffer) < _LENGTH.size + length:
            moved = self._more(moved, limit)
        frame = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
        del self._buffer[: _LENGTH.size + length]
        return frame

    def _more(self, moved: float, limit: float) -> float:
        """Read on. Returns when something was read last."""
        self._hear()
        try:
            data = self._channel.recv(_CHUNK)
        except TimeoutError:
            return self._expect_in_time(moved, limit, moved_on=False)
        except OSError:
            data = b""
        if not data:
            raise self._loss()
        self._buffer += data
        return time.monotonic()

    def _expect_in_time(self, moved: float, limit: float, *, moved_on: bool) -> float:
        now = time.monotonic()
        if moved_on:
            return now
        if not self._channel.get_transport().is_active():
            raise self._loss()
        if now - moved < limit:
            return moved
        raise GuestLost(
            f"{self.host} stopped answering: nothing came for {limit:g} s{self._beaten}",
            next_step=f"is it alive? A slow machine or network needs --limit {self._phase}=SECONDS",
            scene=self.scene(),
        )

    def _hear(self) -> None:
        """Take what the agent printed: a full window would stop it."""
        while self._channel.recv_stderr_ready():
            try:
                data = self._channel.recv_stderr(_CHUNK)
            except (TimeoutError, OSError):
                return
            if not data:
                return
            self._note(data)

    def _note(self, data: bytes) -> None:
        if not data:
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._lines.extend(line.decode("utf-8", "replace") for line in lines if line.strip())
        if not self._log.closed:
            self._log.write(data)  # last: a full disk must not hide what was said

    # -- the end

    def _enter(self, phase: str) -> None:
        self._phase, self._began = phase, time.monotonic()

    def _end(self) -> None:
        """Read what is left, and how it ended."""
        self._hear()
        if self._partial.strip():
            self._note(b"\n")
        ready = self._channel.exit_status_ready()
        self.status = self._channel.recv_exit_status() if ready else LOST

    def _loss(self) -> TcelabError:
        """Why nothing more comes."""
        self._channel.status_event.wait(self.limits.settle)
        self._end()
        died = next(
            (line.removeprefix(_KERNEL) for line in self._lines if line.startswith(_KERNEL) and FATAL.search(line)), ""
        )
        if died:
            return GuestLost(
                f"the kernel of {self.host} killed the agent: {died}",
                next_step="agent.log there has what the kernel said",
                scene=self.scene(),
                kernel_died=self.handshake_done,
                said=died,
            )
        if self.status == LOST:
            return GuestLost(
                f"the connection to {self.host} broke{self._beaten}",
                next_step="is the machine alive? What its kernel said last is on its own console",
                scene=self.scene(),
            )
        return GuestLost(
            f"the agent on {self.host} ended with exit status {self.status}{self._beaten}",
            next_step="agent.log there has what it said",
            scene=self.scene(),
        )
