"""Two nights compared: which cells ended in another way, which findings came, went or returned, which figures and
versions changed.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from tcelab.errors import HarnessError, UsageError
from tcelab.history import names, noise
from tcelab.history.answers import (
    CellChange,
    CellRef,
    Comparison,
    FigureChange,
    FindingChange,
    VersionChange,
)
from tcelab.history.queries import CHOICE, LAST, last_before, line, night_number, ref, when
from tcelab.history.readback import parsed
from tcelab.history.store import History
from tcelab.run import exitcode

_UNJUDGED: Final = frozenset({"could-not-judge", "not-run"})
_FAULTY: Final = frozenset({"finding", "flaky", "pass"})
"""Words that, where they are not expected, are about what is under test, and not about the night."""
_CELLS: Final = 5
"""Cells of a finding that are named."""


@dataclass(slots=True)
class _Cell:
    number: int
    choice: int
    versions: int
    ref: CellRef

    @property
    def right(self) -> bool:
        return self.ref.word == self.ref.expected

    @property
    def judged(self) -> bool:
        return self.ref.word not in _UNJUDGED


@dataclass
class _Night:
    """A night in memory. `by_choice`: its cells, in order; `found`: by signature, the cells that saw it."""

    number: int
    began: float
    cells: list[_Cell] = field(default_factory=list)
    by_choice: dict[int, list[_Cell]] = field(default_factory=lambda: defaultdict(list))
    found: dict[int, list[_Cell]] = field(default_factory=lambda: defaultdict(list))


_Pair = tuple[_Cell | None, _Cell | None]


def compare(history: History, before: str = "", after: str = "") -> Comparison:
    """Compare two nights.

    :param before: id of the earlier one, by default that before the other; `after`: of the later one, by default the
        last.
    :raise UsageError: there is no such night, or it is the same one twice.
    :raise HarnessError: there is no night to compare with.
    """
    with history.database.read() as sql:
        known: dict[int, str] = {}
        one, other = (_night(sql, number, known) for number in _two(sql, before, after))
        pairs = list(_pairs(one, other))
        found = [*_came(sql, one, other), *_went(sql, one, other)]
        figures = list(_figures(sql, pairs, one, other))
        changed = [each for each in map(_change, pairs) if each is not None]
        unjudged = [each.ref for each in other.cells if not each.judged and not each.right]
        return Comparison(
            history=str(history.path),
            exit_code=_code(found, changed, unjudged, other),
            before=line(sql, one.number),
            after=line(sql, other.number),
            cells=changed,
            findings=found,
            same=len(one.found.keys() & other.found.keys()),
            figures=[each for each in figures if each is not None],
            too_few=sum(each is None for each in figures),
            versions=_versions(sql, pairs, one, other),
            not_judged=unjudged,
        )


def nothing_to_compare() -> HarnessError:
    """There is one night only, or none."""
    return HarnessError(
        "the history does not have two nights: nothing to compare",
        next_step="run tcelab nightly, or tcelab history import the folder of a night",
    )


def _code(
    found: Iterable[FindingChange], changed: Iterable[CellChange], unjudged: Sequence[CellRef], after: _Night
) -> int:
    new = any(each.change in {"new", "returning"} for each in found)
    wrong = any(each.wrong and each.after in _FAULTY for each in changed)
    if new or wrong:
        return exitcode.FINDING
    return exitcode.COULD_NOT_JUDGE if unjudged or not after.cells else exitcode.PASS


# -- the two nights


def _two(sql: sqlite3.Connection, before: str, after: str) -> tuple[int, int]:
    if not before:
        last = [
            number for (number,) in sql.execute("SELECT number FROM nights ORDER BY began DESC, number DESC LIMIT 2")
        ]
        if len(last) < 2:  # noqa: PLR2004 - two nights
            raise nothing_to_compare()
        return last[1], last[0]
    one, other = night_number(sql, before), night_number(sql, after or LAST)
    if one == other:
        raise UsageError(f"{before} and {after or LAST} are the same night")
    return one, other


def _night(sql: sqlite3.Connection, number: int, known: dict[int, str]) -> _Night:
    """:param known: names of cells, by choice; gets those of this night."""
    (began,) = sql.execute("SELECT began FROM nights WHERE number = ?", (number,)).fetchone()
    out = _Night(number, began)
    by_number = {}
    for at, choice, versions, *row in sql.execute(
        f"SELECT cells.number, choice, versions, {CHOICE}, seed, word, expected FROM cells"  # noqa: S608 - column names
        " JOIN choices ON choices.number = choice WHERE night = ? ORDER BY place",
        (number,),
    ):
        cell = by_number[at] = _Cell(at, choice, versions, ref(row, known.get(choice, "")))
        known[choice] = cell.ref.name
        out.cells.append(cell)
        out.by_choice[choice].append(cell)
    for signature, at in sql.execute("SELECT signature, cell FROM found WHERE night = ? ORDER BY number", (number,)):
        out.found[signature].append(by_number[at])
    return out


def _pairs(one: _Night, other: _Night) -> Iterator[_Pair]:
    """Cells of the same choice: those with the same seed first, then, where each night draws its own, the others."""
    for choice in dict.fromkeys([*other.by_choice, *one.by_choice]):
        left = {each.ref.seed: each for each in one.by_choice.get(choice, ())}
        right = {each.ref.seed: each for each in other.by_choice.get(choice, ())}
        for seed in [each for each in right if each in left]:
            yield left.pop(seed), right.pop(seed)
        before, after = [*left.values()], [*right.values()]
        for at in range(max(len(before), len(after))):
            yield before[at] if at < len(before) else None, after[at] if at < len(after) else None


def _change(pair: _Pair) -> CellChange | None:
    before, after = pair
    if before is not None and after is not None and before.ref.word == after.ref.word and before.right == after.right:
        return None
    last = after or before
    assert last is not None
    return CellChange(
        id=last.ref.id,
        name=last.ref.name,
        seed=last.ref.seed,
        before="" if before is None else before.ref.word,
        after="" if after is None else after.ref.word,
        expected=last.ref.expected,
        wrong=after is not None and not after.right and (before is None or before.right or not before.judged),
    )


# -- findings


def _came(sql: sqlite3.Connection, one: _Night, other: _Night) -> Iterator[FindingChange]:
    for signature in [each for each in other.found if each not in one.found]:
        first, _ = when(sql, signature)
        returns = first.began < min(one.began, other.began)
        found = _finding(sql, signature, "returning" if returns else "new", other.found[signature])
        found.before = last_before(sql, signature, one.began) if returns else None
        yield found


def _went(sql: sqlite3.Connection, one: _Night, other: _Night) -> Iterator[FindingChange]:
    for signature in [each for each in one.found if each not in other.found]:
        cells = one.found[signature]
        again = [[each for each in other.by_choice.get(cell.choice, ()) if each.judged] for cell in cells]
        yield _finding(sql, signature, "gone" if all(again) else "unknown", cells)


def _finding(sql: sqlite3.Connection, signature: int, change: str, cells: Sequence[_Cell]) -> FindingChange:
    parts = ("key", "law", "operation", "errno", "difference")
    row = sql.execute(f"SELECT {', '.join(parts)} FROM signatures WHERE number = ?", (signature,)).fetchone()  # noqa: S608 - the names above
    message, replay = sql.execute(
        "SELECT message, replay FROM found WHERE cell = ? AND signature = ?", (cells[0].number, signature)
    ).fetchone()
    first, last = when(sql, signature)
    fields: dict[str, Any] = {**dict(zip(parts, row, strict=True)), "change": change}
    return FindingChange(
        **fields,
        message=message,
        replay=replay,
        first=first,
        last=last,
        cells=[each.ref.name for each in cells[:_CELLS]],
        several=len(cells),
        expected=all(each.ref.expected == "finding" for each in cells),
    )


# -- figures


def _figures(
    sql: sqlite3.Connection, pairs: Iterable[_Pair], one: _Night, other: _Night
) -> Iterator[FigureChange | None]:
    """None: it differs, and there are too few values to tell."""
    old, new = (_measured(sql, each) for each in (one, other))
    for before, after in pairs:
        # With another seed it was another program.
        if before is not None and after is not None and before.ref.seed == after.ref.seed:
            yield from _of_cell(sql, (old[before.number], new[after.number]), after, other)


_Figure = tuple[str, Any, list[float]]
"""Unit, which way is better, values."""


def _of_cell(
    sql: sqlite3.Connection, figures: tuple[Mapping[str, _Figure], Mapping[str, _Figure]], cell: _Cell, other: _Night
) -> Iterator[FigureChange | None]:
    old, new = figures
    differ: dict[str, tuple[list[float], list[float]]] = {}
    for name, (unit, _, values) in new.items():
        there = old.get(name)
        if there is not None and unit == there[0] and not noise.small(there[2], values, unit):
            differ[name] = there[2], values
    earlier = _earlier(sql, cell, other, differ.keys()) if differ else {}
    for name, (before, after) in differ.items():
        unit, better, _ = new[name]
        medians = earlier.get((name, unit), [])
        word = noise.judge(before, after, medians, better, unit)
        if word == "too few":
            yield None
        elif word != "same":
            yield FigureChange(
                change=word,
                cell=cell.ref.name,
                name=name,
                unit=unit,
                before=median(before),
                after=median(after),
                nights=len(medians) if len(medians) >= noise.NIGHTS else 0,
            )


def _measured(sql: sqlite3.Connection, night: _Night) -> dict[int, dict[str, _Figure]]:
    """By cell and name."""
    out: dict[int, dict[str, _Figure]] = defaultdict(dict)
    rows = sql.execute(
        "SELECT cell, name, unit, better, measured FROM cells JOIN figures ON cell = cells.number WHERE night = ?"
        " ORDER BY cells.place, figures.place",
        (night.number,),
    ).fetchall()
    values = parsed(f"[{','.join(row[4] for row in rows)}]")  # at once: it takes a tenth of the time
    for (cell, name, unit, better, _), each in zip(rows, values, strict=True):
        out[cell][name] = unit, better, each
    return out


def _earlier(
    sql: sqlite3.Connection, cell: _Cell, other: _Night, wanted: Collection[str]
) -> dict[tuple[str, str], list[float]]:
    """By name and unit, the medians of this cell's earlier nights."""
    out: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name, unit, values in sql.execute(
        "SELECT name, unit, measured FROM (SELECT number FROM cells WHERE choice = ? AND seed = ? AND began < ? AND"
        " night != ? ORDER BY began DESC LIMIT ?) AS past JOIN figures ON cell = past.number",
        (cell.choice, str(cell.ref.seed), other.began, other.number, noise.MOST),
    ):
        if name in wanted:
            out[name, unit].append(median(parsed(values)))
    return out


