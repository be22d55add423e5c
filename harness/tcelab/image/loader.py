"""Running a program of an unpacked package tree through the tree's own loader and libraries."""

from __future__ import annotations

from pathlib import Path

from tcelab.errors import HarnessError

__all__ = ["library_folders", "loader_argv"]


def loader_argv(tree: Path, program: str) -> tuple[str, ...]:
    """The command that runs ``program`` (a path in the tree) with nothing of the host but its kernel.

    :raise HarnessError: the tree has no loader.
    """
    loaders = sorted(path for folder in library_folders(tree) for path in folder.glob("ld*-linux-*.so.*"))
    loaders += sorted(path for folder in library_folders(tree) for path in folder.glob("ld64.so.*"))
    if not loaders:
        raise HarnessError(f"no loader in {tree}", next_step="add libc6 to the recipe")
    if ":" in str(tree) or ";" in str(tree):
        raise HarnessError(
            f"{tree}: a loader's search path cannot hold a colon or semicolon",
            next_step="name another folder in TCELAB_CACHE",
        )
    libraries = ":".join(str(folder) for folder in library_folders(tree))
    return (str(loaders[0]), "--library-path", libraries, str(tree / program))


def library_folders(tree: Path) -> list[Path]:
    """The folders of shared libraries: by architecture, in ``lib`` before Debian 13, then in ``usr/lib``."""
    return sorted(path for parent in ("lib", "usr/lib") for path in (tree / parent).glob("*-linux-gnu*"))
