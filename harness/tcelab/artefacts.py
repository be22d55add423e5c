"""Where the traces of a run go: a private folder for each."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tcelab.errors import UsageError
from tcelab.keeping import expecting_room

KEPT: Final = 40
"""Folders of runs that are kept in the default place; older ones are removed when a new one is made."""


def root() -> Path:
    """`$XDG_STATE_HOME/tcelab/runs`, by default under ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "tcelab" / "runs"


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
        _prune(base)
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


def numbered(base: Path) -> Callable[[], Path]:
    """Makes private folders 0, 1, ... in `base`, one each time it is called; from several threads, if need be."""
    numbers = itertools.count()

    def make() -> Path:
        new = base / str(next(numbers))
        new.mkdir(mode=0o700, parents=True)
        return new

    return make


def _running(run: Path) -> bool:
    """Its name ends with the number of the process that made it."""
    return Path("/proc", run.name.rpartition("-")[2].rstrip("+")).exists()


def _prune(base: Path) -> None:
    runs = sorted(each for each in base.iterdir() if each.is_dir() and not _running(each))
    for old in runs[: max(0, len(runs) - KEPT + 1)]:
        shutil.rmtree(old, ignore_errors=True)
