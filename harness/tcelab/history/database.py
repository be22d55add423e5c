"""The history's file: opened, made or brought to today's schema; one writer at a time; SQLite's errors in our words.

What a transaction wrote is on the disk when it ends (`synchronous=FULL`). Nothing here opens the file but SQLite: its
locks are the process's, and any other close of the file would drop them.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from tcelab import userconfig
from tcelab.errors import HarnessError, Scene, UsageError
from tcelab.history.schema import APPLICATION, SCHEMA, STEPS
from tcelab.logs import NOTE

T = TypeVar("T")
_LOG: Final = logging.getLogger(__name__)

LIMIT: Final = 60.0
"""Seconds to wait for another writer. A cell takes it a few milliseconds, an import of a night some 0.1 s."""
PHASE: Final = "history: wait for the other writer"
_AGAIN: Final = 0.1
"""Seconds that SQLite waits before we look whether somebody wants us to end."""
_PATIENCE: Final = 1.0
"""Seconds before a wait is told."""
_WRITE_LOCK: Final = 120
"""Byte of the `-shm` file which the writer locks (https://www.sqlite.org/walformat.html)."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DISK: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_CLOSED: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_PRIMARY: Final = 0xFF
"""Of an error code; the rest is detail."""


def default_path() -> Path:
    """`$XDG_STATE_HOME/tcelab/history.sqlite`, by default under ~/.local/state. It need not exist."""
    return userconfig.folder("state") / "history.sqlite"


class Database:
    """An open history. Several threads may use one; each of their transactions waits for the others."""

    def __init__(self, path: Path, *, create: bool = True, limit: float = LIMIT) -> None:
        """:param create: make the file, with mode 0600, where there is none.

        :param limit: seconds to wait for another writer.
        :raise UsageError: no history, one of a newer schema, or a damaged one; nothing in it is changed.
        :raise HarnessError: no room, or another process is writing for longer than `limit`.
        """
        self.path: Final = path.absolute()
        self._limit: Final = limit
        self._mutex: Final = threading.RLock()
        if create:
            _make(self.path)
        elif not self.path.exists():
            raise UsageError(f"there is no history {path}", next_step="tcelab history import makes one")
        with self._translated():
            self._sqlite = sqlite3.connect(
                f"{self.path.as_uri()}?mode=rw", uri=True, timeout=_AGAIN, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._sqlite.close()
                raise

    def close(self) -> None:
        with self._mutex, self._translated():
            self._sqlite.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on the disk when the block has ended, or nothing of it.

        :raise HarnessError: no room; another process is writing for longer than the limit.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """All that is read in the block is of one moment. No writer is waited for."""
        with self._transaction("BEGIN") as connection:
            yield connection

    def shrink(self) -> None:
        """Give what was deleted back to the file system."""
        with self._mutex, self._translated():
            # A script: `execute` would leave it after the first page.
            self._patiently(lambda: self._sqlite.executescript("PRAGMA incremental_vacuum"))
            self._patiently(lambda: self._sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._mutex, self._translated():
            self._patiently(lambda: self._sqlite.execute(begin))
            try:
                yield self._sqlite
                self._patiently(lambda: self._sqlite.execute("COMMIT"))
            except BaseException:
                if self._sqlite.in_transaction:
                    with suppress(sqlite3.Error):  # the first error is the one to report
                        self._sqlite.execute("ROLLBACK")
                raise

    # -- the file

    def _prepare(self) -> None:
        version = self._known(self._pragma("user_version"))
        if not version and not self._pragma("page_count"):
            self._sqlite.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
        # Where there is no shared memory (a network's file system), SQLite says no and keeps its other journal.
        self._patiently(lambda: self._sqlite.execute("PRAGMA journal_mode = WAL").fetchone())
        self._sqlite.execute("PRAGMA synchronous = FULL")
        self._sqlite.execute("PRAGMA foreign_keys = ON")
        if version < SCHEMA:
            with self.write():
                self._migrate()

    def _known(self, version: int) -> int:
        """:raise UsageError: that is no history, or one that this tcelab does not know."""
        tables = self._patiently(lambda: self._sqlite.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
        foreign = self._pragma("application_id") != APPLICATION
        if (version or tables) and foreign:
            raise UsageError(f"{self.path} is an SQLite file, and no history of tcelab", next_step=_OTHER)
        if version > SCHEMA:
            raise UsageError(
                f"{self.path} has schema {version}, this tcelab reads schemas up to {SCHEMA}",
                next_step="use the tcelab that wrote it, or name another file with --history",
            )
        return version

    def _migrate(self) -> None:
        version = self._known(self._pragma("user_version"))  # another process may just have done it
        for step in STEPS[version:]:
            for statement in step:
                self._sqlite.execute(statement)
        self._sqlite.execute(f"PRAGMA application_id = {APPLICATION}")
        self._sqlite.execute(f"PRAGMA user_version = {SCHEMA}")
        if version:
            _LOG.info("%s: schema %d is now %d", self.path, version, SCHEMA, extra=NOTE)

    def _pragma(self, name: str) -> int:
        return int(self._patiently(lambda: self._sqlite.execute(f"PRAGMA {name}").fetchone()[0]))

    # -- waiting, and errors

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do it, again and again while another process writes.

        :raise HarnessError: for longer than the limit.
        """
        began = time.monotonic()
        told = False
        while True:
            try:
                return act()
            except sqlite3.OperationalError as error:
                if _code(error) not in _BUSY:
                    raise
            waited = time.monotonic() - began
            if waited >= self._limit:
                raise HarnessError(
                    f"{writer(self.path)} has been writing to {self.path} for more than {self._limit:.0f} s",
                    next_step="wait for it or end it, then run this again",
                    scene=Scene(phase=PHASE, elapsed=waited),
                )
            if waited >= _PATIENCE and not told:
                told = True
                _LOG.info("waiting for %s, which writes to %s", writer(self.path), self.path, extra=NOTE)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = _code(error)
            if code in _DAMAGED:
                raise UsageError(f"{self.path} is no history, or a damaged one: {error}", next_step=_OTHER) from None
            if code in _DISK:
                raise _no_room(self.path, str(error)) from None
            if code in _CLOSED:
                raise UsageError(f"{self.path} cannot be opened for writing: {error}", next_step=_ELSEWHERE) from None
            raise


_OTHER: Final = (
    "nothing was changed; move it away and tcelab history import the folders of the nights, or name another --history"
)
_ELSEWHERE: Final = "see who may write to it and to its folder, or name another file with --history"


def _code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & _PRIMARY


def _no_room(path: Path, reason: str) -> HarnessError:
    return HarnessError(
        f"cannot write to {path}: {reason}", next_step="make room there; all that was recorded before is kept"
    )


def _make(path: Path) -> None:
    """An empty file that is its owner's alone. A folder of ours is private, too."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path == default_path():
            path.parent.chmod(0o700)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _no_room(path, str(error.strerror)) from None
        raise UsageError(f"{path} cannot be made: {error.strerror}", next_step=_ELSEWHERE) from None


def writer(path: Path) -> str:
    """The process that is writing to a history, as `process 12 (tcelab nightly)`, where Linux tells."""
    with suppress(OSError, ValueError):
        node = Path(f"{path}-shm").stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            kind, _, access, process, file, first, last = line.split()[-7:]
            locks_writers = last.isdecimal() and int(first) <= _WRITE_LOCK <= int(last)
            if (kind, access) == ("POSIX", "WRITE") and file.endswith(f":{node}") and locks_writers:
                return _named(int(process))
    return "another process"


def _named(process: int) -> str:
    command = ""
    with suppress(OSError):
        command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return f"process {process}" + (f" ({command[:80]})" if command else "")
