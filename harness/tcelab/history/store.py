"""The history of all nights, in one SQLite file: what `tcelab nightly` writes, cell by cell."""

from __future__ import annotations

import hashlib
import math
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import msgspec

from tcelab.errors import UsageError
from tcelab.history.database import LIMIT, Database, default_path
from tcelab.history.nightfile import Attempt, Cell, CellFigure, CellWord, FoundInCell, Night

_RAN: Final = frozenset({"pass", "finding"})
"""An attempt that ended so did all of its work: its time tells how long the cell takes."""


class History:
    """Every cell of every night. A context manager; several threads may use one, several processes one file."""

    def __init__(self, path: Path | None = None, *, create: bool = True, limit: float = LIMIT) -> None:
        """:param path: by default `history.sqlite` in the user's folder of state.

        :param create: make the file where there is none.
        :param limit: seconds to wait for another writer.
        :raise UsageError: no history, one of a newer schema, or a damaged one; nothing in it is changed.
        :raise HarnessError: no room, or another process is writing for longer than `limit`.
        """
        self.database: Final = Database(path or default_path(), create=create, limit=limit)
        self.path: Final = self.database.path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.database.close()

    # -- written

    def begin(self, night: Night) -> None:
        """The night is known, and all its cells. Of a night that is known already (it is resumed, or imported again),
        a cell that has not run keeps what was recorded of it.

        :raise UsageError: another night has this id.
        :raise HarnessError: no room, or another process is writing for too long; nothing was written.
        """
        with self.database.write() as sql:
            number = _put_night(sql, night)
            for place, cell in enumerate(night.cells):
                if cell.word != "not-run" or cell.attempts or not _there(sql, number, cell):
                    _put_cell(sql, number, cell, place)

    def record(self, night: Night, cell: Cell) -> None:
        """What became of a cell, in place of what was recorded of that cell of that night. It is on the disk when this
        returns.

        :raise UsageError: another night has this id.
        :raise HarnessError: no room, or another process is writing for too long; nothing was written.
        """
        with self.database.write() as sql:
            number = _put_night(sql, night)
            _put_cell(sql, number, cell, next((at for at, each in enumerate(night.cells) if each is cell), None))

    def end(self, night: Night) -> None:
        """The night has ended: all of it is recorded as it is.

        :raise UsageError: another night has this id.
        :raise HarnessError: no room, or another process is writing for too long; nothing was written.
        """
        with self.database.write() as sql:
            number = _put_night(sql, night)
            for place, cell in enumerate(night.cells):
                _put_cell(sql, number, cell, place)

    # -- asked by a night

    def seconds(self) -> dict[str, float]:
        """By `Cell.id`: how long its last attempt took that ended with a pass or a finding."""
        with self.database.read() as sql:
            rows = sql.execute(
                "SELECT id, (SELECT seconds FROM cells WHERE choice = choices.number AND seconds IS NOT NULL"
                " ORDER BY began DESC LIMIT 1) AS last FROM choices WHERE last IS NOT NULL"
            )
            return dict(rows.fetchall())

    def last(self, cell_id: str, seed: int) -> CellWord | None:
        """How a cell ended the last time that it ran with that seed. None: it never did."""
        with self.database.read() as sql:
            row = sql.execute(
                "SELECT word FROM cells WHERE choice = (SELECT number FROM choices WHERE id = ?) AND seed = ?"
                " AND word != 'not-run' ORDER BY began DESC LIMIT 1",
                (_text(cell_id), str(seed)),
            ).fetchone()
        return None if row is None else cast("CellWord", row[0])

    # -- read back

    def night(self, name: str) -> Night | None:
        """A night as it was recorded. None: there is none of that id."""
        with self.database.read() as sql:
            row = sql.execute("SELECT * FROM nights WHERE id = ?", (_text(name),)).fetchone()
            if row is None:
                return None
            number, *values = row
            names = ("id", "tcelab", "began", "ended", "matrix", "matrix_sha256", "host", "folder", "stopped")
            fields = dict(zip(names, values, strict=True))
            return Night(**{**fields, "host": _parsed(fields["host"])}, cells=_cells(sql, number))


