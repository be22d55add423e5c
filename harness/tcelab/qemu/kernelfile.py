"""What a kernel's file tells before a boot: whether a pseries guest can start it, its release, texts it holds.

Source: ELF header (System V ABI); arch/powerpc/boot/wrapper for the sections of a zImage; init/version.c for the
banner, which holds the release as `uname -r` gives it.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tcelab.errors import UsageError

__all__ = ["between", "check", "holds", "little_endian", "release"]

_MACHINES: Final = {
    3: "i386",
    20: "32-bit PowerPC",
    21: "ppc64",
    22: "s390",
    40: "arm",
    62: "x86_64",
    183: "arm64",
    243: "riscv",
}
_PPC64: Final = 21
_WRAPPED: Final = b".kernel:vmlinux"
_MAGIC: Final = {b"\x1f\x8b": "gzip data", b"MZ": "an EFI image (bzImage or arm64 Image?)", b"\xfd7zXZ": "xz data"}
_ELF_HEAD: Final = 20
"""Bytes up to and with e_machine."""
_LINKED: Final = (2, 3)
"""e_type of what can be started: ET_EXEC, and ET_DYN, as a relocatable kernel is."""

_X86_BOOT: Final = (0x202, b"HdrS")
_LITTLE_ENDIAN: Final = 1
_DATA: Final = 5
"""Byte of the ELF header that tells the byte order."""

_BANNER: Final = re.compile(rb"Linux version ([0-9][\w.+~-]*) \(")


def check(path: Path) -> None:
    """:raise UsageError: `path` is no vmlinux for ppc64; one line that says what it is instead."""
    with _content(path) as content:
        head = content[:0x400]
        wrapped = head.startswith(b"\x7fELF") and content.find(_WRAPPED) >= 0
    what = "a zImage" if wrapped else _kind(head)
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
    """:raise UsageError: the ELF file cannot be read."""
    with _content(path) as content:
        return content[_DATA : _DATA + 1] == bytes([_LITTLE_ENDIAN])


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
def _content(path: Path) -> Iterator[mmap.mmap | bytes]:
    """A file's content, mapped: a vmlinux with debug information takes half a gigabyte."""
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:  # nothing to map
                yield b""
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield content
    except OSError as error:
        raise UsageError(f"cannot read the kernel {path}: {error.strerror}") from None


def _kind(head: bytes) -> str:
    """What a file that begins with `head` is; empty for a ppc64 ELF executable."""
    at, mark = _X86_BOOT
    if head[at : at + len(mark)] == mark:
        return "an x86 bzImage"
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if not head.startswith(b"\x7fELF") or len(head) < _ELF_HEAD:
        return f"no kernel (begins with {head[:4].hex() or 'nothing'})"
    order = "<" if head[_DATA] == _LITTLE_ENDIAN else ">"
    kind, machine = struct.unpack_from(order + "HH", head, 16)
    if machine != _PPC64:
        return f"an ELF file for {_MACHINES.get(machine, f'machine {machine}')}"
    return "" if kind in _LINKED else "an object file or a module (.o, .ko), which nobody has linked"
