"""Locks between processes: one build of an image at a time, one apt at a time.

A lock belongs to this process and to every child it starts while it holds the lock. A builder that is killed
may leave a child behind that still writes; the next build then waits for that child too.
Lock files are never deleted: a new file of the same name would be another lock.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tcelab.errors import HarnessError
from tcelab.image.store import cache_dir
from tcelab.logs import NOTE

__all__ = ["LOCK_LIMIT", "held_descriptors", "lock"]

_LOG: Final = logging.getLogger(__name__)

LOCK_LIMIT = 20 * 60.0
"""Seconds to wait for another holder."""

_ASK: Final = 0.2
"""Seconds between two checks whether the wait is still wanted."""

_held: set[int] = set()


def held_descriptors() -> tuple[int, ...]:
    """Descriptors of the locks this process holds: what a child must inherit."""
    return tuple(_held)


@contextmanager
def lock(
    name: str,
    holder: str,
    *,
    said: Mapping[str, str] = NOTE,
    limit: float = LOCK_LIMIT,
    given_up: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold the lock of a name.

    :param holder: what else may hold it; logged when there is a wait for it. `said`: for whom, see `tcelab.logs`.
    :param limit: seconds to wait.
    :param given_up: asked now and then while it waits: is it still wanted?
    :raise HarnessError: it was not free in time, or the cache takes no files.
    """
    folder = cache_dir() / "locks"
    try:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HarnessError(
            f"cannot write {error.filename}: {error.strerror}",
            next_step="set TCELAB_CACHE to a writable folder",
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.info("waiting for %s", holder, extra=said)
            _wait_for(descriptor, folder / name, holder, limit, given_up)
        _held.add(descriptor)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _wait_for(descriptor: int, path: Path, holder: str, limit: float, given_up: Callable[[], bool]) -> None:
    # flock knows no time limit, so a thread waits, on a duplicate of its own: both are one lock. When the limit
    # has passed, the duplicate is the last that refers to it, and closing it gives a late success back.
    duplicate = os.dup(descriptor)
    granted = threading.Event()

    def wait() -> None:
        try:
            fcntl.flock(duplicate, fcntl.LOCK_EX)
            granted.set()
        finally:
            os.close(duplicate)

    threading.Thread(target=wait, name=f"lock {path.name}", daemon=True).start()
    end = time.monotonic() + limit
    while not granted.wait(max(0.0, min(_ASK, end - time.monotonic()))):
        if given_up():
            raise HarnessError(f"closed while waiting for {holder}")
        if time.monotonic() < end:
            continue
        raise HarnessError(
            f"{holder} holds its lock for more than {limit:.0f} s",
            next_step=f"see which process holds {path}, for example with fuser",
        )
