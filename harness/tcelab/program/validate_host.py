"""The part of `tcelab.program.validate` about host operations, and messages that other parts share."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from tcelab.papr import isolationrules
from tcelab.program import hazards
from tcelab.program.hostops import Ddw, Flip, Rtas
from tcelab.program.operations import Native
from tcelab.program.topology import Phb

_CELL: Final = 32
"""Bits of an argument of a firmware service."""
_WORD: Final = 64

_LIKE_A_NUMBER: Final = re.compile(r"\s*[-+]?\s*\d|\s*$")


def service(op: Rtas | Ddw, devices: Collection[str]) -> str:
    """Why a firmware service cannot be called; empty if it can."""
    if isinstance(op, Rtas) and op.call not in isolationrules.CALLS:
        return f"no service {op.call!r}; there are: {', '.join(isolationrules.CALLS)}"
    if op.device not in devices:
        return f"the topology has no device {op.device!r}"
    names = ("option",) if isinstance(op, Rtas) else ("page_shift", "window_shift", "liobn")
    numbers = {name: getattr(op, name) for name in names}
    wide = (
        f"{'an' if name == 'option' else 'a'} {name} has {_CELL} bits, and {number} has not"
        for name, number in numbers.items()
        if number >> _CELL
    )
    if problem := next(wide, ""):
        return problem
    if not isinstance(op, Ddw) or op.call != "create":
        return ""
    # Firmware creates no window that is smaller than one of its pages.
    return hazards.entries(1 << min(max(op.window_shift - op.page_shift, 0), _WORD))


def flip(op: Flip, phbs: Mapping[int, Phb]) -> str:
    """As `service`. Place and size of a PHB's second window are known only when the program runs."""
    phb = phbs.get(op.liobn & ~1)
    second = op.liobn & 1
    inside = phb is not None and (second or phb.window_start <= op.ioba < phb.window_end)
    if not inside or not 0 <= op.ioba < 1 << _WORD or not 0 <= op.bit < _WORD:
        return f"LIOBN {op.liobn:#x} has no bit {op.bit} of an entry for IOBA {op.ioba:#x}"
    return ""


def native(op: Native, bound: Collection[str]) -> str:
    """As `service`; the programs check the rest themselves."""
    for arg in op.args:
        if isinstance(arg, str) and (not arg.startswith("$") or arg[1:] not in bound):
            return f"{arg!r} is no number, and no $ with the name of a device that was bound before"
        if isinstance(arg, int) and not 0 <= arg < 1 << _WORD:
            return f"an argument has {_WORD} bits, and {arg} has not"
    return ""


def no_word(word: str) -> str:
    """The message for a string that is neither a number nor a file's name, where it must be one of them."""
    how = 'write a number as 4096 or as "0x1000"'
    return f"{word!r} is no number: {how}" if _LIKE_A_NUMBER.match(word) else f"{unopened(word)}; {how}"


def unopened(file: str) -> str:
    """The message for a file that nothing opened before: it says what would open it."""
    hint = f'add an `open` with "file": "{file}", or "into": "{file}" to the `ioctl` that gives it'
    return f"no file {file!r} was opened before: {hint}"
