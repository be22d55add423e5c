"""The cache on disk: folders that appear in one step, leftovers, what is freed.

Layout of the cache (``$TCELAB_CACHE``, or ``tcelab`` in the user's cache folder; mode 0700)::

    images/<name>/     finished images, each with its manifest.json
    images/.<name>.*   an image being built, or an old one being deleted; belongs to who holds the lock
    apt/               apt's private roots and the packages fetched so far
    locks/             see tcelab.image.locks
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tcelab import userconfig
from tcelab.errors import HarnessError

__all__ = [
    "cache_dir",
    "clear_no_space",
    "folder_size",
    "image_dir",
    "new_image",
    "remove",
    "remove_leftovers",
]


def cache_dir() -> Path:
    """The folder of all that tcelab fetches and builds; made with mode 0700 when absent."""
    named = os.environ.get("TCELAB_CACHE")
    folder = Path(named).absolute() if named else userconfig.folder("cache")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def image_dir(name: str) -> Path:
    """The folder of an image, which need not exist."""
    return cache_dir() / "images" / name


@contextmanager
def new_image(name: str) -> Iterator[Path]:
    """An empty folder that becomes the image ``name`` when the block ends well, and vanishes otherwise.

    To be used under the image's lock: it also removes what builds that were killed left behind.
    """
    final = image_dir(name)
    final.parent.mkdir(exist_ok=True)
    remove_leftovers(name)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.new-", dir=final.parent))
    try:
        with clear_no_space():
            yield folder
            folder.chmod(0o755)
            _replace(final, folder)
    finally:
        remove_leftovers(name)


def _replace(final: Path, folder: Path) -> None:
    if final.exists():
        # A directory cannot be renamed onto one that is not empty.
        final.rename(Path(tempfile.mkdtemp(prefix=f".{final.name}.old-", dir=final.parent)) / "image")
    folder.rename(final)


def remove_leftovers(name: str) -> None:
    """Delete half-made and outdated folders of an image; under its lock."""
    for kind in ("new", "old"):
        for leftover in image_dir(name).parent.glob(f".{name}.{kind}-*"):
            remove(leftover)


@contextmanager
def clear_no_space() -> Iterator[None]:
    """Turn "no space left" into one clear error.

    :raise HarnessError: in place of any OSError with ENOSPC or EDQUOT.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise HarnessError(
            f"the disk is full: {cache_dir()}",
            next_step="free some space, or name another folder in TCELAB_CACHE",
        ) from error


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder; 0 when it is absent."""
    return sum(Path(parent, name).lstat().st_size for parent, _, names in os.walk(folder) for name in names)


def remove(folder: Path) -> int:
    """Delete a folder if it exists and return the bytes freed."""
    freed = folder_size(folder)
    if folder.exists():
        shutil.rmtree(folder)
    return freed
