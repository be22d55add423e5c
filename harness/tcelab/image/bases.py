"""Booted guests kept for forks, each under the hash of all that it came from.

Layout, in the cache (``tcelab.image.store``)::

    bases/<key>/ram        guest RAM, sparse; mapped copy-on-write by every fork
    bases/<key>/state      the devices' state, as QEMU saves it
    bases/<key>/console    what the guest wrote while it booted
    bases/<key>/base.json  what these are, and how to tell that they still are
    bases/<key>/refused    instead of all that: why a guest of this key cannot be forked
    bases/.<key>.*         a base being written; belongs to who holds the lock

Forks do not verify these files, so they are read-only (0400), ours, and checked before each use: owner, mode, size and
times whenever a fork is made, the small ones' hashes whenever a process takes the base, the RAM's once after that.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from tcelab.errors import HarnessError
from tcelab.image.locks import lock
from tcelab.image.room import DAYS, room
from tcelab.image.sparse import copy, ram_sha256
from tcelab.image.store import cache_dir, clear_no_space, remove
from tcelab.logs import NOTE, PHASE
from tcelab.papr.window import Shape
from tcelab.run.conduct import Conduct

__all__ = [
    "SCHEMA",
    "Base",
    "ChangedError",
    "Held",
    "SavedRegister",
    "Stored",
    "clean",
    "discard",
    "disk_usage",
    "kept",
    "locked",
    "problems",
    "ram_sha256",
    "refusal",
    "refuse",
    "refused",
    "store",
    "take",
]

_LOG: Final = logging.getLogger(__name__)

SCHEMA: Final = 3
_DAY: Final = 86400
_made: Final[set[str]] = set()
"""Keys of those that this process has written."""

LIMIT: Final = 600.0
"""Seconds to wait for another process that makes the same base."""

_BLOCK: Final = 512
_RECORD: Final = "base.json"
_REFUSED: Final = "refused"
_READ_ONLY: Final = 0o400
_PRIVATE: Final = 0o700


class Stored(msgspec.Struct, frozen=True):
    """A file of a base; `sha256` of the RAM is :func:`ram_sha256`."""

    size: int
    mtime_ns: int
    sha256: str


class SavedRegister(msgspec.Struct, frozen=True):
    """A register of a device's configuration space that QEMU does not save: `size` bytes, 1, 2 or 4."""

    buid: int
    slot: int
    offset: int
    size: int
    value: int


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a base.

    :ivar about: what it was made of, for people.
    :ivar built: ISO 8601, UTC.
    :ivar boot: seconds from QEMU's start to the agent's first answer.
    :ivar registers: what a fork puts back, in this order.
    :ivar windows: by LIOBN, of each window that was created by RTAS.
    :ivar trial: what the small program found on a guest that was booted before this one; empty: it passed on this one.
    :ivar conduct: what its boot asked of the platform.
    :ivar files: by name.
    """

    schema: int = SCHEMA
    key: str
    about: dict[str, str]
    built: str
    boot: float
    registers: list[SavedRegister]
    windows: dict[int, Shape]
    trial: str
    conduct: Conduct
    files: dict[str, Stored]


class ChangedError(HarnessError):
    """A base has changed since it was made."""

    def __init__(self, held: Held, how: str) -> None:
        super().__init__(
            f"it was changed: {how}", next_step="tcelab image clean, and see who writes into tcelab's cache"
        )
        self.held = held


class Held:
    """A base in use by this process: its files are open, and nobody removes it.

    :ivar ram: descriptor, for reading.
    :ivar state: descriptor, for reading.
    :ivar console: what the guest wrote while it booted.
    """

    def __init__(self, folder: Path, record: Base, ram: int, state: int, console: bytes) -> None:
        self.folder, self.record, self.ram, self.state, self.console = folder, record, ram, state, console
        self._touched = self._last_touched()

    def check(self, *contents: str) -> None:
        """Check that it is unchanged: by owner, mode, size and time, and by what else is requested.

        :param contents: files to be hashed too ("ram" takes 0.1 to 0.3 s).
        :raise ChangedError: it is not.
        """
        found = _problem(self.folder, self.record, contents)
        if not found and self._last_touched() != self._touched:
            found = "ram or state was touched while it was used, and its time put back"
        if found:
            raise ChangedError(self, found)

    def _last_touched(self) -> list[int]:
        """When the files' content or status changed last (ctime), which nobody can set back."""
        with suppress(OSError):  # it was let go
            return [os.fstat(each).st_ctime_ns for each in (self.ram, self.state)]
        return []

    def close(self) -> None:
        os.close(self.ram)
        os.close(self.state)


