"""Names, numbers and texts as C writes them."""

from __future__ import annotations

import re
from typing import Final

_DECIMAL: Final = 10
"""Numbers below are written as such."""


class Names:
    """C's names for the names of a program: no two are the same, and none is one of C or of the file's own."""

    def __init__(self, taken: frozenset[str]) -> None:
        """:param taken: C's own words, and what else the file calls something."""
        self._taken = set(taken)
        self._known: dict[tuple[str, str], str] = {}

    def of(self, kind: str, name: str) -> str:
        """:param kind: `file`, `buffer`, `device` or `process`."""
        if (kind, name) not in self._known:
            plain = re.sub(r"\W", "_", name, flags=re.ASCII)
            text = plain if re.match(r"[A-Za-z]", plain) else f"{kind}_{plain}"
            text = text.upper() if kind == "process" else text
            for each in (text, f"{text}_{kind}", *(f"{text}_{number}" for number in range(2, 10_000))):
                if each not in self._taken:
                    break
            self._taken.add(each)
            self._known[kind, name] = each
        return self._known[kind, name]

    def all(self, kind: str) -> list[str]:
        """C's names of that kind, in the order in which they were first used."""
        return [text for (each, _), text in self._known.items() if each == kind]


def number(value: int) -> str:
    """As C writes it: addresses and sizes in hex."""
    if value < 0:
        return f"-{number(-value)}"
    return str(value) if value < _DECIMAL else f"{value:#x}{'ul' if value >> 31 else ''}"


def constant(value: object) -> str:
    """A number that was given, as a C constant."""
    assert isinstance(value, int)
    return number(value)


def comment(text: str) -> str:
    """Nothing in it ends a comment, or leaves the line."""
    return re.sub(r"[^ -~]", "?", text).replace("*/", "* /").replace("/*", "/ *")


def quoted(text: str) -> str:
    """What stands in a C string."""
    return re.sub(r"[^ -~]", "?", text).replace("\\", "\\\\").replace('"', '\\"')
