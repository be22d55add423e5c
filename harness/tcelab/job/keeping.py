"""Writes the files of a run's folder: one that cannot be written affects neither the verdict nor the other files."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tcelab.errors import HarnessError
from tcelab.logs.logfile import NAME, LogFile

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""Errors of the disk, which are nobody's mistake."""


class Keeper:
    """Writes files, and remembers those that it could not write."""

    def __init__(self, folder: Path) -> None:
        """:param folder: exists."""
        self.folder = folder
        self._log: LogFile | None = None
        self._lost: dict[str, str] = {}

    @contextmanager
    def log(self) -> Iterator[None]:
        """While the block lasts, everything logged goes to log.txt as well."""
        with LogFile(self.folder) as file:
            self._log = file
            yield

    def write(self, name: str, data: bytes) -> bool:
        """Write a file. False: it could not be written whole, and was removed."""
        path = self.folder / name
        try:
            path.write_bytes(data)
        except OSError as error:
            self._lost[name] = error.strerror or str(error)
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        return True

    def lost(self) -> str:
        """What could not be written, in one line; empty if everything was."""
        lost = dict(self._lost)
        if self._log is not None and self._log.lost:
            lost[NAME] = self._log.lost
        if not lost:
            return ""
        reasons = ", ".join(dict.fromkeys(lost.values()))
        return f"could not keep {', '.join(lost)} in {self.folder}: {reasons}"


@contextmanager
def expecting_room(folder: Path) -> Iterator[None]:
    """:raise HarnessError: in place of an OSError of `NO_ROOM`."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = error.filename or folder
        raise HarnessError(
            f"cannot write {where}: {error.strerror}", next_step="make room there, or give --out DIR on another disk"
        ) from None
