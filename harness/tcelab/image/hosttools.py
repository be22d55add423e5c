"""Running the host's tools: a named limit on silence, the last lines of what they said when they fail."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tcelab.errors import HarnessError
from tcelab.image.locks import held_descriptors

__all__ = ["RunLimit", "run"]

_SHOWN_LINES = 12
_NO_SPACE = ("No space left on device", "enough free space", "Disk quota exceeded")


class RunLimit:
    """How long a tool may make no progress.

    :param phase: what the tool does, for the message.
    :param seconds: without a byte of output and without a change of ``progress``.
    :param progress: any number that changes while work is done, such as bytes downloaded.
    """

    def __init__(self, phase: str, seconds: float, progress: Callable[[], int] = lambda: 0) -> None:
        self.phase = phase
        self.seconds = seconds
        self._progress = progress
        self._last = (progress(), time.monotonic())

    def moved(self) -> bool:
        """Whether progress was made since the last call."""
        before, self._last = self._last, (self._progress(), time.monotonic())
        return before[0] != self._last[0]


def run(
    argv: Sequence[str | Path],
    limit: RunLimit,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stdin: bytes = b"",
    accepted: Sequence[int] = (0,),
    into: Path | None = None,
) -> str:
    """Run a tool to its end and return what it wrote (stdout and stderr together).

    :param environment: added to the host's.
    :param into: a file for stdout, which may be large; stderr alone is returned then.
    :param accepted: exit codes that are no failure.
    :raise HarnessError: it failed (with its last lines), or made no progress for too long.
    """
    with ExitStack() as stack:
        process = subprocess.Popen(
            [os.fspath(argument) for argument in argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if into is None else stack.enter_context(into.open("wb")),
            stderr=subprocess.STDOUT if into is None else subprocess.PIPE,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            pass_fds=held_descriptors(),  # see tcelab.image.locks
            start_new_session=True,  # so that its own children (apt's methods) can be stopped with it
        )
    try:
        output = _converse(process, stdin, limit)
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if code not in accepted:
        raise _failure(limit.phase, f"{Path(argv[0]).name} failed with exit code {code}", output)
    return output


def _converse(process: subprocess.Popen[bytes], stdin: bytes, limit: RunLimit) -> str:
    """Feed stdin and gather the output until it ends."""
    said = process.stdout or process.stderr
    assert process.stdin is not None
    assert said is not None
    gathered = bytearray()
    pending = memoryview(stdin)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(said, selectors.EVENT_READ)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(limit.seconds)
            if not ready and not limit.moved():
                raise _failure(limit.phase, f"no progress for {limit.seconds:.0f} s", gathered.decode(errors="replace"))
            for key, _ in ready:
                if key.fileobj is said:
                    block = os.read(key.fd, 1 << 16)
                    gathered += block
                    if not block:
                        selector.unregister(said)
                    continue
                pending = _feed(key.fd, pending)
                if not pending:
                    selector.unregister(process.stdin)
                    process.stdin.close()
    return gathered.decode(errors="replace")


def _feed(descriptor: int, pending: memoryview) -> memoryview:
    if not pending:
        return pending
    try:
        return pending[os.write(descriptor, pending[: 1 << 16]) :]
    except BrokenPipeError:  # the tool ended early; its exit code tells why
        return pending[:0]


def _failure(phase: str, what: str, output: str) -> HarnessError:
    lines = [line for line in output.splitlines() if line.strip()][-_SHOWN_LINES:]
    if any(text in line for line in lines for text in _NO_SPACE):
        return HarnessError(f"{phase}: the disk is full", next_step="free some space and try again")
    said = "".join(f"\n  | {line}" for line in lines)
    return HarnessError(
        f"{phase}: {what}{said}",
        next_step="read the lines above; a network trouble often passes: try again",
    )
