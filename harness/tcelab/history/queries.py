"""Questions to the history that are about one thing: the nights, a finding, a cell. Each answers within 0.2 s in a
history of 100,000 cells; a test holds the indices that make it so.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

from tcelab.errors import UsageError, meant
from tcelab.history import names
from tcelab.history.answers import (
    CellCourse,
    CellNight,
    CellRef,
    FindingCourse,
    Measured,
    NightLine,
    NightList,
    Seen,
    SeenInNight,
    VersionChange,
)
from tcelab.history.nightfile import Attempt
from tcelab.history.readback import parsed
from tcelab.history.store import History

_KEY: Final = 16
"""Hex digits of a finding's key."""
_SHORT: Final = 4
"""Letters that a beginning must have to stand for the whole."""
_CELLS: Final = 5
"""Cells of a night that are named."""
LAST: Final = "last"
CHOICE: Final = ", ".join(f"choices.{name}" for name in ("id", *names.NAMED, "options"))


def nights(history: History, limit: int = 0) -> NightList:
    """The last nights, oldest first.

    :param limit: how many at most; 0: all.
    """
    with history.database.read() as sql:
        (total,) = sql.execute("SELECT count(*) FROM nights").fetchone()
        found = sql.execute("SELECT number FROM nights ORDER BY began DESC, number DESC LIMIT ?", (limit or -1,))
        numbers = [number for (number,) in found]
        lines = [line(sql, number) for number in reversed(numbers)]
    return NightList(history=str(history.path), nights=lines, total=total)


def line(sql: sqlite3.Connection, number: int) -> NightLine:
    """A night in numbers."""
    columns = ("id", "began", "ended", "tcelab", "matrix", "folder", "stopped", "host")
    row = sql.execute(f"SELECT {', '.join(columns)} FROM nights WHERE number = ?", (number,)).fetchone()  # noqa: S608 - the names above
    fields = dict(zip(columns, row, strict=True))
    counted = sql.execute(
        "SELECT word, count(*), sum(word = expected) FROM cells WHERE night = ? GROUP BY word", (number,)
    ).fetchall()
    (findings,) = sql.execute("SELECT count(DISTINCT signature) FROM found WHERE night = ?", (number,)).fetchone()
    fields["host"] = parsed(fields["host"]).get("name", "")
    return NightLine(
        **fields,
        cells=sum(count for _, count, _ in counted),
        right=sum(right for *_, right in counted),
        words={word: count for word, count, _ in counted},
        findings=findings,
    )


def night_number(sql: sqlite3.Connection, name: str) -> int:
    """Of a night: its id, a beginning of it that no other night has, or `last`.

    :raise UsageError: there is none, or there are several.
    """
    if name == LAST:
        row = sql.execute("SELECT number FROM nights ORDER BY began DESC, number DESC LIMIT 1").fetchone()
        if row is None:
            raise UsageError("there is no night in the history")
        return int(row[0])
    known = dict(sql.execute("SELECT id, number FROM nights").fetchall())
    return int(known[one_of(name, list(known), "night", "tcelab history list")])


