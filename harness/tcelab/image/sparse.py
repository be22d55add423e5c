"""RAM files: mostly zero, copied and hashed without what is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["copy", "ram_sha256"]

_CHUNK: Final = 64 << 10


def ram_sha256(path: Path) -> str:
    """SHA-256 over the size and each chunk of 64 KiB that is not zero, with its offset: holes cost nothing."""
    with path.open("rb") as file:
        digest = _ram_digest(os.fstat(file.fileno()).st_size)
        for at, chunk in _chunks(file.fileno()):
            digest.update(at.to_bytes(8) + chunk)
    return digest.hexdigest()


def _ram_digest(size: int) -> hashlib._Hash:
    return hashlib.sha256(size.to_bytes(8))


def copy(source: int, target: Path) -> str:
    """Copy RAM into a new sparse file and return its hash."""
    size = os.fstat(source).st_size
    digest = _ram_digest(size)
    with target.open("xb") as file:
        os.ftruncate(file.fileno(), size)
        for at, chunk in _chunks(source):
            digest.update(at.to_bytes(8) + chunk)
            _write(file.fileno(), chunk, at)
    return digest.hexdigest()


def _write(descriptor: int, data: bytes, at: int) -> None:
    """All of it: a disk that is nearly full takes a part first."""
    while data:
        done = os.pwrite(descriptor, data, at)
        data, at = data[done:], at + done


def _chunks(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """Each chunk that is not all zero: its offset, its bytes."""
    zero = bytes(_CHUNK)
    size = os.fstat(descriptor).st_size
    at = 0
    while at < size:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole from here on
            return
        end = os.lseek(descriptor, data, os.SEEK_HOLE)
        at = data // _CHUNK * _CHUNK
        while at < end:
            chunk = os.pread(descriptor, _CHUNK, at)
            if chunk != zero[: len(chunk)]:
                yield at, chunk
            at += _CHUNK
