"""Standard output and standard error, for as long as a command lasts: what cannot be written ends no command.

A reader that has left (`tcelab run | head`) changes no exit code. Where standard output cannot be written for another
reason, a disk that is full or a stream that was closed, nobody was told the verdict: a pass is none then.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tcelab.run import exitcode

_OUT, _ERR = 1, 2
"""Their descriptors."""


class _Tolerant(io.FileIO):
    """Takes all that it is given. `refused`: the first error of the file behind it."""

    refused: OSError | None = None

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        """As of a file, and never fails."""
        if self.refused is None:
            try:
                return super().write(data)
            except BlockingIOError:
                raise
            except OSError as error:
                self.refused = error
        return len(data)


class Streams:
    """Both streams. `out` is None where there is no file behind it."""

    def __init__(self) -> None:
        self.out: _Tolerant | None = None

    def code(self, code: int) -> int:
        """The exit code of a command that ended with `code`; says in one line what was not told, and why."""
        refused = self.out.refused if self.out is not None else None
        if refused is None or refused.errno == errno.EPIPE:
            return code
        if sys.stderr is not None:  # print would take standard output instead
            print(f"tcelab: standard output cannot be written: {refused.strerror}", file=sys.stderr)  # noqa: T201 - as it is
        return exitcode.of_untold(code)


@contextmanager
def tolerant() -> Iterator[Streams]:
    """Put such streams in the place of those that there are; afterwards all is written, and they are back."""
    streams = Streams()
    before = sys.stdout, sys.stderr
    sys.stdout, streams.out = _over(before[0], _OUT)
    sys.stderr, _ = _over(before[1], _ERR)
    try:
        yield streams
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def _over(stream: TextIO | None, number: int) -> tuple[TextIO, _Tolerant | None]:
    if stream is None:  # the command was started with it closed
        raw = _Tolerant(_refusing(number), "w", closefd=False)
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", line_buffering=True), raw
    try:
        stream.flush()
        raw = _Tolerant(stream.fileno(), "w", closefd=False)
    except (AttributeError, OSError, ValueError):  # closed, or no file
        return stream, None
    wrapped = io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=getattr(stream, "line_buffering", True)
    )
    return wrapped, raw


def _refusing(number: int) -> int:
    """A descriptor that refuses all that is written: that of the stream itself, or else the next file that is opened
    would be the stream, and take what is meant for it.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        os.set_inheritable(descriptor, descriptor <= _ERR)
        if descriptor >= number:
            return descriptor
