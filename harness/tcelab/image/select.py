"""Which files of the packages go into an image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tcelab.errors import HarnessError

__all__ = ["prune", "require", "walk"]


def walk(tree: Path) -> Iterator[str]:
    """Paths of all files and links below a tree, relative to it, sorted."""
    found = []
    for parent, directories, names in os.walk(tree):
        links = [name for name in directories if Path(parent, name).is_symlink()]
        found += [Path(parent, name).relative_to(tree).as_posix() for name in (*names, *links)]
    return iter(sorted(found))


def prune(tree: Path, drop: Sequence[str], keep: Sequence[str]) -> None:
    """Delete what matches ``drop`` and not ``keep`` (shell patterns, ``*`` matches ``/`` too), and empty folders."""
    for path in walk(tree):
        if any(fnmatchcase(path, p) for p in drop) and not any(fnmatchcase(path, p) for p in keep):
            (tree / path).unlink()
    for parent, _, _ in os.walk(tree, topdown=False):
        if Path(parent) != tree and not os.listdir(parent):  # noqa: PTH208 - only whether there is any
            Path(parent).rmdir()


def require(tree: Path, paths: Sequence[str]) -> None:
    """Check that files are there.

    :raise HarnessError: names those that are not.
    """
    missing = [path for path in paths if not (tree / path).is_file()]
    if missing:
        raise HarnessError(
            f"the packages no longer hold {', '.join(missing)}",
            next_step="correct the recipe's keep and required",
        )
