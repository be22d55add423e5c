"""What a kernel's file shows before a boot: whether a pseries guest can start it, its release, strings in it.

Sources: arch/powerpc/boot/wrapper for the sections of a zImage; init/version.c for the
banner, which holds the release as `uname -r` gives it.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from tcelab.errors import UsageError
from tcelab.image.elf import BadElfError, Elf

__all__ = ["between", "check", "holds", "little_endian", "release"]

_PPC64: Final = "ppc64"
_WRAPPED: Final = ".kernel:vmlinux"
"""Prefix of the names of the sections that hold the kernel in a zImage."""
_ELF: Final = b"\x7fELF"
_MAGIC: Final = {
    b"\x1f\x8b": "gzip data",
    b"MZ": "an EFI image (bzImage or arm64 Image?)",
    b"\xfd7zXZ": "xz data",
    b"\x28\xb5\x2f\xfd": "zstd data",
}
_X86_BOOT: Final = (0x202, b"HdrS")

_BANNER: Final = re.compile(rb"Linux version ([0-9][\w.+~-]*) \(")


def check(path: Path) -> None:
    """:raise UsageError: `path` is no vmlinux for ppc64; one line that says what it is instead."""
    with _open(path) as file:
        head = file.read(0x400)
        what = _kind(file) if head.startswith(_ELF) else _no_elf(head)
    if what:
        raise UsageError(
            f"{path} is {what}; a pseries guest starts a ppc64 ELF vmlinux",
            next_step="give the vmlinux of the kernel's build folder, or Debian's boot/vmlinux-*",
        )


def release(path: Path) -> str:
    """The release of a vmlinux as `uname -r` gives it; empty when it has no banner.

    :raise UsageError: it cannot be read.
    """
    with _content(path) as content:
        found = _BANNER.search(content)
        return found[1].decode() if found else ""


def little_endian(path: Path) -> bool:
    """:raise UsageError: it cannot be read, or is no ELF file."""
    with _open(path) as file:
        try:
            return Elf(file).little_endian
        except BadElfError as error:
            raise UsageError(f"{path} is a damaged ELF file: {error}") from None


def holds(path: Path, text: bytes) -> bool:
    """Whether these bytes are anywhere in the file.

    :raise UsageError: it cannot be read.
    """
    with _content(path) as content:
        return content.find(text) >= 0


def between(path: Path, start: bytes, end: bytes) -> bytes:
    """What lies between two marks; empty when they are not both there.

    :raise UsageError: the file cannot be read.
    """
    with _content(path) as content:
        at = content.find(start)
        until = content.find(end, at) if at >= 0 else -1
        return content[at + len(start) : until] if until >= 0 else b""


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UsageError(
            f"cannot read the kernel {path}: {error.strerror}", next_step="give --kernel the path of a ppc64 vmlinux"
        ) from None


@contextmanager
def _content(path: Path) -> Iterator[mmap.mmap | bytes]:
    """A file's content, mapped: a vmlinux with debug information takes half a gigabyte."""
    with _open(path) as file:
        if not path.stat().st_size:  # nothing to map
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _kind(file: BinaryIO) -> str:
    """What an ELF file is; empty for a ppc64 executable."""
    try:
        elf = Elf(file)
        if elf.machine != _PPC64:
            return f"an ELF file for {elf.machine}"
        if any(name.startswith(_WRAPPED) for name in elf.section_names()):
            return "a zImage"
    except BadElfError as error:
        return f"a damaged ELF file ({error})"
    return "" if elf.linked else "an object file or a module (.o, .ko), which nobody has linked"


def _no_elf(head: bytes) -> str:
    """What a file is that begins with `head`."""
    at, mark = _X86_BOOT
    if head[at : at + len(mark)] == mark:
        return "an x86 bzImage"
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    return f"no kernel (begins with {head[:4].hex() or 'nothing'})"
