"""What the history answers: plain data, which `tcelab history --json` writes. Times are seconds since 1970 (UTC)."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from tcelab.history.nightfile import Attempt, CellWord

SCHEMA: Final = 1
"""Raised when a field changes its meaning or is removed; new fields do not raise it."""


class Answer(msgspec.Struct, kw_only=True):
    """What every answer has.

    :ivar schema: version of this format.
    :ivar history: the file that was asked.
    """

    schema: int = SCHEMA
    history: str = ""


class NightLine(msgspec.Struct, kw_only=True):
    """A night in numbers.

    :ivar id: name of its folder.
    :ivar began: when it began; `ended`: when it ended, 0 if it goes on or was killed.
    :ivar tcelab: version of tcelab.
    :ivar matrix: path of its matrix file.
    :ivar folder: its folder, on the host of that name.
    :ivar host: name of the host; empty if nobody said.
    :ivar stopped: why it ended early; empty if it did not.
    :ivar cells: how many it has; `right`: how many of them ended as they must.
    :ivar words: how many cells ended in each way.
    :ivar findings: different findings, by their keys.
    """

    id: str
    began: float
    ended: float
    tcelab: str
    matrix: str
    folder: str
    host: str
    stopped: str
    cells: int
    right: int
    words: dict[CellWord, int]
    findings: int


class NightList(Answer, kw_only=True):
    """`tcelab history list`.

    :ivar nights: the last ones, oldest first; `total`: how many there are.
    """

    nights: list[NightLine]
    total: int


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A night in which a finding was seen.

    :ivar night: its id; it may have been pruned since.
    :ivar began: when that night began.
    :ivar tcelab: version of tcelab.
    :ivar versions: of one of the cells that saw it: of kernel, QEMU, firmware, image.
    """

    night: str
    began: float
    tcelab: str
    versions: dict[str, Any] = {}


class CellRef(msgspec.Struct, frozen=True, kw_only=True):
    """A cell of a night.

    :ivar id: the same on every night.
    :ivar name: for people.
    :ivar seed: of the scenario.
    :ivar word: how it ended.
    :ivar expected: how it must end.
    """

    id: str
    name: str
    seed: int
    word: CellWord
    expected: CellWord


class SeenInNight(msgspec.Struct, kw_only=True):
    """A finding in one night.

    :ivar night: its id.
    :ivar began: when that night began.
    :ivar tcelab: version of tcelab.
    :ivar count: how many findings of that signature there were, in all cells together.
    :ivar cells: that saw it, the first ones.
    :ivar several: how many cells saw it.
    """

    night: str
    began: float
    tcelab: str
    count: int
    several: int
    cells: list[CellRef]


