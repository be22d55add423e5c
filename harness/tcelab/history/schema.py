"""The tables of the history, and how an older file gets them.

A version that was published is never edited: what changes is a step of its own, at the end.
"""

from __future__ import annotations

from typing import Final

APPLICATION: Final = 0x7463656C
"""`PRAGMA application_id`: this file is a history of tcelab."""

_FIRST: Final = (
    """CREATE TABLE nights (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tcelab TEXT NOT NULL, began REAL NOT NULL,
        ended REAL NOT NULL, matrix TEXT NOT NULL, matrix_sha256 TEXT NOT NULL, host TEXT NOT NULL,
        folder TEXT NOT NULL, stopped TEXT NOT NULL)""",
    "CREATE INDEX nights_by_time ON nights (began)",
    # Versions and command lines: long, and the same for cell after cell, night after night.
    "CREATE TABLE texts (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, text TEXT NOT NULL)",
    """CREATE TABLE choices (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, scenario TEXT NOT NULL,
        qemu TEXT NOT NULL, image TEXT NOT NULL, kernel TEXT NOT NULL, cpu TEXT NOT NULL, topology TEXT NOT NULL,
        mutant TEXT NOT NULL, options TEXT NOT NULL)""",
    # A seed may have more than 64 bits.
    """CREATE TABLE cells (
        number INTEGER PRIMARY KEY, night INTEGER NOT NULL REFERENCES nights ON DELETE CASCADE,
        choice INTEGER NOT NULL REFERENCES choices, seed TEXT NOT NULL, place INTEGER NOT NULL, word TEXT NOT NULL,
        expected TEXT NOT NULL, began REAL NOT NULL, seconds REAL, command INTEGER NOT NULL REFERENCES texts,
        versions INTEGER NOT NULL REFERENCES texts, UNIQUE (night, choice, seed))""",
    "CREATE INDEX cells_by_choice ON cells (choice, seed, began, word)",
    "CREATE INDEX cells_by_duration ON cells (choice, began, seconds) WHERE seconds IS NOT NULL",
    """CREATE TABLE attempts (
        cell INTEGER NOT NULL REFERENCES cells ON DELETE CASCADE, place INTEGER NOT NULL, word TEXT NOT NULL,
        exit_code INTEGER NOT NULL, seconds REAL NOT NULL, cpu_seconds REAL NOT NULL, folder TEXT NOT NULL,
        why TEXT NOT NULL, findings TEXT NOT NULL, PRIMARY KEY (cell, place)) WITHOUT ROWID""",
    """CREATE TABLE signatures (
        number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, law TEXT NOT NULL, operation TEXT NOT NULL,
        errno TEXT NOT NULL, difference TEXT NOT NULL)""",
    """CREATE TABLE found (
        number INTEGER PRIMARY KEY, cell INTEGER NOT NULL REFERENCES cells ON DELETE CASCADE,
        signature INTEGER NOT NULL REFERENCES signatures, night INTEGER NOT NULL REFERENCES nights ON DELETE CASCADE,
        message TEXT NOT NULL, count INTEGER NOT NULL, replay TEXT NOT NULL, UNIQUE (cell, signature))""",
    "CREATE INDEX found_by_signature ON found (signature, night, count)",
    """CREATE TABLE figures (
        cell INTEGER NOT NULL REFERENCES cells ON DELETE CASCADE, place INTEGER NOT NULL, name TEXT NOT NULL,
        unit TEXT NOT NULL, better TEXT NOT NULL, measured TEXT NOT NULL, PRIMARY KEY (cell, name)) WITHOUT ROWID""",
)

STEPS: Final = (_FIRST,)
"""From version N to version N + 1, the statements, from 0: an empty file."""
SCHEMA: Final = len(STEPS)
"""Version that this tcelab writes: `PRAGMA user_version`."""