def _put_night(sql: sqlite3.Connection, night: Night) -> int:
    sql.execute(
        "INSERT INTO nights (id, tcelab, began, ended, matrix, matrix_sha256, host, folder, stopped)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET tcelab = excluded.tcelab, ended = excluded.ended, host = excluded.host,"
        " folder = excluded.folder, stopped = excluded.stopped WHERE began = excluded.began",
        (
            *(_text(night.id), _text(night.tcelab), night.began, night.ended),
            *(_text(night.matrix), _text(night.matrix_sha256), _json(night.host)),
            *(_text(night.folder), _text(night.stopped)),
        ),
    )
    number, began = sql.execute("SELECT number, began FROM nights WHERE id = ?", (_text(night.id),)).fetchone()
    if began != night.began:
        raise UsageError(
            f"the history knows another night {night.id}", next_step="name another file with --history, or rename it"
        )
    return int(number)


def _there(sql: sqlite3.Connection, night: int, cell: Cell) -> bool:
    found = sql.execute(
        "SELECT 1 FROM cells WHERE night = ? AND choice = (SELECT number FROM choices WHERE id = ?) AND seed = ?",
        (night, _text(cell.id), str(cell.seed)),
    )
    return found.fetchone() is not None


def _put_cell(sql: sqlite3.Connection, night: int, cell: Cell, place: int | None) -> None:
    """:param place: in the night's matrix; None: after those that there are."""
    key = night, _choice(sql, cell), str(cell.seed)
    seconds = next((each.seconds for each in reversed(cell.attempts) if each.word in _RAN), None)
    sql.execute(
        "INSERT INTO cells (night, choice, seed, place, word, expected, began, seconds, command, versions) VALUES"
        " (?1, ?2, ?3, coalesce(?4, (SELECT count(*) FROM cells WHERE night = ?1)), ?5, ?6, ?7, ?8, ?9, ?10)"
        " ON CONFLICT (night, choice, seed) DO UPDATE SET place = coalesce(?4, place), word = ?5, expected = ?6,"
        " began = ?7, seconds = ?8, command = ?9, versions = ?10",
        (
            *key,
            *(place, cell.word, cell.expected, cell.began, seconds),
            *(_long(sql, _json(cell.command)), _long(sql, _json(cell.versions))),
        ),
    )
    (number,) = sql.execute("SELECT number FROM cells WHERE night = ? AND choice = ? AND seed = ?", key).fetchone()
    for table in ("attempts", "found", "figures"):
        sql.execute(f"DELETE FROM {table} WHERE cell = ?", (number,))  # noqa: S608 - the names above
    sql.executemany(
        "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                *(number, at, each.word, each.exit_code, each.seconds, each.cpu_seconds),
                *(_text(each.folder), _text(each.why), _json(each.findings)),
            )
            for at, each in enumerate(cell.attempts)
        ),
    )
    sql.executemany(
        "INSERT OR IGNORE INTO found (cell, signature, night, message, count, replay) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (number, _signature(sql, each), night, _text(each.message), each.count, _text(each.replay))
            for each in cell.findings
        ],
    )
    sql.executemany(
        "INSERT OR IGNORE INTO figures VALUES (?, ?, ?, ?, ?, ?)",
        (
            (number, at, _text(each.name), _text(each.unit), each.better, _json(values))
            for at, each in enumerate(cell.figures)
            if (values := [value for value in each.values if math.isfinite(value)])
        ),
    )


def _choice(sql: sqlite3.Connection, cell: Cell) -> int:
    row = sql.execute("SELECT number FROM choices WHERE id = ?", (_text(cell.id),)).fetchone()
    if row is not None:
        return int(row[0])
    chosen = (cell.qemu, cell.image, cell.kernel, cell.cpu, cell.topology, cell.mutant)
    added = sql.execute(
        "INSERT INTO choices (id, kind, scenario, qemu, image, kernel, cpu, topology, mutant, options)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*map(_text, (cell.id, cell.kind, cell.scenario, *chosen)), _json(cell.options)),
    )
    assert added.lastrowid is not None
    return added.lastrowid