# -- versions


def _versions(sql: sqlite3.Connection, pairs: Iterable[_Pair], one: _Night, other: _Night) -> list[VersionChange]:
    both = [(before.versions, after.versions) for before, after in pairs if before is not None and after is not None]
    counts: Counter[tuple[str, str, str]] = Counter()
    for (before, after), cells in Counter(both).items():
        if before != after:
            old, new = _text(sql, before), _text(sql, after)
            if old and new:  # else one of them did not come to have any
                counts.update(dict.fromkeys(names.changed(old, new), cells))
    of_night = [
        VersionChange(name=name, before=before, after=after, cells=0)
        for name, before, after in names.changed(_whole(sql, one), _whole(sql, other))
    ]
    return [*of_night, *(VersionChange(name=n, before=b, after=a, cells=c) for (n, b, a), c in counts.items())]


def _text(sql: sqlite3.Connection, number: int) -> Mapping[str, Any]:
    (text,) = sql.execute("SELECT text FROM texts WHERE number = ?", (number,)).fetchone()
    out: Mapping[str, Any] = parsed(text)
    return out


def _whole(sql: sqlite3.Connection, night: _Night) -> dict[str, str]:
    columns = ("tcelab", "matrix", "matrix_sha256", "host")
    row = sql.execute(f"SELECT {', '.join(columns)} FROM nights WHERE number = ?", (night.number,)).fetchone()  # noqa: S608 - the names above
    *values, host = row
    return dict(zip(columns, (*values, parsed(host).get("name", "")), strict=True))
