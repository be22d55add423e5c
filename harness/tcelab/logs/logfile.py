"""`log.txt`: all that is logged while a run lasts, at every level."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Final, Self

import tcelab
from tcelab.logs import handlers
from tcelab.logs.line import line

NAME: Final = "log.txt"
KEPT: Final = 32 << 20
"""Bytes of a log after which a new one is begun; the one before stays beside it, with .1 to its name."""

_LOG: Final = logging.getLogger(__name__)
_open: Final[list[LogFile]] = []


class LogFile(logging.Handler):
    """A context manager: meanwhile lines go to the file, and to none that was opened before. Each is in the kernel's
    hands when the call that logged it returns, so that a process that is killed leaves all of them.

    A file that cannot be written whole is removed, like any other file of a run, because the others need its space.

    :ivar lost: why there is no file; empty: there is one.
    """

    def __init__(self, folder: Path) -> None:
        """:param folder: exists."""
        super().__init__(logging.DEBUG)
        self.lost = ""
        self.path = folder / NAME
        self._size = 0
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._begin()
        except OSError as error:
            self._give_up(error)
        _open.append(self)
        handlers.attach(self)
        python = ".".join(map(str, sys.version_info[:3]))
        _LOG.info(
            "tcelab %s, Python %s, Linux %s on %s", tcelab.__version__, python, platform.release(), platform.machine()
        )
        return self

    def __exit__(self, *_: object) -> None:
        handlers.detach(self)
        self.acquire()  # another thread may be about to write
        try:
            _open.remove(self)
            self._close()
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: the log must not change how a run ends."""
        if self._descriptor < 0 or self is not _open[-1]:
            return
        try:
            said = line(record)
        except Exception as error:  # noqa: BLE001 - see above
            said = f"{record.name}, line {record.lineno}, logs what cannot be formatted: {error}"
        try:
            self._write(said.encode("utf-8", "backslashreplace") + b"\n")
        except OSError as error:
            self._give_up(error)

    def _write(self, data: bytes) -> None:
        if self._size and self._size + len(data) > KEPT:
            self._close()
            self.path.replace(self.path.with_name(f"{NAME}.1"))
            self._begin()
        self._size += len(data)
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _begin(self) -> None:
        self._size = 0
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def _close(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def _give_up(self, error: OSError) -> None:
        self.lost = error.strerror or str(error)
        self._close()
        for each in (self.path, self.path.with_name(f"{NAME}.1")):
            with contextlib.suppress(OSError):
                each.unlink()
