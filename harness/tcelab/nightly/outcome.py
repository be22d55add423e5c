"""What a cell's command left: its word, what it found and what it measured."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal
from xml.etree import ElementTree as ET

import msgspec

from tcelab.commandline import typed
from tcelab.history.nightfile import Cell, CellFigure, CellWord, FoundInCell
from tcelab.history.signature import Signature, signature
from tcelab.judge import Finding
from tcelab.leakcheck.leakresult import LeakFinding
from tcelab.nightly.plan import BENCH, shown
from tcelab.run import exitcode

RESULT: Final = "result.json"
JUNIT: Final = "junit.xml"
_TAIL: Final = 4096
_CONTENT: Final = frozenset({"files", "packages"})
"""Fields of an image's manifest (`tcelab.image.manifest`)."""
_NUMBER: Final = re.compile(r"\d+")


class _Evidence(msgspec.Struct):
    """What a run's pass rests on, counted: a number that falls tells of something that is no longer judged."""

    operations: int = 0
    checkpoints: int = 0
    entries: int = 0
    tags: int = 0


class _Verdict(msgspec.Struct):
    result: str
    evidence: _Evidence | None = None
    findings: list[Finding] = []
    could_not: list[str] = []


class _Told(msgspec.Struct):
    """The fields that the results of all verbs share. Of a leak check and of a fuzz campaign, `verdict` is the word."""

    verdict: _Verdict | str
    findings: list[LeakFinding] = []
    could_not: list[str] = []
    versions: dict[str, Any] = {}
    replay: str = ""
    counts: dict[str, int] = {}

    def verdict_(self) -> _Verdict:
        """As of a run."""
        if isinstance(self.verdict, str):
            return _Verdict(self.verdict, None, list(self.findings), self.could_not)
        return self.verdict


class _Figure(msgspec.Struct):
    name: str
    unit: str
    values: list[float]


class _Bench(msgspec.Struct):
    figures: list[_Figure]
    on: dict[str, str] = {}
    verdict: _Verdict | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt gave; see `Cell` and `Attempt`."""

    word: CellWord
    why: str = ""
    findings: list[FoundInCell] = []
    figures: list[CellFigure] = []
    versions: dict[str, Any] = {}


def read(cell: Cell, folder: Path, code: int) -> Outcome:
    """From the exit code and the files: a pass is one only if the result says so too.

    :param folder: of the attempt's artefacts.
    :param code: exit code; negative: the signal that ended it.
    """
    if cell.kind == "command":
        return _of_command(cell, folder, code)
    if cell.kind == "bench":
        return _of_bench(cell, folder, code)
    told = _decoded(folder / RESULT, _Told)
    if told is None:
        return _untold(folder, code)
    verdict = told.verdict_()
    return Outcome(
        word=_word(code, verdict.result),
        why=_why(folder, code, verdict),
        findings=list(_found(verdict.findings, told.replay)),
        figures=_counts(verdict.evidence or told.counts or {}),
        versions=_brief(told.versions),
    )


def _brief(versions: Any) -> Any:  # noqa: ANN401 - JSON
    """Versions without what an image consists of, 90 KB a cell: its hash says as much, and `result.json` has it all."""
    if not isinstance(versions, dict):
        return versions
    return {name: _brief(value) for name, value in versions.items() if name not in _CONTENT}


def _counts(counted: _Evidence | dict[str, int]) -> list[CellFigure]:
    """What was done and compared; neither more nor less is better."""
    counts = counted if isinstance(counted, dict) else msgspec.structs.asdict(counted)
    return [CellFigure(name=name, unit="", values=[float(value)]) for name, value in counts.items() if value]


def _word(code: int, said: str) -> CellWord:
    """The word of an exit code, if the result bears it out. A finding stands, whatever else there is."""
    if code == exitcode.FINDING or said == "finding":
        return "finding"
    return "pass" if code == exitcode.PASS and said == "pass" else "could-not-judge"


def _why(folder: Path, code: int, verdict: _Verdict) -> str:
    if _word(code, verdict.result) != "could-not-judge":
        return ""
    if code in {exitcode.PASS, exitcode.COULD_NOT_JUDGE} and verdict.could_not:
        return verdict.could_not[0].partition("\n")[0]
    return _ended(folder, code)


def _untold(folder: Path, code: int) -> Outcome:
    """There is no result that can be read. A command that had not come to its work has found nothing."""
    if code == exitcode.FINDING and any(each.name != OUTPUT for each in folder.glob("*")):
        return Outcome(word="finding", why="a finding whose result could not be kept")
    return Outcome(word="could-not-judge", why=_ended(folder, code))


def _ended(folder: Path, code: int) -> str:
    how = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
    last = _last_line(folder)
    return f"{how}: {last}" if last else how


OUTPUT: Final = "output.txt"
"""All that a cell's command printed, in its folder."""


