"""The kernel's console lines: which are reported, and which a declared quirk explains.

Source: kernel/panic.c (__warn: `WARNING: CPU: 0 PID: 1 at file:line function+0x10/0x20`, and in newer kernels
`WARNING: file:line at function+0x10/0x20`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from tcelab.quirks import QUIRKS

_WARNING: Final = re.compile(r"\bWARNING: (?:.*?\b(?P<kernel>\w+)\+0x|at (?P<emulator>\w+):)")


def warned_in(line: str) -> str:
    """The function in which the kernel warned; empty if the line is no warning."""
    found = _WARNING.search(line)
    return (found["kernel"] or found["emulator"]) if found else ""


def declared(line: str, quirks: Collection[str], said: set[str]) -> bool:
    """Does a declared quirk explain a line?

    :param said: functions that warn but once and have warned; gets this one.
    """
    where = warned_in(line)
    if any(where in QUIRKS[name].warns for name in quirks):
        return True
    once = where not in said and any(where in QUIRKS[name].warns_once for name in quirks)
    if once:
        said.add(where)
    return once


def kinds(lines: Iterable[str]) -> Counter[str]:
    """How often the kernel warned in each function. Other trouble takes several lines, so it counts as present or
    absent.
    """
    out = Counter(map(warned_in, lines))
    if out[""]:
        out[""] = 1
    return +out
