"""Remembers facts about files and QEMU builds until these change.

A cache in files (``$cache/known/``), each written in one step; losing one costs only time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

from tcelab.image.manifest import file_sha256
from tcelab.image.store import cache_dir, remove

__all__ = ["forget", "recall", "remember", "sha256_of"]

T = TypeVar("T")


class _Seen(msgspec.Struct, frozen=True):
    """A file's hash, and the status that it had. The change time cannot be set back by hand."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: str


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal; read again only when its status shows a change."""
    status = path.stat()
    now = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    key = f"file {path.resolve()}"
    seen = recall(key, _Seen)
    if seen is not None and msgspec.structs.astuple(seen)[:-1] == now:
        return seen.sha256
    digest = file_sha256(path)
    remember(key, _Seen(*now, digest))
    return digest


def recall(key: str, kind: type[T]) -> T | None:
    """What was remembered under a key; None if nothing, or nothing of that kind."""
    try:
        return msgspec.json.decode(_path(key).read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def remember(key: str, value: object) -> None:
    """Remember a value; without effect where there is no room."""
    path = _path(key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(value))
            Path(name).replace(path)
        except OSError:
            Path(name).unlink()


def forget() -> int:
    """Forget everything and return the bytes freed."""
    return remove(cache_dir() / "known")


def _path(key: str) -> Path:
    return cache_dir() / "known" / hashlib.sha256(key.encode()).hexdigest()[:32]