def _signature(sql: sqlite3.Connection, found: FoundInCell) -> int:
    row = sql.execute("SELECT number FROM signatures WHERE key = ?", (_text(found.key),)).fetchone()
    if row is not None:
        return int(row[0])
    added = sql.execute(
        "INSERT INTO signatures (key, law, operation, errno, difference) VALUES (?, ?, ?, ?, ?)",
        [_text(each) for each in (found.key, found.law, found.operation, found.errno, found.difference)],
    )
    assert added.lastrowid is not None
    return added.lastrowid


def _long(sql: sqlite3.Connection, text: str) -> int:
    digest = hashlib.sha256(text.encode()).digest()
    row = sql.execute("SELECT number FROM texts WHERE digest = ?", (digest,)).fetchone()
    if row is not None:
        return int(row[0])
    added = sql.execute("INSERT INTO texts (digest, text) VALUES (?, ?)", (digest, text))
    assert added.lastrowid is not None
    return added.lastrowid


def _cells(sql: sqlite3.Connection, night: int) -> list[Cell]:
    out: dict[int, Cell] = {}
    for number, command, versions, seed, *values in sql.execute(
        "SELECT cells.number, command.text, versions.text, seed, id, kind, scenario, qemu, image, kernel, cpu,"
        " topology, mutant, options, word, expected, began FROM cells JOIN choices ON choices.number = choice"
        " JOIN texts AS command ON command.number = command JOIN texts AS versions ON versions.number = versions"
        " WHERE night = ? ORDER BY place",
        (night,),
    ):
        names = ("id", "kind", "scenario", "qemu", "image", "kernel", "cpu", "topology", "mutant", "options")
        fields = dict(zip((*names, "word", "expected", "began"), values, strict=True))
        fields["options"] = _parsed(fields["options"])
        out[number] = Cell(**fields, seed=int(seed), command=_parsed(command), versions=_parsed(versions))
        out[number].attempts, out[number].findings, out[number].figures = [], [], []
    for cell, *values, keys in sql.execute(
        "SELECT cell, attempts.word, exit_code, attempts.seconds, cpu_seconds, folder, why, findings FROM cells"
        " JOIN attempts ON cell = cells.number WHERE night = ? ORDER BY cell, attempts.place",
        (night,),
    ):
        fields = dict(zip(("word", "exit_code", "seconds", "cpu_seconds", "folder", "why"), values, strict=True))
        out[cell].attempts.append(Attempt(**fields, findings=_parsed(keys)))
    for cell, *values in sql.execute(
        "SELECT cell, key, law, operation, errno, difference, message, count, replay FROM cells"
        " JOIN found ON cell = cells.number JOIN signatures ON signatures.number = signature WHERE cells.night = ?"
        " ORDER BY found.number",
        (night,),
    ):
        out[cell].findings.append(FoundInCell(**dict(zip(FoundInCell.__struct_fields__, values, strict=True))))
    for cell, name, unit, better, measured in sql.execute(
        "SELECT cell, name, unit, better, measured FROM cells JOIN figures ON cell = cells.number WHERE night = ?"
        " ORDER BY cell, figures.place",
        (night,),
    ):
        out[cell].figures.append(CellFigure(name=name, unit=unit, better=better, values=_parsed(measured)))
    return list(out.values())


def _text(text: str) -> str:
    """What SQLite takes: a guest's bytes may have become half a character."""
    return text.encode(errors="replace").decode()


def _json(value: object) -> str:
    return _text(msgspec.json.encode(value, enc_hook=str).decode())


def _parsed(text: str) -> Any:  # noqa: ANN401 - as it was recorded
    return msgspec.json.decode(text)
