"""Where a kernel's code lies: for the host, which records what of it is executed. No program can ask for it."""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tceagent.seam import Kernel

SYMBOLS = "/proc/kallsyms"
_FIRST = "_stext"
_BEGIN = 4096
"""Bytes of `SYMBOLS` in which the first symbols are."""


def find(kernel: Kernel, modules: list[str], *, symbols: bool) -> dict[str, Any]:
    """Where modules lie, each section by its name, and the kernel itself.

    :param modules: by name; one that is not loaded is left out.
    :param symbols: give all of the kernel's own as well, as /proc/kallsyms has them.
    """
    found: dict[str, Any] = {"modules": {}, "start": _start()}
    for name in modules:
        folder = f"/sys/module/{name}/sections"
        try:
            sections = posix.listdir(folder)
        except FileNotFoundError:
            continue
        found["modules"][name] = {
            section: int(kernel.read_file(f"{folder}/{section}"), 16) for section in sections if ".text" in section
        }
    if symbols:
        # Those of modules come last.
        found["symbols"] = kernel.read_file(SYMBOLS).decode("ascii", "replace").partition("\t[")[0]
    return found


def _start() -> int:
    """Where the kernel's code begins; 0: it does not say."""
    try:
        with open(SYMBOLS, "rb", buffering=0) as file:  # all of it takes seconds
            begin = file.read(_BEGIN).decode("ascii", "replace")
    except FileNotFoundError:
        return 0
    for line in begin.splitlines():
        parts = line.split()
        if len(parts) > 2 and parts[2] == _FIRST:  # noqa: PLR2004 - address, type, name
            return int(parts[0], 16)
    return 0