def _folder(key: str) -> Path:
    return cache_dir() / "bases" / key


def locked(key: str, given_up: Callable[[], bool] = lambda: False) -> AbstractContextManager[None]:
    """The lock under which a base is made.

    :param given_up: is it no longer wanted?

    :raise HarnessError: another process holds it for too long.
    """
    holder = "another process that boots the same guest"
    return lock(f"base-{key}", holder, said=PHASE, limit=LIMIT, given_up=given_up)


def take(key: str) -> tuple[Held | None, str]:
    """A base by its key, or the reason why there is none; the reason is empty if there never was one."""
    folder = _folder(key)
    if not folder.is_dir():
        return None, ""
    record = _record(folder)
    if record is None or record.key != key:
        return None, f"{_RECORD} is missing or not readable"
    held = _hold(folder, record)
    if held is None:
        return None, _problem(folder, record, ()) or "its files cannot be read"
    if found := _problem(folder, record, ("state", "console")):
        held.close()
        return None, found
    os.utime(folder)  # used now
    return held, ""


def store(key: str, ram: int, small: Mapping[str, bytes], facts: Mapping[str, object]) -> None:
    """Write a base down, under its lock; an older one of that key is replaced.

    :param ram: descriptor of the RAM of a stopped guest; zeros are not written.
    :param small: the other files.
    :param facts: the fields of `Base` that its maker knows.
    :raise HarnessError: the disk is full; nothing is left there then.
    """
    with _new(key) as folder:
        files = {"ram": _stored(folder / "ram", copy(ram, folder / "ram"))}
        for name, data in small.items():
            (folder / name).write_bytes(data)
            files[name] = _stored(folder / name, _hash(data))
        record = msgspec.convert({"key": key, **facts, "files": msgspec.to_builtins(files)}, Base)
        path = folder / _RECORD
        path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
        path.chmod(_READ_ONLY)
    _made.add(key)
    _prune(but=key)


def discard(held: Held) -> None:
    """Remove a base that is in use; under its lock. Its users continue with the files that they have open."""
    with suppress(OSError):
        shutil.rmtree(held.folder)


def refuse(key: str, why: str) -> None:
    """Note that a guest of this key cannot be forked, so that nobody tries again; under its lock."""
    with _new(key) as folder:
        (folder / _REFUSED).write_text(why + "\n")


@contextmanager
def _new(key: str) -> Iterator[Path]:
    """An empty folder that becomes the base when the block ends well, and vanishes otherwise."""
    folder = _folder(key)
    folder.parent.mkdir(mode=_PRIVATE, exist_ok=True)
    for leftover in folder.parent.glob(f".{key}.*"):  # of a process that was killed
        remove(leftover)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder.parent))
    try:
        with clear_no_space():
            yield unfinished
            remove(folder)
            unfinished.rename(folder)
    finally:
        remove(unfinished)


def kept() -> list[tuple[Path, Base | None]]:
    """Every base in the cache, the last used first."""
    found = [path for path in _all() if path.is_dir()]
    return [(path, _record(path)) for path in sorted(found, key=lambda each: each.stat().st_mtime, reverse=True)]


def disk_usage(folder: Path) -> int:
    """Bytes on disk. Holes do not count, nor does a base that is removed meanwhile."""
    total = 0
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            total += path.lstat().st_blocks * _BLOCK
    return total


def refused(key: str) -> str:
    """Why a guest of a key cannot be forked; empty if nobody found that it cannot."""
    return refusal(_folder(key))


def refusal(folder: Path) -> str:
    """Why a guest of this key cannot be forked; empty if it can."""
    path = folder / _REFUSED
    return path.read_text().strip() if path.exists() else ""


