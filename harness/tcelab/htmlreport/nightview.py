"""A night, made ready for the page: its matrix as a grid, and its cells."""

from __future__ import annotations

import hashlib
import shlex
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from tcelab.commandline import typed
from tcelab.errors import UsageError, counted
from tcelab.history.nightfile import Attempt, Cell, CellFigure, Night
from tcelab.htmlreport import consolelines, folders, runview
from tcelab.htmlreport.consolelines import Console
from tcelab.htmlreport.runview import Most, RunView
from tcelab.run.exitcode import COULD_NOT_JUDGE, FINDING, PASS

WHOLE: Final = 40
"""Cells that are shown with all that their folders have."""
MOST_OF_CELL: Final = Most(whole=3, listed=20, stories=1)
_LARGE: Final = 10_000
"""Numbers from here on need no fraction."""
FIGURES: Final = 12
"""Figures of a cell that are told."""
_NAMES: Final = {"qemu": "QEMU", "kernel": "Kernel", "cpu": "CPU"}
_WORDS: Final = {PASS: "pass", FINDING: "finding", COULD_NOT_JUDGE: "could-not-judge"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CellView:
    """A cell.

    :ivar state: for the eye: `pass` if it ended as it must, else its word; `finding` if it passed and must not have.
    :ivar says: the state in words.
    :ivar choice: name and text of each part of its choice.
    :ivar run: what its folder has, None if it is not shown or is gone.
    :ivar output: of a cell that is not right and has no `run`: the last lines that its command printed.
    :ivar note: why there is no `run`, likewise.
    """

    anchor: str
    cell: Cell
    state: str
    says: str
    name: str
    choice: list[tuple[str, str]]
    seconds: float
    command: str
    figures: list[tuple[str, str]] = field(default_factory=list)
    more_figures: int = 0
    run: RunView | None = None
    output: Console | None = None
    note: str = ""

    @property
    def on(self) -> str:
        """What it ran on, in a line."""
        return ", ".join(filter(None, (self.cell.qemu, _kernel(self.cell), self.cell.cpu, f"seed {self.cell.seed}")))


class Coverage(NamedTuple):
    """A figure in per cent, and the cell that measured it."""

    name: str
    value: float
    text: str
    cell: CellView


class Head(NamedTuple):
    """A heading over `span` columns, or under others."""

    text: str
    span: int


class GridRow(NamedTuple):
    """`cells`: for each column, those of the row that are in it."""

    name: str
    cells: list[list[CellView]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """:ivar heads: rows of headings: each has a name, and headings that cover all columns.
    :ivar same: name and value of what is the same for all columns.
    """

    heads: list[tuple[str, list[Head]]]
    rows: list[GridRow]
    same: list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NightView:
    """:ivar word: the night's verdict.
    :ivar counts: cells by state, in the order of the page.
    :ivar whole: cells that are not right, with all that their folders have; `short`: those without.
    """

    night: Night
    folder: str
    word: str
    exit_code: int
    began: str
    took: str
    grid: Grid
    counts: list[tuple[str, int]]
    cells: list[CellView]
    whole: list[CellView]
    short: list[CellView]
    busy: str

    @property
    def coverage(self) -> list[Coverage]:
        """Each figure in per cent, by its name, the least first."""
        there = [
            Coverage(figure.name, statistics.median(figure.values), _figure(figure), view)
            for view in self.cells
            for figure in view.cell.figures
            if figure.unit == "%" and figure.values
        ]
        return sorted(there, key=lambda each: (each.name, each.value))

    @property
    def headline(self) -> str:
        """In a sentence, what became of the cells."""
        told = [f"{count:,} {state.replace('-', ' ')}" for state, count in self.counts]
        return f"{', '.join(told)} of {counted(len(self.cells), 'cell')}"


STATES: Final = ("finding", "flaky", "could-not-judge", "not-run", "pass")


def view(folder: Path, night: Night) -> NightView:
    """:param folder: of the night; those of its cells may be gone."""
    anchors = _anchors(night.cells)
    wrong = [cell for cell in night.cells if not cell.right]
    wrong.sort(key=lambda cell: STATES.index(_state(cell)))  # findings first; else in the matrix's order
    whole = {id(cell) for cell in wrong[:WHOLE] if cell.attempts}
    views = [
        _cell(folder, cell, anchor, read=id(cell) in whole) for cell, anchor in zip(night.cells, anchors, strict=True)
    ]
    by_cell = {id(each.cell): each for each in views}
    ended_as = Counter(each.state for each in views)
    ended = night.ended or max((_ended(cell) for cell in night.cells), default=night.began)
    return NightView(
        night=night,
        folder=str(folder),
        word=_WORDS[night.exit_code],
        exit_code=night.exit_code,
        began=when(night.began),
        took=span(night.pace.wall or max(ended - night.began, 0.0)),
        grid=_grid(views),
        counts=[(state, ended_as[state]) for state in STATES if ended_as[state]],
        cells=views,
        whole=[by_cell[id(cell)] for cell in wrong if id(cell) in whole],
        short=[by_cell[id(cell)] for cell in wrong if id(cell) not in whole],
        busy=f"{night.pace.busy:.2f} cores busy" if night.pace.busy else "",
    )


def _ended(cell: Cell) -> float:
    return cell.began + sum(each.seconds for each in cell.attempts)


def when(seconds: float) -> str:
    """A moment, as people write it."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def span(seconds: float) -> str:
    """`1 h 02 min`, `3 min 20 s`, `4.2 s`."""
    whole = round(seconds)
    if whole >= 3600:  # noqa: PLR2004 - an hour
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{seconds:.1f} s"  # noqa: PLR2004 - a minute


def _anchors(cells: Sequence[Cell]) -> list[str]:
    """The same on every night for the same cell: a link into yesterday's report fits today's."""
    seen: Counter[str] = Counter()
    out = []
    for cell in cells:
        digest = hashlib.sha256(f"{cell.id}\n{cell.seed}".encode(errors="replace")).hexdigest()[:12]
        seen[digest] += 1
        out.append(f"cell-{digest}" + (f"-{seen[digest]}" if seen[digest] > 1 else ""))
    return out


# -- a cell


def _cell(folder: Path, cell: Cell, anchor: str, *, read: bool) -> CellView:
    run, note = _folder_of(folder, cell, anchor) if read else (None, "")
    if not (read or cell.right):
        note = f"more of it is in {folder / _telling(cell).folder}" if cell.attempts else ""
    return CellView(
        anchor=anchor,
        cell=cell,
        state=_state(cell),
        says=_says(cell),
        name=" ".join(filter(None, (cell.kind, cell.scenario, cell.topology))),
        choice=list(_choice(cell)),
        seconds=sum(each.seconds for each in cell.attempts),
        command=typed(cell.command[1:]) if cell.command[:1] == ["tcelab"] else shlex.join(cell.command),
        figures=[(each.name, _figure(each)) for each in cell.figures[:FIGURES]],
        more_figures=max(0, len(cell.figures) - FIGURES),
        run=run,
        output=_output(folder, cell) if read and run is None else None,
        note=note,
    )


def _telling(cell: Cell) -> Attempt:
    """The attempt whose folder tells most: the first with a finding, else the last."""
    return next((each for each in cell.attempts if each.word == "finding"), cell.attempts[-1])


def _folder_of(folder: Path, cell: Cell, anchor: str) -> tuple[RunView | None, str]:
    """What there is of a cell, or why there is nothing."""
    if not cell.attempts:
        return None, ""
    name = _telling(cell).folder
    if not name or cell.kind in {"bench", "command"}:
        return None, ""
    if not _inside(name):
        return None, f"{name} is no folder of the night"
    try:
        told = folders.read(folder / name)
    except UsageError as error:
        return None, f"its artefacts are not there: {error.message}"
    if isinstance(told, Night):
        return None, f"{name} holds a night"
    return runview.view(folder / name, told, anchor, MOST_OF_CELL), ""


def _inside(name: str) -> bool:
    return bool(name) and ".." not in Path(name).parts and not Path(name).is_absolute()


def _output(folder: Path, cell: Cell) -> Console | None:
    """The last lines that the command printed."""
    name = _telling(cell).folder if cell.attempts else ""
    return consolelines.last(folder / name, folders.OUTPUT) if _inside(name) else None


def _state(cell: Cell) -> str:
    if cell.right:
        return "pass"
    return "finding" if cell.word == "pass" else cell.word


def _says(cell: Cell) -> str:
    word = cell.word.replace("-", " ")
    if cell.expected == "pass":
        return word
    expected = cell.expected.replace("-", " ")
    return f"{word}, as it must be" if cell.right else f"{word}, must be {expected}"


def _choice(cell: Cell) -> Iterator[tuple[str, str]]:
    for name in ("qemu", "image", "kernel", "cpu", "topology", "mutant"):
        if value := getattr(cell, name):
            yield _NAMES.get(name, name), value
    for name, value in cell.options.items():
        yield name, str(value)
    yield "seed", str(cell.seed)


def _figure(figure: CellFigure) -> str:
    if not figure.values:
        return "nothing"
    middle = number(statistics.median(figure.values))
    spread = f" ({number(min(figure.values))} to {number(max(figure.values))})" if len(figure.values) > 1 else ""
    return f"{middle} {figure.unit}{spread}"


def number(value: float) -> str:
    """`12,599,296`, `0.04187`."""
    return f"{value:,.0f}" if value.is_integer() or abs(value) >= _LARGE else f"{value:.4g}"


# -- the grid


Column: TypeAlias = tuple[str, str, str]
"""QEMU, kernel and CPU."""


def _kernel(cell: Cell) -> str:
    return " on ".join(filter(None, (cell.kernel, cell.image)))


def _column(cell: Cell) -> Column:
    return cell.qemu, _kernel(cell), cell.cpu


def _row(cell: Cell) -> str:
    options = " ".join(f"{name}={value}" for name, value in cell.options.items())
    broken = f"broken: {cell.mutant}" if cell.mutant else ""
    return " ".join(filter(None, (cell.kind, cell.scenario, cell.topology, broken, options)))


def _grid(views: Sequence[CellView]) -> Grid:
    """Rows: what is run; columns: on what. A row of headings for each of QEMU, kernel and CPU that is not the same
    everywhere.
    """
    columns = _in_order([_column(each.cell) for each in views])
    rows = dict.fromkeys(_row(each.cell) for each in views)
    there: dict[tuple[str, Column], list[CellView]] = {}
    for each in views:
        there.setdefault((_row(each.cell), _column(each.cell)), []).append(each)
    kinds = list(_NAMES.values())
    differs = [level for level in range(len(kinds)) if len({each[level] for each in columns}) > 1]
    heads = [(kinds[level], list(_heads(columns, level))) for level in differs] or [
        ("What", [Head("Ended", len(columns))])
    ]
    same = [(kinds[level], columns[0][level]) for level in range(len(kinds)) if columns and level not in differs]
    return Grid(
        heads=heads or [("What", [Head("Ended", 1)])],
        rows=[GridRow(row, [there.get((row, column), []) for column in columns]) for row in rows],
        same=[(name, value) for name, value in same if value],
    )


def _in_order(columns: Sequence[Column]) -> list[Column]:
    """Each once, in the matrix's order, and those with the same QEMU side by side, then those with the same kernel."""
    firsts = [{value: i for i, value in reversed(list(enumerate(level)))} for level in zip(*columns, strict=True)]
    return sorted(set(columns), key=lambda each: [first[value] for first, value in zip(firsts, each, strict=True)])


def _heads(columns: Sequence[Column], level: int) -> Iterator[Head]:
    for key, group in groupby(columns, key=lambda each: each[: level + 1]):
        yield Head(key[-1] or "any", len(list(group)))
