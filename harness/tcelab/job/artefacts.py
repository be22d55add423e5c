"""The private folder of each run, and which folders are kept."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from tcelab import userconfig
from tcelab.errors import UsageError
from tcelab.job.keeping import expecting_room
from tcelab.logs import NOTE

_LOG: Final = logging.getLogger(__name__)

Word = Literal["pass", "finding", "could-not-judge", "running", "no result"]
KEPT: Final = 200
"""Runs without a finding that are kept in the default place, unless the user's config says otherwise."""
SIZE: Final = 1_000_000_000
"""Bytes that they may take on disk, likewise."""
_BLOCK: Final = 512


class _Verdict(msgspec.Struct):
    result: str


class _Told(msgspec.Struct):
    """The fields of `result.json` that a run and a leak check share."""

    verdict: _Verdict | str


class Kept(NamedTuple):
    """A folder of a run in the default place. `size`: bytes on disk."""

    path: Path
    word: Word
    size: int


def root() -> Path:
    """`$XDG_STATE_HOME/tcelab/runs`, by default under ~/.local/state."""
    return userconfig.folder("state") / "runs"


def folder(out: Path | None) -> Path:
    """A new private (0700) folder: `out`, or one named after the time.

    :raise UsageError: it cannot be made, or `out` holds something already.
    :raise HarnessError: the disk is full.
    """
    try:
        if out is not None:
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(out.iterdir()):
                raise UsageError(f"{out} is not empty", next_step="give --out a folder that is new")
            out.chmod(0o700)
            return out.absolute()
        base = root()
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room()
        new = base / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
        while True:
            try:
                new.mkdir(mode=0o700)
            except FileExistsError:
                new = new.with_name(new.name + "+")
                continue
            return new
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            with expecting_room(out or root()):
                raise
        raise UsageError(f"cannot make a folder for artefacts: {error}", next_step="give one with --out DIR") from None


@contextmanager
def of_a_run(folder: Path) -> Iterator[None]:
    """Empty a run's folder after wrong usage, when nothing was run. A folder in the default place is removed, so that
    `tcelab runs show` shows the last real run.
    """
    try:
        yield
    except UsageError:
        with suppress(OSError, UsageError):  # whatever happens to the folder, the first error is reported
            _forget(folder)
        raise


def _forget(folder: Path) -> None:
    if any(folder.rglob("result.json")):
        return
    for each in folder.iterdir():
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)
    if root() in folder.parents:
        folder.rmdir()


def numbered(base: Path) -> Callable[[], Path]:
    """Makes private folders 0, 1, ... in `base`, one each time it is called; from several threads, if need be."""
    numbers = itertools.count()

    def make() -> Path:
        new = base / str(next(numbers))
        new.mkdir(mode=0o700, parents=True)
        return new

    return make


def runs() -> list[Path]:
    """The folders of all runs in the default place, the oldest first."""
    return sorted(each for each in root().glob("*") if each.is_dir())


def look(run: Path) -> Kept:
    """Result and size of a run's folder."""
    return Kept(run, _word(run), _size(run))


def prune(count: int, size: int, *, findings: bool = False) -> list[Kept]:
    """Remove the oldest runs that are over, until there are no more than `count` of them, nor more than `size` bytes.
    Runs with a finding are neither removed nor counted.

    :param findings: they do.
    :return: those that were removed.
    """
    return [each for each in _too_many(count, size, findings=findings) if remove(each.path)]


def remove(run: Path) -> bool:
    """Remove a run that is over; is it gone?"""
    if not _running(run):
        shutil.rmtree(run, ignore_errors=True)
    return not run.exists()


def limits() -> tuple[int, int]:
    """How many runs without a finding are kept, and how many bytes they may take.

    :raise UsageError: the user's config cannot be.
    """
    said = userconfig.load()
    return said.runs_kept or KEPT, SIZE if said.runs_size is None else said.runs_size


def _too_many(count: int, size: int, *, findings: bool) -> list[Kept]:
    """The oldest first."""
    over = {run: _size(run) for run in reversed(runs()) if not _running(run)}
    if len(over) <= count and sum(over.values()) <= size:
        return []  # without reading results, which may be long
    kept = left = 0
    gone = []
    for run, bytes_ in over.items():
        word = _word(run)
        if word == "finding" and not findings:
            continue
        if kept < count and left + bytes_ <= size:
            kept, left = kept + 1, left + bytes_
        else:
            gone.append(Kept(run, word, bytes_))
    return gone[::-1]


def _make_room() -> None:
    count, size = limits()
    gone = prune(count - 1, size)
    if gone:
        which = gone[0].path.name if len(gone) == 1 else f"{gone[0].path.name} to {gone[-1].path.name}"
        _LOG.info(
            "removed %d old run%s without a finding, %s: %d of them or %.0f MB are kept, see tcelab runs --help",
            *(len(gone), "s" if len(gone) > 1 else "", which, count, size / 1e6),
            extra=NOTE,
        )


def _running(run: Path) -> bool:
    """Its name ends with the number of the process that made it."""
    return Path("/proc", run.name.rpartition("-")[2].rstrip("+")).exists()


def _word(run: Path) -> Word:
    if _running(run):
        return "running"
    if any(run.glob("finding-*.json")):  # of a fuzz campaign
        return "finding"
    try:
        told = msgspec.json.decode((run / "result.json").read_bytes(), type=_Told).verdict
    except (OSError, msgspec.DecodeError):
        return "no result"
    word = told if isinstance(told, str) else told.result
    return word if word in {"pass", "finding", "could-not-judge"} else "no result"  # type: ignore[return-value]


def _size(run: Path) -> int:
    total = 0
    for place, _, names in os.walk(run):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * _BLOCK  # noqa: PTH118 - there may be many
            except OSError:
                continue
    return total
