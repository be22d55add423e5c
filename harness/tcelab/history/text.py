"""What `tcelab history` prints: the answers of the history, line by line."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from typing import Final

from tcelab.errors import counted
from tcelab.history import names
from tcelab.history.answers import (
    CellChange,
    CellCourse,
    CellNight,
    CellRef,
    Comparison,
    FigureChange,
    FindingChange,
    FindingCourse,
    NightLine,
    NightList,
    Seen,
    VersionChange,
)
from tcelab.run import exitcode

_VERDICTS: Final = {
    exitcode.PASS: "NOTHING NEW",
    exitcode.FINDING: "NEW",
    exitcode.COULD_NOT_JUDGE: "COULD NOT COMPARE",
}
_CHANGES: Final = {
    "new": "new findings",
    "returning": "returning findings",
    "gone": "gone findings: every cell that saw them was judged again",
    "unknown": "findings not seen again, of which not all cells were judged again",
}
_SUM: Final = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b")
"""A checksum, of which the beginning tells enough."""
_FIGURES: Final = {"worse": "slower or worse", "better": "faster or better", "changed": "changed"}


def night_list(answer: NightList) -> Iterator[str]:
    width = max((len(each.id) for each in answer.nights), default=0)
    for each in answer.nights:
        stopped = f"; {each.stopped}" if each.stopped else "" if each.ended else "; goes on, or was killed"
        yield f"{each.id:{width}}  {_when(each.began)}  {_night(each)}{stopped}"
    shown = "" if len(answer.nights) == answer.total else f", the last {len(answer.nights)} shown"
    yield f"{counted(answer.total, 'night')}{shown}, in {answer.history}"


def comparison(answer: Comparison) -> Iterator[str]:
    """The verdict first."""
    code = answer.exit_code
    yield f"{_VERDICTS[code]} (exit code {code}): {_summary(answer)}"
    for what, night in (("earlier", answer.before), ("later", answer.after)):
        yield f"{what}: {night.id}  {_when(night.began)}  {_night(night)}"
    yield from _part("versions", [_version(each, counts=True) for each in answer.versions])
    for change, title in _CHANGES.items():
        yield from _part(title, [line for each in answer.findings if each.change == change for line in _finding(each)])
    cells = [
        f"{_seeded(each)}: {_word(each.before)} -> {_word(each.after)}{'' if not each.wrong else _must(each.expected)}"
        for each in answer.cells
    ]
    yield from _part("cells", cells)
    for change, title in _FIGURES.items():
        yield from _part(title, [_figure(each) for each in answer.figures if each.change == change])
    if answer.too_few:
        yield f"{counted(answer.too_few, 'figure')} differ, with too few values to tell"
    yield from _part("not judged", [f"{_seeded(each)}: {_word(each.word)}" for each in answer.not_judged])


def finding(answer: FindingCourse) -> Iterator[str]:
    yield f"{answer.key} [{answer.law}] {answer.difference}"
    about = ", ".join(filter(None, (answer.operation, answer.errno)))
    if about:
        yield f"of:         {about}"
    yield f"first seen: {_seen(answer.first)}"
    yield f"last seen:  {_seen(answer.last)}"
    if answer.pruned:
        yield f"pruned:     {counted(answer.pruned, 'night')} that saw it"
    for each in answer.nights:
        more = ", ..." if each.several > len(each.cells) else ""
        cells = ", ".join(cell.name for cell in each.cells)
        yield f"  {each.night}  {_when(each.began)}  {counted(each.count, 'finding')} in {cells}{more}"
    if answer.message:
        yield f"last words: {answer.message}"
    if answer.replay:
        yield f"replay:     {answer.replay}"


def cell(answer: CellCourse) -> Iterator[str]:
    yield f"{answer.name} ({answer.id})"
    for each in answer.nights:
        yield f"  {each.night}  {_when(each.began)}  {_course(each)}"
        yield from (f"      {_version(change)}" for change in each.changed)
        yield from (f"      {why}" for why in dict.fromkeys(at.why for at in each.attempts if at.why))
        if each.findings:
            yield f"      findings: {', '.join(each.findings)}"
        if each.figures:
            figures = (f"{figure.name} {figure.median:.4g} {figure.unit}".rstrip() for figure in each.figures)
            yield f"      {', '.join(figures)}"


def _course(night: CellNight) -> str:
    seconds = sum(each.seconds for each in night.attempts)
    wrong = "" if night.word == night.expected else _must(night.expected)
    return f"seed {night.seed}  {_word(night.word)}{wrong}, {seconds:.0f} s"


def _summary(answer: Comparison) -> str:
    kinds = [each.change for each in answer.findings]
    told = [
        f"{counted(kinds.count('new'), 'new finding')}, {kinds.count('returning')} returning",
        f"{kinds.count('gone')} gone, {answer.same} as before",
        f"{counted(sum(each.wrong for each in answer.cells), 'cell')} newly not right",
    ]
    if answer.not_judged:
        told.append(f"{len(answer.not_judged)} not judged")
    return ", ".join(told)


def _part(title: str, lines: Iterable[str]) -> Iterator[str]:
    told = list(lines)
    if told:
        yield f"{title}:"
        yield from (f"  {each}" for each in told)


def _finding(change: FindingChange) -> Iterator[str]:
    yield f"{change.key} [{change.law}] {change.message}"
    more = f" and {change.several - len(change.cells)} more" if change.several > len(change.cells) else ""
    must = ", where one must be found" if change.expected else ""
    yield f"    in {', '.join(change.cells)}{more}{must}"
    if change.change != "new":
        yield f"    first seen {_seen(change.first)}"
        yield f"    last seen {'before that ' if change.before else ''}{_seen(change.before or change.last)}"
    if change.replay and change.change in {"new", "returning"}:
        yield f"    replay: {change.replay}"


def _figure(change: FigureChange) -> str:
    by = f" ({(change.after / change.before - 1) * 100:+.1f} %)" if change.before else ""
    judged = f"{change.nights} earlier nights" if change.nights else "the values of both nights"
    unit = f" {change.unit}" if change.unit else ""
    told = f"{change.before:.4g} -> {change.after:.4g}{unit}{by}"
    return f"{change.cell}: {change.name} {told}, beyond the noise of {judged}"


def _version(change: VersionChange, *, counts: bool = False) -> str:
    where = f" ({counted(change.cells, 'cell')})" if counts and change.cells else ""
    before, after = (_SUM.sub(r"\1...", each) or "none" for each in (change.before, change.after))
    return f"{change.name}: {before} -> {after}{where}"


def _seeded(cell: CellChange | CellRef) -> str:
    """Cells of one name may differ by their seed alone."""
    return f"{cell.name} seed {cell.seed}" if cell.seed else cell.name


def _night(night: NightLine) -> str:
    words = ", ".join(f"{count} {_word(word)}" for word, count in night.words.items())
    found = counted(night.findings, "finding")
    return f"tcelab {night.tcelab}, {night.right} of {counted(night.cells, 'cell')} right ({words}), {found}"


def _seen(seen: Seen) -> str:
    about = names.summary(seen.versions)
    return f"{seen.night} ({_when(seen.began)}, tcelab {seen.tcelab}{f', {about}' if about else ''})"


def _must(expected: str) -> str:
    return f" (must be: {_word(expected)})"


def _word(word: str) -> str:
    return {"could-not-judge": "could not judge", "not-run": "not run", "": "no such cell"}.get(word, word)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