class FindingCourse(Answer, kw_only=True):
    """`tcelab history finding`.

    :ivar key: of its signature: 16 hex digits.
    :ivar law: name of the broken law.
    :ivar operation: kind of the operation that is to blame; empty if none is known.
    :ivar errno: errnos and statuses in question.
    :ivar difference: the message without its numbers and names.
    :ivar first: night in which it was seen first.
    :ivar last: night in which it was seen last.
    :ivar pruned: nights that saw it and were pruned.
    :ivar nights: in which it was seen, oldest first.
    :ivar message: as the last cell printed it; empty if all its nights were pruned.
    :ivar replay: the command that shows it again.
    """

    key: str
    law: str
    operation: str
    errno: str
    difference: str
    message: str
    replay: str
    first: Seen
    last: Seen
    pruned: int
    nights: list[SeenInNight]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of a cell in one night.

    :ivar name: unique within its cell.
    :ivar unit: e.g. `ms`.
    :ivar median: of its values.
    :ivar values: what each turn gave.
    """

    name: str
    unit: str
    median: float
    values: list[float]


class CellNight(msgspec.Struct, kw_only=True):
    """A cell in one night.

    :ivar night: its id.
    :ivar began: when that night began.
    :ivar seed: of the scenario.
    :ivar word: how it ended.
    :ivar expected: how it must end.
    :ivar attempts: each time that it was run.
    :ivar findings: keys.
    :ivar figures: what it measured.
    :ivar changed: versions that are other ones than in the last night before that has any.
    """

    night: str
    began: float
    seed: int
    word: CellWord
    expected: CellWord
    attempts: list[Attempt]
    findings: list[str]
    figures: list[Measured]
    changed: list[VersionChange]


class CellCourse(Answer, kw_only=True):
    """`tcelab history cell`.

    :ivar id: the same on every night.
    :ivar name: for people.
    :ivar command: the last one, without `--out`.
    :ivar nights: oldest first.
    """

    id: str
    name: str
    command: list[str]
    nights: list[CellNight]


class CellChange(msgspec.Struct, kw_only=True):
    """A cell that ended in another way.

    :ivar id: the same on every night.
    :ivar name: for people.
    :ivar seed: of the later night; of the earlier one, where the later one has no such cell.
    :ivar before: how it ended in the earlier night; empty: it is no cell of that night.
    :ivar after: how it ended in the later night; empty: it is no cell of that night.
    :ivar expected: how it must end.
    :ivar wrong: it does not end as it must, and did before.
    """

    id: str
    name: str
    seed: int
    before: CellWord | Literal[""]
    after: CellWord | Literal[""]
    expected: CellWord
    wrong: bool


class FindingChange(msgspec.Struct, kw_only=True):
    """A finding that one of the two nights has and the other has not.

    :ivar change: `new`: no earlier night saw it. `returning`: the earlier one did not see it, one before that did.
        `gone`: every cell that saw it was judged again and did not. `unknown`: gone, and at least one of those cells
        was not judged in the later night.
    :ivar key: of its signature: 16 hex digits.
    :ivar law: name of the broken law.
    :ivar operation: kind of the operation that is to blame; empty if none is known.
    :ivar errno: errnos and statuses in question.
    :ivar difference: the message without its numbers and names.
    :ivar message: as it was printed.
    :ivar replay: the command that shows it again.
    :ivar first: night in which it was seen first.
    :ivar last: night in which it was seen last.
    :ivar before: of a returning one, the last night before the two that saw it; None if that was pruned.
    :ivar cells: names of cells that saw it, the first ones; `several`: how many there are.
    :ivar expected: each of those cells must have findings, e.g. one with a broken driver.
    """

    change: Literal["new", "returning", "gone", "unknown"]
    key: str
    law: str
    operation: str
    errno: str
    difference: str
    message: str
    replay: str
    first: Seen
    last: Seen
    before: Seen | None = None
    cells: list[str]
    several: int
    expected: bool


class FigureChange(msgspec.Struct, kw_only=True):
    """A figure that changed beyond its noise, see `tcelab.history.noise`.

    :ivar change: `worse`: slower, or fewer of what is to be many; `changed`: nobody says which way is better.
    :ivar cell: name of the cell.
    :ivar name: of the figure.
    :ivar unit: e.g. `ms`.
    :ivar before: median in the earlier night.
    :ivar after: median in the later night.
    :ivar nights: earlier nights whose medians tell the noise; 0: the values of the two nights do.
    """

    change: Literal["worse", "better", "changed"]
    cell: str
    name: str
    unit: str
    before: float
    after: float
    nights: int


class VersionChange(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is another one.

    :ivar name: e.g. `qemu.version`.
    :ivar before: empty: there was none.
    :ivar after: empty: there is none.
    :ivar cells: in how many cells; 0: it is one of the whole night.
    """

    name: str
    before: str
    after: str
    cells: int


class Comparison(Answer, kw_only=True):
    """`tcelab history compare`.

    :ivar exit_code: 0: nothing new; 1: a new or returning finding, or a cell that is newly not right; 125: not all
        cells of the later night were judged.
    :ivar before: the earlier night.
    :ivar after: the later night.
    :ivar cells: whose word changed, or that only one night has.
    :ivar findings: that only one of the nights has.
    :ivar same: findings that both nights have.
    :ivar figures: that changed beyond their noise.
    :ivar too_few: figures that differ, and of which there are too few values to tell.
    :ivar versions: that are other ones.
    :ivar not_judged: cells of the later night that were not judged, or not run.
    """

    exit_code: int
    before: NightLine
    after: NightLine
    cells: list[CellChange]
    findings: list[FindingChange]
    same: int
    figures: list[FigureChange]
    too_few: int
    versions: list[VersionChange]
    not_judged: list[CellRef]
