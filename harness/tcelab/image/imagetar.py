"""The file that carries images, see `tcelab.image.transfer`: its members, and a reader that takes nothing but the next
one that it expects.
"""

from __future__ import annotations

import copy
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from tcelab.errors import UsageError
from tcelab.image.manifest import ImageFile

__all__ = ["BLOCK", "HEAD", "SCHEMA", "Head", "Reader", "Writable", "of_file", "refused", "regular"]

SCHEMA: Final = 1
HEAD: Final = "tcelab-images.json"
"""Name of the first member."""
BLOCK: Final = tarfile.BLOCKSIZE
_NEXT: Final = "copy it again, and compare its SHA-256 with what the export printed"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """:ivar manifests: SHA-256 of each image's manifest, by name. `host`: on which hosts its programs run."""

    schema: int = SCHEMA
    tcelab: str
    agent: str
    host: str
    manifests: dict[str, str]


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


def regular(name: str, size: int, *, executable: bool = False) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # of owner 0 and time 0
    member.size, member.mode = size, 0o755 if executable else 0o644
    return member


def of_file(name: str, file: ImageFile) -> tarfile.TarInfo:
    member = regular(f"{name}/{file.path}", 0 if file.link else file.size, executable=file.executable)
    if file.link:
        member.type, member.linkname = tarfile.SYMTYPE, file.link
    return member


def refused(path: Path, why: str) -> UsageError:
    return UsageError(f"{path}: {why}; nothing was imported", next_step=_NEXT)


class Reader:
    """An archive, read from its begin to its end."""

    def __init__(self, stream: _Readable, path: Path) -> None:
        self._stream = stream
        self.path = path

    def refuse(self, why: str) -> UsageError:
        return refused(self.path, why)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := self._read(size - len(data))):
            data += more
        if len(data) < size:
            raise self.refuse("it is cut short")
        return data

    def expect(self, wanted: tarfile.TarInfo, *, most: int | None = None) -> int:
        """Read the header of the next member, which must be this one.

        :param most: its size is not known, and may be so much.
        :return: its size.
        """
        block = self.exactly(BLOCK)
        try:
            found = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
            raise self.refuse(f"it is no archive of images, or damaged before {wanted.name}") from None
        if (found.name, found.type) != (wanted.name, wanted.type):
            raise self.refuse(f"it holds {_kind(found)} {found.name!r} where {wanted.name} must be")
        if found.linkname != wanted.linkname or found.mode != wanted.mode:
            raise self.refuse(f"{wanted.name} has another mode or target than its manifest says")
        least, largest = (wanted.size, wanted.size) if most is None else (0, most)
        if not least <= found.size <= largest:
            raise self.refuse(f"{wanted.name} holds {found.size} bytes, which it must not")
        # A header has bytes that tarfile reads over (after the checksum, behind a name); whoever exports writes it so.
        exact = copy.copy(wanted)
        exact.size = found.size
        if block != exact.tobuf(tarfile.USTAR_FORMAT):
            raise self.refuse(f"it is damaged before {wanted.name}")
        return found.size

    def small(self, name: str, most: int) -> bytes:
        """The content of the next member, which must have this name."""
        size = self.expect(regular(name, 0), most=most)
        content = self.exactly(size)
        self.padding(size)
        return content

    def padding(self, size: int) -> None:
        if any(self.exactly(-size % BLOCK)):
            raise self.refuse("it is damaged: there is something between its members")

    def end(self) -> None:
        if any(self.exactly(2 * BLOCK)) or self._read(1):
            raise self.refuse("there is more in it than it says")

    def _read(self, most: int) -> bytes:
        try:
            return self._stream.read(most)
        except EOFError:  # of a compressed file without its end, also when all that is wanted was in it
            raise self.refuse("it is cut short") from None


def _kind(member: tarfile.TarInfo) -> str:
    kinds: list[tuple[Callable[[], bool], str]] = [
        (member.issym, "the link"),
        (member.islnk, "the hard link"),
        (member.isdev, "the device"),
        (member.isdir, "the folder"),
        (member.isreg, "the file"),
    ]
    return next((word for is_it, word in kinds if is_it()), "something else,")
