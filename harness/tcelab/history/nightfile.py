"""`night.json`: what a night did, cell by cell. `tcelab nightly` writes it, anew after each cell; the history, the
report and whoever resumes the night read it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from tcelab.run.exitcode import COULD_NOT_JUDGE, FINDING, PASS
from tcelab.run.resultfile import decode

SCHEMA: Final = 1
"""Raised when a field changes its meaning or is removed; new fields do not raise it."""
NAME: Final = "night.json"
"""Of the file, in the night's folder."""
CELLS: Final = "cells"
"""The folder of all cells, in the night's folder."""

CellWord = Literal["pass", "finding", "could-not-judge", "flaky", "not-run"]
"""What became of a cell. `flaky`: the same cell, with the same seed, ended in two ways. `not-run`: the night's time was
up, or it was interrupted, before the cell began or ended."""

_CODES: Final[dict[CellWord, int]] = {
    "pass": PASS,
    "finding": FINDING,
    "flaky": FINDING,
    "could-not-judge": COULD_NOT_JUDGE,
    "not-run": COULD_NOT_JUDGE,
}


class FoundInCell(msgspec.Struct, frozen=True, kw_only=True):
    """One finding of a cell.

    :ivar key: of its signature, see `tcelab.history.signature`: the same on every night, seed and machine.
    :ivar law: name of the broken law; of a command that is no run of a program, what it calls the failure.
    :ivar operation: kind of the operation that concerned the entry, empty if none is known.
    :ivar errno: errnos and hypercall statuses in question, empty if there are none.
    :ivar difference: the message without its numbers.
    :ivar message: the message as it was printed.
    :ivar count: how many findings of the cell have this signature, those not kept not included.
    :ivar replay: the command that shows it again.
    """

    key: str
    law: str
    operation: str
    errno: str
    difference: str
    message: str
    count: int = 1
    replay: str = ""


class CellFigure(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: of a bench, of coverage, or a count.

    :ivar name: unique within its cell.
    :ivar unit: e.g. `ms`, `%`, `entries`.
    :ivar values: what each turn gave, at least one value.
    :ivar better: which way it is better; empty: neither.
    """

    name: str
    unit: str
    values: list[float]
    better: Literal["lower", "higher", ""] = ""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One time that a cell was run.

    :ivar word: how it ended.
    :ivar exit_code: of the command; negative: the signal that ended it.
    :ivar seconds: from its start to its end.
    :ivar cpu_seconds: CPU time of the command and of all that it started, guests included.
    :ivar folder: its artefacts, relative to the night's folder.
    :ivar why: for `could-not-judge`, the reason, in one line.
    :ivar findings: keys of what it found.
    """

    word: CellWord
    exit_code: int
    seconds: float
    cpu_seconds: float = 0.0
    folder: str
    why: str = ""
    findings: list[str] = []


class Cell(msgspec.Struct, kw_only=True):
    """One entry of the matrix: one command with all its options chosen.

    :ivar id: made from all that follows up to `seed`: the same on every night for the same choice.
    :ivar kind: what is run: `run`, `leakcheck`, `fuzz`, `bench`, or `command` for a command of the user's own.
    :ivar scenario: of the run; target of the other kinds, e.g. the benchmark's name.
    :ivar qemu: a recipe's name, or the path as the matrix has it; empty where there is none.
    :ivar image: recipe of the guest image, likewise.
    :ivar kernel: the matrix's own name of a kernel of the user's; empty: that of the image.
    :ivar cpu: of the guest.
    :ivar topology: its name; empty: each of the scenario's in turn.
    :ivar mutant: of the driver, empty: none. A broken driver must be found by whoever asked for it.
    :ivar options: further options, as the matrix has them.
    :ivar seed: of the scenario; the same for a cell until the matrix says otherwise.
    :ivar command: all words of the command line, without `--out`.
    :ivar word: what became of it, `not-run` until then.
    :ivar expected: what the matrix says that must become of it; `pass` unless it says so.
    :ivar attempts: each time that it was run, the first one first.
    :ivar began: when the first attempt began, seconds since 1970 (UTC); 0: it did not.
    :ivar versions: as in `result.json`: of kernel, QEMU, firmware, image; without the lists of an image's files and
        packages.
    :ivar findings: each signature that an attempt found.
    :ivar figures: what it measured.
    """

    id: str
    kind: Literal["run", "leakcheck", "fuzz", "bench", "command"]
    scenario: str
    qemu: str = ""
    image: str = ""
    kernel: str = ""
    cpu: str = ""
    topology: str = ""
    mutant: str = ""
    options: dict[str, Any] = {}
    seed: int = 0
    command: list[str]
    word: CellWord = "not-run"
    expected: CellWord = "pass"
    attempts: list[Attempt] = []
    began: float = 0.0
    versions: dict[str, Any] = {}
    findings: list[FoundInCell] = []
    figures: list[CellFigure] = []

    @property
    def right(self) -> bool:
        """Did it end as it must?"""
        return self.word == self.expected


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a night was. Of a night that was resumed, all is about what was run since then.

    :ivar wall: seconds from its start to its end.
    :ivar cells: the seconds of all attempts, added up: each was slowed by what ran beside it.
    :ivar cpu: the CPU seconds of all attempts, added up.
    :ivar busy: cores that were kept busy, from the first attempt's start until all but two had ended.
    :ivar slots: how many cells, of weight 1, could run side by side.
    """

    wall: float = 0.0
    cells: float = 0.0
    cpu: float = 0.0
    busy: float = 0.0
    slots: int = 0


class Night(msgspec.Struct, kw_only=True):
    """A night.

    :ivar schema: version of this format.
    :ivar id: name of its folder, unique: the time (UTC) when it began, and the process.
    :ivar tcelab: version of tcelab.
    :ivar began: seconds since 1970 (UTC); `ended`: likewise, 0 while it lasts or if it was killed.
    :ivar matrix: path of the matrix file, and `matrix_sha256` of its content.
    :ivar host: name, cores and memory of the host, by name.
    :ivar folder: its folder on that host, absolute; empty: nobody said.
    :ivar cells: all of the matrix, in its order.
    :ivar stopped: why it ended before all cells did; empty if it did not.
    :ivar pace: how fast it was.
    """

    schema: int = SCHEMA
    id: str
    tcelab: str
    began: float
    ended: float = 0.0
    matrix: str
    matrix_sha256: str
    host: dict[str, str] = {}
    folder: str = ""
    cells: list[Cell]
    stopped: str = ""
    pace: Pace = Pace()

    @property
    def exit_code(self) -> int:
        """1 if a cell found something that it must not, or is flaky, or did not find what it must; else 125 if one
        could not be judged or was not run; else 0.
        """
        return exit_code(self.cells)


def exit_code(cells: list[Cell]) -> int:
    """See `Night.exit_code`. No cell at all is 125: nothing was judged."""
    wrong = [each for each in cells if not each.right]
    # A cell that passed and must not have passed is a finding: about us, or about the matrix.
    codes = {_CODES[each.word] or FINDING for each in wrong}
    return FINDING if FINDING in codes else COULD_NOT_JUDGE if codes or not cells else PASS


def to_json(night: Night) -> bytes:
    return msgspec.json.format(msgspec.json.encode(night), indent=1) + b"\n"


def load(data: bytes, source: str = NAME) -> Night:
    """Read a night back.

    :raise UsageError: no night, or one of another schema.
    """
    return decode(data, Night, SCHEMA, source, "a night")
