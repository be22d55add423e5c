"""Reads what a report is made from: the folder of a run, of a series, of a leak check, of a campaign, or of a night."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from tcelab import report
from tcelab.errors import UsageError
from tcelab.history import nightfile
from tcelab.history.nightfile import Night
from tcelab.judge import Finding
from tcelab.leakcheck.leakresult import LeakResult
from tcelab.report import Result, tabledump
from tcelab.run import exitcode
from tcelab.run.record import TableView
from tcelab.run.resultfile import SCHEMA, ResultFile

RESULT: Final = "result.json"
PROGRAM: Final = "program.json"
CONSOLE: Final = "console.log"
LOG: Final = "log.txt"
OUTPUT: Final = "output.txt"
"""All that the command of a cell printed."""
_MOST: Final = 64 << 20
"""Bytes of a file that are read: nothing of ours is longer, but a guest may print for ever."""


class Campaign(ResultFile, kw_only=True):
    """What `tcelab fuzz` left. Of one that was killed: its programs, and nothing else.

    :ivar findings: what each program shows; `programs`: names of their files; `replays`: the commands.
    """

    verdict: exitcode.Result = "finding"
    exit_code: int = exitcode.FINDING
    seed: int = 0
    findings: list[Finding] = msgspec.field(default_factory=list)
    programs: list[str]
    replays: list[str] = msgspec.field(default_factory=list)
    could_not: list[str] = msgspec.field(default_factory=list)
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    quirks: dict[str, int] = msgspec.field(default_factory=dict)


Told: TypeAlias = Result | LeakResult | Campaign | Night


def read(folder: Path) -> Told:
    """What is in a folder.

    :raise UsageError: nothing of which a report can be made, in one line.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder")
    if (folder / nightfile.NAME).is_file():
        return nightfile.load(_read(folder / nightfile.NAME), str(folder / nightfile.NAME))
    if (folder / RESULT).is_file():
        return result(folder)
    if found := sorted(_campaign(folder), key=lambda name: (len(name), name)):
        return Campaign(tcelab="", programs=found, could_not=[f"it has left no {RESULT}: it goes on, or was killed"])
    if (folder / PROGRAM).is_file() or (folder / LOG).is_file():
        raise UsageError(f"{folder}: the run there has left no {RESULT}: it goes on, or was killed")
    raise UsageError(f"{folder} is the folder of no run and of no night: it has no {RESULT} and no {nightfile.NAME}")


def result(folder: Path) -> Result | LeakResult | Campaign:
    """:raise UsageError: it cannot be read, or is of another schema."""
    path = folder / RESULT
    data = _read(path)
    try:
        return msgspec.json.decode(data, type=kind) if (kind := _kind(data)) else report.load(data, str(path))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a result: {error}") from None


class _Header(msgspec.Struct):
    verdict: Any = None
    programs: list[str] | None = None
    schema: int = SCHEMA


def _kind(data: bytes) -> type[LeakResult | Campaign] | None:
    """None: of a run, which has more than a word for its verdict, or of another schema."""
    header = msgspec.json.decode(data, type=_Header)
    if not isinstance(header.verdict, str) or header.schema != SCHEMA:
        return None
    return LeakResult if header.programs is None else Campaign


def _campaign(folder: Path) -> list[str]:
    return [each.name for each in folder.glob("finding-*.json") if not each.name.endswith(".original.json")]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


# -- what may be missing


def program(path: Path) -> dict[str, Any] | None:
    """A program as plain JSON; None: it is not there, or is none. It was checked before it ran."""
    try:
        told = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    fits = isinstance(told, dict) and isinstance(told.get("ops"), list)
    return told if fits and all(isinstance(op, dict) for op in told["ops"]) else None


def tables(folder: Path, name: str) -> dict[int, TableView]:
    """Tables by LIOBN; empty: they are not there, or cannot be read."""
    try:
        return {each.liobn: each for each in tabledump.load(folder / name)} if (folder / name).is_file() else {}
    except UsageError:
        return {}


def lines(path: Path) -> list[str]:
    """The lines of a text of which any byte may be anything; empty: there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST).decode(errors="replace").replace("\r\n", "\n").split("\n")
    except OSError:
        return []


def nights(folder: Path) -> list[Night]:
    """The night in a folder, or those in the folders below it.

    :raise UsageError: there is none, or one cannot be read.
    """
    own = folder / nightfile.NAME
    there = [own] if own.is_file() else sorted(folder.glob(f"*/{nightfile.NAME}"))
    if not there:
        raise UsageError(f"{folder} is the folder of no night, and holds none")
    return [nightfile.load(_read(each), str(each)) for each in there]
