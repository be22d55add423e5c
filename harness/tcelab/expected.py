"""What a program may expect of an operation, in words: a word that nothing can give is a mistake of its writer."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from typing import Any, Final

WORDS: Final = frozenset({"ok", *(name for name in vars(errno) if name.startswith("E"))})
"""Of Linux on this host, whose names are those of powerpc."""
_NUMBERED: Final = re.compile(r"errno \d+")
"""How an errno without a name is told."""


def problem(ops: Iterable[Any]) -> str:
    """The first operation whose `expect` no outcome can be, with its number; empty if there is none."""
    for number, op in enumerate(ops):
        expected = op.expect
        if isinstance(expected, str) and expected not in WORDS and not _NUMBERED.fullmatch(expected):
            close = difflib.get_close_matches(expected, WORDS, 1)
            hint = f"; {close[0]} is one" if close else ""
            return f'operation {number}: expect {expected!r} is neither "ok", nor a number, nor an errno\'s name{hint}'
    return ""
