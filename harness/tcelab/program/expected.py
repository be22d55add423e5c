"""What `expect` of an operation may be: a word that no outcome can match is an error in the program."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from typing import Any, Final

from tcelab.program.dmaops import DmaMove
from tcelab.program.hostops import Checkpoint, Fresh
from tcelab.program.operations import Burst, Dma, Doorbell, Together

WORDS: Final = frozenset({"ok", *(name for name in vars(errno) if name.startswith("E"))})
"""`ok`, and the errno names of Linux on this host, which are the same on powerpc."""
WENT: Final = frozenset({"passed", "refused"})
"""Words for transfers alone."""
_NUMBERED: Final = re.compile(r"errno \d+")
"""How an errno without a name is reported."""


def problem(ops: Iterable[Any]) -> str:
    """Number of the first operation whose `expect` no outcome can match, and why; empty if there is none."""
    for number, op in enumerate(ops):
        if why := wrong(op):
            return f"operation {number}: {why}"
    return ""


def wrong(op: Any) -> str:  # noqa: ANN401 - an operation, of whatever kind
    """Why no outcome of an operation can match its `expect`; empty if one can, or it expects nothing."""
    expected = op.expect
    if expected is None:
        return ""
    if isinstance(op, Checkpoint | Fresh):
        return f"expect {expected!r} of a {type(op).__name__.lower()}, which gives nothing that could be expected"
    if expected in WENT:
        return _went(op)
    if isinstance(expected, str) and expected not in WORDS and not _NUMBERED.fullmatch(expected):
        close = difflib.get_close_matches(
            expected, WORDS | (WENT if isinstance(op, Dma | Together | Burst | Doorbell | DmaMove) else set()), 1
        )
        hint = f"; {close[0]} is one" if close else ""
        return f'expect {expected!r} is neither "ok", nor a number, nor an errno\'s name{hint}'
    return ""


def _went(op: Any) -> str:  # noqa: ANN401 - an operation, of whatever kind
    """Why it can be neither passed nor refused; empty if it can."""
    match op:
        case Dma() | DmaMove() | Doorbell():
            sizes = [op.size]
        case Together():
            sizes = [each.size for each in op.ops]
        case Burst():
            sizes = [each.size for each in op.transfers]
        case _:
            return f"expect {op.expect!r} is for transfers alone: dma, together, burst, doorbell, dmamove"
    return f"expect {op.expect!r} of a transfer of 0 bytes, which is none" if 0 in sizes else ""
