"""The folder of a night, and the lock that lets one night run at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from tcelab import userconfig
from tcelab.errors import HarnessError, UsageError
from tcelab.history import nightfile
from tcelab.history.nightfile import Night
from tcelab.job.keeping import NO_ROOM, expecting_room
from tcelab.logs import NOTE
from tcelab.nightly.process import COOKIE

_LOG: Final = logging.getLogger(__name__)

LAST: Final = "last"
"""In the place of a night's folder: the last night in the default place."""
_LOCK: Final = "nightly.lock"


def root() -> Path:
    """`$XDG_STATE_HOME/tcelab/nights`, by default under ~/.local/state."""
    return userconfig.folder("state") / "nights"


def new(out: Path | None, began: float) -> tuple[str, Path]:
    """A night's id, and its new private folder: `out`, or one of that name in the default place.

    :raise UsageError: it cannot be made, or `out` holds something already.
    :raise HarnessError: the disk is full.
    """
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(began))}-{os.getpid()}"
    while (root() / name).exists():
        name += "+"
    folder = out or root() / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=out is not None)
        if any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty", next_step="give --out a folder that is new")
        folder.chmod(0o700)
        (folder / nightfile.CELLS).mkdir(mode=0o700)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise HarnessError(f"no night can begin: {folder} cannot be made: {error.strerror}") from None
        raise UsageError(f"{folder} cannot be made: {error.strerror}", next_step="give one with --out DIR") from None
    return name, folder.absolute()


def find(name: str) -> Path:
    """The folder of a night: its path, its id, or `last`.

    :raise UsageError: there is none.
    """
    nights = sorted(each.parent for each in root().glob(f"*/{nightfile.NAME}"))
    if name == LAST and nights:
        return nights[-1]
    for folder in (Path(name), root() / name):
        if name != LAST and (folder / nightfile.NAME).is_file():
            return folder.absolute()
    raise UsageError(
        f"there is no night {name}: no {nightfile.NAME} in it", next_step=f"nights are in {root()}, or where --out said"
    )


def load(folder: Path) -> Night:
    """:raise UsageError: what is there is no night."""
    path = folder / nightfile.NAME
    try:
        return nightfile.load(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def put(path: Path, data: bytes) -> None:
    """Write a file in one step: whoever comes after a crash finds all of it, or what was there before.

    :raise OSError: as of any write; nothing is left beside it.
    """
    beside = path.with_suffix(".new")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(night: Night, folder: Path) -> None:
    """Write `night.json` in one step: whoever reads it, or comes after a crash, finds the old one or the new one.

    :raise HarnessError: the disk is full.
    """
    path = folder / nightfile.NAME
    try:
        put(path, nightfile.to_json(night))
    except OSError as error:
        raise HarnessError(f"cannot write {path}: {error.strerror}", next_step="make room there") from None


@contextmanager
def one_at_a_time(*, wait: bool) -> Iterator[None]:
    """Hold the lock of all nights of this user.

    :param wait: for the night that goes on, until it has ended.
    :raise HarnessError: one goes on, and nobody wants to wait.
    """
    path = userconfig.folder("state") / _LOCK
    with expecting_room(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        if not _locked(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            if COOKIE in os.environ:
                raise HarnessError(f"another night goes on: process {holder}, and this is one of its cells")
            if not wait:
                raise HarnessError(
                    f"another night goes on: process {holder}", next_step="leave --no-wait out to wait for its end"
                )
            _LOG.info("another night goes on, process %s: waiting for its end", holder, extra=NOTE)
            fcntl.flock(file, fcntl.LOCK_EX)  # an interrupt ends it
        with contextlib.suppress(OSError):  # on a full disk nobody is told who holds it
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


def _locked(file: TextIO) -> bool:
    """Take the lock, if nobody holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