def _last_line(folder: Path) -> str:
    """What was printed last; of an error's report, the message."""
    with contextlib.suppress(OSError), (folder / OUTPUT).open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("tcelab: ", "Error: "))]
        return (errors or lines or [""])[-1]
    return ""


def _decoded(path: Path, kind: type[Any]) -> Any:  # noqa: ANN401 - of that kind, or None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _found(findings: Sequence[Finding], replay: str) -> Iterator[FoundInCell]:
    """One for each signature, in order."""
    kept: dict[str, list[Finding]] = {}
    for each in findings:
        kept.setdefault(signature(each).key(), []).append(each)
    for same in kept.values():
        yield _of_signature(signature(same[0]), same[0].message, replay, len(same))


def _of_signature(of: Signature, message: str, replay: str, count: int = 1) -> FoundInCell:
    return FoundInCell(
        key=of.key(),
        law=of.law,
        operation=of.operation,
        errno=of.errno,
        difference=of.difference,
        message=message,
        count=count,
        replay=replay,
    )


# -- benches


def _of_bench(cell: Cell, folder: Path, code: int) -> Outcome:
    told = _decoded(folder / BENCH, _Bench)
    if told is None:
        return Outcome(word="could-not-judge", why=_ended(folder, code))
    verdict = told.verdict or _Verdict("pass" if told.figures else "could-not-judge")
    return Outcome(
        word=_word(code, verdict.result),
        why=_why(folder, code, verdict),
        findings=list(_found(verdict.findings, typed(cell.command[1:]))),
        figures=[CellFigure(name=e.name, unit=e.unit, values=e.values, better=better(e.unit)) for e in told.figures],
        versions=dict(told.on),
    )


def better(unit: str) -> Literal["lower", "higher", ""]:
    """Which way a figure of that unit is better: rates are to be high, times and memory low."""
    if unit.endswith("/s"):
        return "higher"
    return "lower" if unit in {"s", "ms", "us", "ns", "MB", "MiB", "KiB", "%"} else ""


# -- commands of the user's own


def _of_command(cell: Cell, folder: Path, code: int) -> Outcome:
    """By its exit code, as of `tcelab run`; a junit.xml that it left names what failed."""
    if code == exitcode.PASS:
        return Outcome(word="pass")
    if code != exitcode.FINDING:
        return Outcome(word="could-not-judge", why=_ended(folder, code))
    failed = list(_failed(folder / JUNIT, cell)) or [_exit_code(cell, _last_line(folder))]
    return Outcome(word="finding", findings=failed)


def _exit_code(cell: Cell, last: str) -> FoundInCell:
    of = Signature(law="command", operation=cell.scenario, errno="", difference="exit code 1")
    return _of_signature(of, f"exit code 1: {last}" if last else "exit code 1", shown(cell))


def _failed(path: Path, cell: Cell) -> Iterator[FoundInCell]:
    """Test cases that failed or ended with an error."""
    try:
        cases = list(ET.parse(path).iter("testcase"))  # noqa: S314 - the user's own command wrote it
    except (OSError, ET.ParseError):
        return
    for case in cases:
        wrong = case.find("failure") if case.find("failure") is not None else case.find("error")
        if wrong is None:
            continue
        name = ".".join(filter(None, (case.get("classname"), case.get("name"))))
        message = (wrong.get("message") or "").partition("\n")[0]
        of = Signature(law="test", operation=name, errno="", difference=_NUMBER.sub("N", message))
        yield _of_signature(of, f"{name}: {message}", shown(cell))
