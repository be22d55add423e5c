"""Where something stands in a TOML file: the parser gives values, and no line numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

Place = tuple[str | int, ...]
"""Of a value: the keys and indexes that lead to it, as in `("cell", 2, "scenario")`."""

_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY: Final = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_STRING: Final = re.compile(r""""(?:\\.|[^"\\])*"|'[^']*'|#.*""")


class Lines:
    """The lines of a file on which tables and keys begin."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._begins: dict[Place, int] = {(): 1}
        self._scan()

    def _scan(self) -> None:
        counts: Counter[Place] = Counter()
        table: Place = ()
        depth = 0
        for number, line in enumerate(self._lines, 1):
            bare = _STRING.sub("", line)
            if depth <= 0 and (header := _HEADER.match(line)):
                table = self._inside(_parts(header[2]), counts)
                if header[1] == "[[":
                    counts[table] += 1
                    table = (*table, counts[table] - 1)
                self._begins.setdefault(table, number)
                continue
            if depth <= 0 and (key := _KEY.match(line)):
                self._begins.setdefault((*table, *_parts(key[1])), number)
            depth += sum(bare.count(each) for each in "[{") - sum(bare.count(each) for each in "]}")

    @staticmethod
    def _inside(parts: Sequence[str], counts: Counter[Place]) -> Place:
        """A header's place: within an array of tables, it is about the last of them."""
        place: Place = ()
        for part in parts[:-1]:
            place = (*place, part)
            if counts[place]:
                place = (*place, counts[place] - 1)
        return (*place, parts[-1])

    def of(self, place: Place, word: str = "") -> int:
        """The line of a place, or of what is nearest around it.

        :param word: if it stands further down in that place, the line of that.
        """
        known = next(place[:length] for length in range(len(place), -1, -1) if place[:length] in self._begins)
        first = self._begins[known]
        if not word:
            return first
        foreign = [line for each, line in self._begins.items() if line > first and each[: len(known)] != known]
        last = min(foreign, default=len(self._lines) + 1)
        named = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")
        return next((line for line in range(first, last) if named.search(self._lines[line - 1])), first)


def _parts(dotted: str) -> list[str]:
    return [each.strip("\"'") for each in re.findall(r"""[\w-]+|"[^"]*"|'[^']*'""", dotted)]