def problems(folder: Path, record: Base | None) -> str:
    """What is wrong with a base, its content included; empty if nothing."""
    if refusal(folder):
        return ""
    if record is None:
        return f"{_RECORD} is missing or not readable"
    return _problem(folder, record, record.files)


def clean() -> int:
    """Delete every base that nobody uses and return the bytes freed."""
    freed = sum(_remove_unused(path) for path in _all())
    for leftover in (cache_dir() / "bases").glob(".*"):
        with (
            suppress(HarnessError),
            lock(f"base-{leftover.name.split('.')[1]}", "its writer", said={}, limit=0.05),
        ):
            freed += remove(leftover)
    return freed


def _all() -> list[Path]:
    return sorted(path for path in (cache_dir() / "bases").glob("*") if not path.name.startswith("."))


def _record(folder: Path) -> Base | None:
    try:
        record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=Base)
    except (OSError, msgspec.DecodeError):
        return None
    return record if record.schema == SCHEMA else None


def _hold(folder: Path, record: Base) -> Held | None:
    opened: list[int] = []
    try:
        for name in ("ram", "state"):
            opened.append(os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))  # noqa: PERF401 - closed below
        fcntl.flock(opened[0], fcntl.LOCK_SH | fcntl.LOCK_NB)
        console = (folder / "console").read_bytes()
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        return None
    ram, state = opened
    return Held(folder, record, ram, state, console)


def _problem(folder: Path, record: Base, contents: Collection[str]) -> str:
    """The first difference from the base as it was made."""
    try:
        for path, mode in ((folder, _PRIVATE), (folder / _RECORD, _READ_ONLY)):
            if found := _wrong_hands(path, path.lstat(), mode):
                return found
        for name, stored in record.files.items():
            path = folder / name
            status = path.lstat()
            if found := _wrong_hands(path, status, _READ_ONLY):
                return found
            if (status.st_size, status.st_mtime_ns) != (stored.size, stored.mtime_ns):
                return f"{name} was written to: {status.st_size} bytes instead of {stored.size}, or of another time"
            if name in contents and _content(path) != stored.sha256:
                return f"the content of {name} differs from what was saved"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def _wrong_hands(path: Path, status: os.stat_result, mode: int) -> str:
    if status.st_uid != os.geteuid():
        return f"{path.name} belongs to user {status.st_uid}"
    if stat.S_ISLNK(status.st_mode) or stat.S_IMODE(status.st_mode) != mode:
        return f"{path.name} has mode {stat.S_IMODE(status.st_mode):04o}, not {mode:04o}"
    return ""


def _stored(path: Path, sha256: str) -> Stored:
    path.chmod(_READ_ONLY)
    status = path.stat()
    return Stored(status.st_size, status.st_mtime_ns, sha256)


def _content(path: Path) -> str:
    return ram_sha256(path) if path.name == "ram" else _hash(path.read_bytes())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _prune(but: str) -> None:
    """Remove bases that were unused for long, and then, until the rest fits, those used longest ago."""
    used, most = disk_usage(_folder(but)), room()
    for path in (path for path, _ in kept() if path.name != but):
        with suppress(FileNotFoundError):
            size, days = disk_usage(path), (time.time() - path.stat().st_mtime) / _DAY
            if used + size <= most and days <= DAYS:
                used += size
            elif _remove_unused(path):
                ours = ", which this run had made" if path.name in _made else ""
                why = f"not used for {days:.0f} days" if days > DAYS else f"all may take {most / 1e6:.0f} MB"
                _LOG.info(
                    "removed the base %s (%.0f MB)%s: %s, see --cache-size",
                    *(path.name, size / 1e6, ours, why),
                    extra=NOTE,
                )
            else:
                used += size  # somebody uses it


def _remove_unused(folder: Path) -> int:
    """Delete a base unless a process holds it; the bytes freed."""
    try:
        with (folder / "ram").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            freed = disk_usage(folder)
            shutil.rmtree(folder)
            return freed
    except BlockingIOError:
        return 0
    except FileNotFoundError:
        return remove(folder)
    except OSError:  # not ours to read
        return 0
