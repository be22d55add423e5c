"""What comes into the history besides the nights of this host, and what leaves it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tcelab.errors import UsageError
from tcelab.history import nightfile
from tcelab.history.nightfile import Night
from tcelab.history.store import History


def read(path: Path) -> Night:
    """The night in a folder, or in a `night.json`; its folder is where it lies now.

    :raise UsageError: there is none.
    """
    file = path / nightfile.NAME if path.is_dir() else path
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{file}: {error.strerror}", next_step="give the folder of a night, or its night.json"
        ) from None
    night = nightfile.load(data, str(file))
    night.folder = str(file.absolute().parent)
    return night


def bring(history: History, night: Night) -> bool:
    """Record a night that was made elsewhere. False: it was there already, just like that.

    :raise UsageError: another night has its name.
    """
    there = history.night(night.id)
    if there is not None and msgspec.structs.replace(there, folder=night.folder) == night:
        return False
    history.end(night)
    return True


def prune(history: History, keep: int) -> Sequence[str]:
    """Remove all nights but the last ones. When a finding was first and last seen in one of them stays known.

    :param keep: how many stay, at least 1.
    :return: ids of the nights that were removed, oldest first.
    """
    with history.database.write() as sql:
        old = sql.execute("SELECT number, id FROM nights ORDER BY began DESC, number DESC LIMIT -1 OFFSET ?", (keep,))
        gone = list(reversed(old.fetchall()))
        for number, _ in gone:
            _remember(sql, number)
            sql.execute("DELETE FROM nights WHERE number = ?", (number,))
        if gone:
            sql.execute("DELETE FROM choices WHERE number NOT IN (SELECT choice FROM cells)")
            sql.execute(
                "DELETE FROM texts WHERE number NOT IN (SELECT command FROM cells UNION SELECT versions FROM cells)"
            )
    if gone:
        history.database.shrink()
    return [name for _, name in gone]


def _remember(sql: sqlite3.Connection, night: int) -> None:
    """Of each finding of a night, that this night saw it. Nights are taken oldest first, but may have been imported in
    any order.
    """
    name, began, version = sql.execute("SELECT id, began, tcelab FROM nights WHERE number = ?", (night,)).fetchone()
    for signature, versions in sql.execute(
        "SELECT signature, text FROM found JOIN cells ON cells.number = cell JOIN texts ON texts.number = versions"
        " WHERE found.night = ? GROUP BY signature",
        (night,),
    ).fetchall():
        seen = (name, began, version, versions)
        sql.execute(
            "INSERT INTO pruned VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (signature) DO UPDATE SET"
            " nights = nights + 1",
            (signature, *seen, *seen),
        )
        for end, test in (("first", ">"), ("last", "<")):
            sql.execute(
                f"UPDATE pruned SET {end}_night = ?, {end}_began = ?, {end}_tcelab = ?, {end}_versions = ?"  # noqa: S608 - first and last
                f" WHERE signature = ? AND {end}_began {test} ?",
                (*seen, signature, began),
            )
