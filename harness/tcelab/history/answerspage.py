"""`docs/answers.md`: the schema of what `tcelab history --json` writes, made from its structs.

`python -m tcelab.history.answerspage > docs/answers.md` makes it anew; a test holds the page against this.
"""

from __future__ import annotations

import sys
from typing import Final

import msgspec

from tcelab.history import answers
from tcelab.history.nightfile import Attempt
from tcelab.report.resultpage import section

_INTRO: Final = """\
# JSON of history

<!-- Made from the structs of history/answers.py: python -m tcelab.history.answerspage > docs/answers.md -->

What the verbs of [`tcelab history`](history.md) write with `--json`. The schema is {schema} (`schema`). The number is
raised when a field changes its meaning or goes away; new fields do not raise it.

    tcelab history compare --json - | jq '.findings[] | select(.change == "new") | .key'

| verb | writes |
| --- | --- |
| `tcelab history list` | `nightlist` |
| `tcelab history compare` | `comparison` |
| `tcelab history finding` | `findingcourse` |
| `tcelab history cell` | `cellcourse` |
"""

STRUCTS: Final[tuple[type[msgspec.Struct], ...]] = (
    answers.NightList,
    answers.NightLine,
    answers.Comparison,
    answers.FindingChange,
    answers.Seen,
    answers.CellChange,
    answers.FigureChange,
    answers.VersionChange,
    answers.CellRef,
    answers.FindingCourse,
    answers.SeenInNight,
    answers.CellCourse,
    answers.CellNight,
    Attempt,
    answers.Measured,
)


def page() -> str:
    """The whole page, Markdown."""
    return "\n".join([_INTRO.format(schema=answers.SCHEMA), *("\n".join(section(kind)) for kind in STRUCTS)])


if __name__ == "__main__":
    sys.stdout.write(page())
