"""What a night says in the end: the verdict first, then each cell that is not right, then the rest in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tcelab.commandline import started
from tcelab.errors import counted
from tcelab.history.nightfile import Cell, Night
from tcelab.nightly.plan import title, words_of
from tcelab.run import exitcode

_SHOWN: Final = 5
"""Findings of a cell that are spelled out."""
_VERDICTS: Final = {exitcode.PASS: "PASS", exitcode.FINDING: "FINDING", exitcode.COULD_NOT_JUDGE: "COULD NOT JUDGE"}


def lines(night: Night, folder: Path, code: int) -> Iterator[str]:
    """The text, line by line.

    :param code: the exit code.
    """
    wrong = [each for each in night.cells if not each.right]
    yield f"{_VERDICTS[code]} (exit code {code}): {_count(wrong, night)}; artefacts in {folder}"
    if night.stopped:
        yield f"stopped: {night.stopped}"
        if any(each.word == "not-run" for each in night.cells):
            yield f"the rest: tcelab nightly --resume {folder}"
    shown = [each for each in wrong if each.word != "not-run"]
    width = max((len(title(each)) for each in shown), default=0)
    for cell in shown:
        yield from _cell(cell, width)
    yield _rest(night)
    if night.pace.wall:
        yield _pace(night)


def _count(wrong: list[Cell], night: Night) -> str:
    of = counted(len(night.cells), "cell")
    return f"all of {of} ended as they must" if not wrong else f"{len(wrong)} of {of} did not end as they must"


def _cell(cell: Cell, width: int) -> Iterator[str]:
    seconds = sum(each.seconds for each in cell.attempts)
    must = "" if cell.expected == "pass" else f" (must be: {words_of(cell.expected)})"
    yield f"  {title(cell):{width}}  {words_of(cell.word):15} {_clock(seconds):>8}{must}"
    if cell.word == "flaky":
        ends = ", ".join(f"{words_of(each.word)} ({counted(len(each.findings), 'finding')})" for each in cell.attempts)
        yield f"      with the same seed: {ends}"
    for each in dict.fromkeys(attempt.why for attempt in cell.attempts if attempt.why):
        yield f"      {each}"
    for found in cell.findings[:_SHOWN]:
        yield f"      [{found.law}] {found.message}"
    if len(cell.findings) > _SHOWN:
        yield f"      and {len(cell.findings) - _SHOWN} more"
    for each in dict.fromkeys(_replays(cell)):
        yield f"      replay: {each}"
    yield from (f"      in {each.folder}" for each in cell.attempts if each.folder)


def _replays(cell: Cell) -> Iterator[str]:
    """What shows it again; where no finding says so, the cell's own command."""
    told = [each.replay for each in cell.findings if each.replay]
    yield from told or [command(cell)]


def command(cell: Cell) -> str:
    """The command of a cell, for a shell of this host."""
    import shlex  # noqa: PLC0415 - wrong cells are few

    words = cell.command if cell.kind == "command" else [*started(), *cell.command[1:]]
    return shlex.join(words)


def _rest(night: Night) -> str:
    words = Counter(each.word for each in night.cells if each.right)
    kinds = [f"{count} {words_of(word)}" for word, count in words.items()]
    missing = sum(each.word == "not-run" and not each.right for each in night.cells)
    said = f"{counted(sum(words.values()), 'cell')} ended as they must"
    if kinds:
        said += f": {', '.join(kinds)}"
    return f"{said}; {missing} not run" if missing else said


def _pace(night: Night) -> str:
    pace = night.pace
    return (
        f"{_clock(pace.wall)}, the cells' own times add up to {_clock(pace.cells)}; {pace.busy:.2f} of"
        f" {night.host.get('cores', '?')} cores busy until the last but two had ended"
    )


def _clock(seconds: float) -> str:
    """`1:02:03`, or `2:03`, or `3.4 s`."""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
