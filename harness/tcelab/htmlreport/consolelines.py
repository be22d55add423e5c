"""The lines of a guest's console around the moment of a finding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tcelab.htmlreport.folders import CONSOLE, lines
from tcelab.judge import Finding
from tcelab.qemu.console import TROUBLE

AROUND: Final = 12
"""Lines that are shown before the one in question, and after it."""
_LAST: Final = 20
_LONG: Final = 400
"""Characters of a line that are shown."""
_STAMP: Final = re.compile(r"^\[ *[\d.]+\] *")


class Line(NamedTuple):
    """`marked`: the line in question."""

    number: int
    text: str
    marked: bool


class Console(NamedTuple):
    """:ivar says: which lines they are; `name`: of which file."""

    says: str
    lines: list[Line]
    name: str = CONSOLE


def around(folder: Path, finding: Finding) -> Console | None:
    """Around the line that a finding tells, else around the first trouble. None: the console tells of neither."""
    there = _read(folder)
    told = [part.strip() for part in f"{finding.seen}\n{finding.message}".splitlines() if part.strip()]
    at = next((i for i, line in enumerate(there) if _is_told(line, told)), None)
    if at is not None:
        return _cut(there, at, "around the line in question")
    at = next((i for i, line in enumerate(there) if TROUBLE.search(line)), None)
    return None if at is None else _cut(there, at, "around the first trouble that the kernel told")


def last(folder: Path, name: str = CONSOLE) -> Console | None:
    """The last lines of a console, or of another text. None: there are none."""
    there = _read(folder, name)
    return _cut(there, None, "its last lines")._replace(name=name) if there else None


def _read(folder: Path, name: str = CONSOLE) -> list[str]:
    out = lines(folder / name)
    while out and not out[-1].strip():
        out.pop()
    return out


def _is_told(line: str, told: Sequence[str]) -> bool:
    plain = _STAMP.sub("", line).strip()
    return len(plain) > AROUND and any(plain in each for each in told)


def _cut(there: Sequence[str], at: int | None, says: str) -> Console:
    first, end = (len(there) - _LAST, len(there)) if at is None else (at - AROUND, at + AROUND + 1)
    shown = range(max(0, first), min(len(there), end))
    return Console(
        f"{says}, lines {shown.start + 1} to {shown.stop} of {len(there):,}",
        [Line(i + 1, there[i][:_LONG], i == at) for i in shown],
    )
