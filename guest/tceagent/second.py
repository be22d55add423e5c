"""A second kernel that this one starts: by kexec, or when it crashes (kexec_load(2), reboot(2)).

The host decides what is loaded: pieces of code and data, each with its place in guest RAM. No program can ask for it.
"""

from __future__ import annotations

import posix
from binascii import a2b_base64
from struct import pack

from tceagent.errors import errno_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

    from tceagent.seam import Kernel

TREE = "/proc/device-tree"

_KEXEC_LOAD = 268
"""arch/powerpc/kernel/syscalls/syscall.tbl"""
_ON_CRASH = 1
_PPC64 = 21 << 16
"""KEXEC_ON_CRASH, KEXEC_ARCH_PPC64: include/uapi/linux/kexec.h"""
_RESTART_KEXEC = 0x45584543
"""LINUX_REBOOT_CMD_KEXEC, include/uapi/linux/reboot.h"""


def tree(kernel: Kernel, path: str = TREE) -> dict[str, Any]:
    """The device tree as the kernel has it now: of a folder a tree, of a property its bytes in hex."""
    found: dict[str, Any] = {}
    for entry in posix.scandir(path):
        where = f"{path}/{entry.name}"
        if entry.is_symlink():
            continue
        found[entry.name] = tree(kernel, where) if entry.is_dir() else kernel.read_file(where).hex()
    return found


def find(kernel: Kernel) -> dict[str, Any]:
    """What the host has to know: `tree`; `notes`, place and bytes of the notes for who reads a dump."""
    notes = [int(each, 16) for each in kernel.read_file("/sys/kernel/vmcoreinfo").split()]
    return {"tree": tree(kernel), "notes": notes}


def load(start: int, pieces: list[dict[str, Any]], *, crash: bool) -> str:
    """Have pieces put at their places in the end, and `start` jumped to. Returns the errno's name; "": loaded.

    :param pieces: `at`, a guest physical address; `data` in base64; `size`, in bytes, of the place.
    """
    import ctypes  # noqa: PLC0415  slow to import and hardly ever needed

    libc = ctypes.CDLL(None, use_errno=True)
    buffers = []
    segments = b""
    for piece in pieces:
        data = a2b_base64(piece["data"])
        buffers.append(ctypes.create_string_buffer(data, len(data)))
        segments += pack("=QQQQ", ctypes.addressof(buffers[-1]), len(data), piece["at"], piece["size"])
    done = libc.syscall(
        *(ctypes.c_ulong(number) for number in (_KEXEC_LOAD, start, len(pieces))),
        ctypes.c_char_p(segments),
        ctypes.c_ulong(_PPC64 | (_ON_CRASH if crash else 0)),
    )
    return "" if done == 0 else errno_name(ctypes.get_errno())


def start(kernel: Kernel, *, crash: bool) -> str:
    """Leave this kernel. Returns only if it stays: the errno's name."""
    if crash:
        kernel.write_file("/proc/sysrq-trigger", b"c")
        return ""
    import ctypes  # noqa: PLC0415  slow to import and hardly ever needed

    libc = ctypes.CDLL(None, use_errno=True)
    libc.reboot(ctypes.c_int(_RESTART_KEXEC))
    return errno_name(ctypes.get_errno())


def perform(kernel: Kernel, request: dict[str, Any]) -> Union[str, dict[str, Any]]:
    """One request of the host's: `find`, `load` or `start`, with what each takes.

    :raise ValueError: no such request.
    """
    what, told = request.pop("what"), request
    if what == "find":
        return find(kernel)
    if what == "load":
        return load(**told)
    if what == "start":
        return start(kernel, **told)
    raise ValueError(f"no request {what!r} about a second kernel")
