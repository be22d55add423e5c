"""Is this file a kernel that a pseries guest can start? Said before a boot that could only hang.

Source: ELF header (System V ABI); arch/powerpc/boot/wrapper for the sections of a zImage.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from tcelab.errors import UsageError

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

_X86_BOOT: Final = (0x202, b"HdrS")


def check(path: Path) -> None:
    """:raise UsageError: `path` is no vmlinux for ppc64; one line that says what it is instead."""
    try:
        with path.open("rb") as file:
            head = file.read(0x400)
            wrapped = head.startswith(b"\x7fELF") and _WRAPPED in file.read()
    except OSError as error:
        raise UsageError(f"cannot read the kernel {path}: {error.strerror}") from None
    what = "a zImage" if wrapped else _kind(head)
    if what:
        raise UsageError(
            f"{path} is {what}; a pseries guest starts a ppc64 ELF vmlinux",
            next_step="give the vmlinux of the kernel's build folder, or Debian's boot/vmlinux-*",
        )


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
    order = ">" if head[5] == 2 else "<"  # noqa: PLR2004 - ELFDATA2MSB
    (machine,) = struct.unpack_from(order + "H", head, 18)
    return "" if machine == _PPC64 else f"an ELF file for {_MACHINES.get(machine, f'machine {machine}')}"
