"""A night as it was recorded, from the history's tables."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

import msgspec

from tcelab.history.nightfile import Attempt, Cell, CellFigure, FoundInCell, Night

NIGHT: Final = ("id", "tcelab", "began", "ended", "matrix", "matrix_sha256", "host", "folder", "stopped")
CELL: Final = (
    *("id", "kind", "scenario", "qemu", "image", "kernel", "cpu", "topology", "mutant", "options"),
    *("word", "expected", "began"),
)
"""Fields with a column of that name."""
_ATTEMPT: Final = ("word", "exit_code", "seconds", "cpu_seconds", "folder", "why")


def night(sql: sqlite3.Connection, name: str) -> Night | None:
    """None: there is none of that id."""
    row = sql.execute(f"SELECT number, more, {', '.join(NIGHT)} FROM nights WHERE id = ?", (name,)).fetchone()  # noqa: S608 - the names above
    if row is None:
        return None
    number, more, *values = row
    fields = dict(zip(NIGHT, values, strict=True))
    fields["host"] = parsed(fields["host"])
    return msgspec.convert({**fields, **parsed(more), "cells": cells(sql, number)}, Night)


def cells(sql: sqlite3.Connection, night: int) -> list[Cell]:
    out: dict[int, Cell] = {}
    for number, command, versions, seed, more, *values in sql.execute(
        "SELECT cells.number, command.text, versions.text, seed, more, id, kind, scenario, qemu, image, kernel, cpu,"
        " topology, mutant, options, word, expected, began FROM cells JOIN choices ON choices.number = choice"
        " JOIN texts AS command ON command.number = command JOIN texts AS versions ON versions.number = versions"
        " WHERE night = ? ORDER BY place",
        (night,),
    ):
        fields = dict(zip(CELL, values, strict=True))
        fields |= {"options": parsed(fields["options"]), "command": parsed(command), "versions": parsed(versions)}
        out[number] = msgspec.convert({**fields, **parsed(more), "seed": int(seed)}, Cell)
    for cell, *values, keys in sql.execute(
        "SELECT cell, attempts.word, exit_code, attempts.seconds, cpu_seconds, folder, why, findings FROM cells"
        " JOIN attempts ON cell = cells.number WHERE night = ? ORDER BY cell, attempts.place",
        (night,),
    ):
        fields = dict(zip(_ATTEMPT, values, strict=True))
        out[cell].attempts.append(Attempt(**fields, findings=parsed(keys)))
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
        out[cell].figures.append(CellFigure(name=name, unit=unit, better=better, values=parsed(measured)))
    return list(out.values())


def parsed(text: str) -> Any:  # noqa: ANN401 - as it was recorded
    return msgspec.json.decode(text)