def one_of(name: str, known: Sequence[str], what: str, where: str) -> str:
    """The one that is meant by its name or a beginning of it.

    :raise UsageError: none, or several.
    """
    if name in known:
        return name
    found = [each for each in known if len(name) >= _SHORT and each.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{name} is the beginning of {len(found)} names: {', '.join(found[:_CELLS])}")
    raise UsageError(f"there is no {what} {name}", next_step=meant(name, known) or f"{where} names them")


# -- a finding


def finding(history: History, key: str) -> FindingCourse:
    """Each night in which a finding was seen.

    :param key: all of its 16 digits, or a beginning of at least 4 that no other has.
    :raise UsageError: there is none, or there are several.
    """
    with history.database.read() as sql:
        keys = [each for (each,) in sql.execute("SELECT key FROM signatures WHERE key GLOB ?", (f"{_hex(key)}*",))]
        whole = one_of(key.lower(), keys, "finding", "tcelab history compare")
        number, *parts = sql.execute(
            "SELECT number, law, operation, errno, difference FROM signatures WHERE key = ?", (whole,)
        ).fetchone()
        seen = list(_seen_in_nights(sql, number))
        message, replay = sql.execute(
            "SELECT message, replay FROM found WHERE signature = ? ORDER BY number DESC LIMIT 1", (number,)
        ).fetchone() or ("", "")
        first, last = when(sql, number)
        pruned = sql.execute("SELECT nights FROM pruned WHERE signature = ?", (number,)).fetchone()
    return FindingCourse(
        **dict(zip(("law", "operation", "errno", "difference"), parts, strict=True)),
        history=str(history.path),
        key=whole,
        message=message,
        replay=replay,
        first=first,
        last=last,
        pruned=pruned[0] if pruned else 0,
        nights=seen,
    )


def _hex(key: str) -> str:
    """:raise UsageError: that is no key, nor the beginning of one."""
    if not _SHORT <= len(key) <= _KEY or set(key.lower()) - set("0123456789abcdef"):
        raise UsageError(f"{key} is no key of a finding: 16 hexadecimal digits, or the first {_SHORT} at least")
    return key.lower()


def _seen_in_nights(sql: sqlite3.Connection, signature: int) -> Iterator[SeenInNight]:
    rows = sql.execute(
        "SELECT nights.number, id, began, tcelab, total, several FROM (SELECT night, sum(count) AS total, count(*) AS"
        " several FROM found WHERE signature = ? GROUP BY night) JOIN nights ON nights.number = night ORDER BY began",
        (signature,),
    ).fetchall()
    for night, name, began, version, total, several in rows:
        cells = [
            ref(row)
            for row in sql.execute(
                f"SELECT {CHOICE}, seed, word, expected FROM found JOIN cells ON cells.number = cell"  # noqa: S608 - the names above
                " JOIN choices ON choices.number = choice WHERE signature = ? AND found.night = ? LIMIT ?",
                (signature, night, _CELLS),
            )
        ]
        yield SeenInNight(night=name, began=began, tcelab=version, count=total, several=several, cells=cells)


def when(sql: sqlite3.Connection, signature: int) -> tuple[Seen, Seen]:
    """When a finding was seen first and last, nights that were pruned included."""
    seen = _nights_of(sql, signature)
    ends = [_seen(sql, signature, each) for each in (seen[:1] + seen[-1:])]
    row = sql.execute("SELECT * FROM pruned WHERE signature = ?", (signature,)).fetchone()
    if row is not None:
        ends += [
            Seen(night=night, began=began, tcelab=tcelab, versions=parsed(versions))
            for night, began, tcelab, versions in (row[2:6], row[6:10])
        ]
    return min(ends, key=lambda each: each.began), max(ends, key=lambda each: each.began)


def last_before(sql: sqlite3.Connection, signature: int, began: float) -> Seen | None:
    """The last night before a time in which a finding was seen, if that night was not pruned."""
    seen = [each for each in _nights_of(sql, signature) if each[2] < began]
    return _seen(sql, signature, seen[-1]) if seen else None


def _nights_of(sql: sqlite3.Connection, signature: int) -> list[tuple[int, str, float, str]]:
    """Number, id, beginning and tcelab of each night that saw a finding, oldest first."""
    return sql.execute(
        "SELECT DISTINCT night, id, began, tcelab FROM found JOIN nights ON nights.number = night WHERE signature = ?"
        " ORDER BY began",
        (signature,),
    ).fetchall()


def _seen(sql: sqlite3.Connection, signature: int, row: Sequence[Any]) -> Seen:
    """:param row: number, id, beginning and tcelab of the night."""
    night, name, began, version = row
    (versions,) = sql.execute(
        "SELECT text FROM found JOIN cells ON cells.number = cell JOIN texts ON texts.number = versions"
        " WHERE signature = ? AND found.night = ? LIMIT 1",
        (signature, night),
    ).fetchone()
    return Seen(night=name, began=began, tcelab=version, versions=parsed(versions))


def ref(row: Sequence[Any], name: str = "") -> CellRef:
    """From the columns `CHOICE`, seed, word, expected.

    :param name: of the cell, where it is known already.
    """
    *choice, seed, word, expected = row
    return CellRef(id=choice[0], name=name or name_of(choice), seed=int(seed), word=word, expected=expected)


def name_of(choice: Sequence[Any]) -> str:
    """From the columns `CHOICE`."""
    _, *values, options = choice
    return names.cell(dict(zip(names.NAMED, values, strict=True)), parsed(options))


# -- a cell


def cell(history: History, name: str) -> CellCourse:
    """What became of a cell, night by night.

    :param name: its id or a beginning of it, its name, or words of its name.
    :raise UsageError: there is none, or there are several.
    """
    with history.database.read() as sql:
        number, id_, title = _meant(sql, name)
        rows = sql.execute(
            "SELECT cells.number, nights.id, nights.began, seed, word, expected, command.text, versions.text FROM cells"
            " JOIN nights ON nights.number = night JOIN texts AS command ON command.number = command"
            " JOIN texts AS versions ON versions.number = versions WHERE choice = ? ORDER BY nights.began, place",
            (number,),
        ).fetchall()
        attempts, found, figures = (_by_cell(sql, table, number) for table in ("attempts", "found", "figures"))
    out, before = [], None
    for at, night, began, seed, word, expected, _, versions in rows:
        now = parsed(versions)
        out.append(
            CellNight(
                night=night,
                began=began,
                seed=int(seed),
                word=word,
                expected=expected,
                attempts=[_attempt(each) for each in attempts[at]],
                findings=[each[0] for each in found[at]],
                figures=[_measured(each) for each in figures[at]],
                changed=_changed(before, now) if before and now else [],
            )
        )
        before = now or before
    command = parsed(rows[-1][6]) if rows else []
    return CellCourse(history=str(history.path), id=id_, name=title, command=command, nights=out)


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[VersionChange]:
    return [VersionChange(name=name, before=old, after=new, cells=1) for name, old, new in names.changed(before, now)]


def _meant(sql: sqlite3.Connection, name: str) -> tuple[int, str, str]:
    """Number, id and name of a choice."""
    rows = sql.execute(f"SELECT number, {CHOICE} FROM choices").fetchall()  # noqa: S608 - the names above
    known = {number: (choice[0], name_of(choice)) for number, *choice in rows}
    words = set(name.split())
    tests = (
        lambda id_, title: name in {id_, title},
        lambda id_, _: len(name) >= _SHORT and id_.startswith(name),
        lambda _, title: words <= set(title.split()),
    )
    for test in tests:
        found = [(number, *each) for number, each in known.items() if test(*each)]
        if len(found) == 1:
            return found[0]
        if found:
            several = "; ".join(title for *_, title in found[:_CELLS])
            raise UsageError(
                f"{name} means {len(found)} cells: {several}{'; ...' * (len(found) > _CELLS)}",
                next_step="give more of its name, or its id",
            )
    raise UsageError(f"there is no cell {name}", next_step=meant(name, [title for _, title in known.values()]))


_COLUMNS: Final = {
    "attempts": "cell, attempts.word, exit_code, attempts.seconds, cpu_seconds, folder, why, findings",
    "found": "cell, key",
    "figures": "cell, name, unit, measured",
}


def _by_cell(sql: sqlite3.Connection, table: str, choice: int) -> dict[int, list[Sequence[Any]]]:
    out: dict[int, list[Sequence[Any]]] = defaultdict(list)
    keys = " JOIN signatures ON signatures.number = signature" if table == "found" else ""
    order = "found.number" if table == "found" else f"{table}.place"
    for at, *row in sql.execute(
        f"SELECT {_COLUMNS[table]} FROM cells JOIN {table} ON cell = cells.number{keys} WHERE choice = ?"  # noqa: S608 - the names above
        f" ORDER BY {order}",
        (choice,),
    ):
        out[at].append(row)
    return out


def _attempt(row: Sequence[Any]) -> Attempt:
    *values, keys = row
    columns = ("word", "exit_code", "seconds", "cpu_seconds", "folder", "why")
    return Attempt(**dict(zip(columns, values, strict=True)), findings=parsed(keys))


def _measured(row: Sequence[Any]) -> Measured:
    name, unit, measured = row
    values = parsed(measured)
    return Measured(name=name, unit=unit, median=median(values), values=values)
