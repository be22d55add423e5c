"""Draws a table around a finding: how full the window was at the checkpoint before and at that of the finding, and the
entries around the wrong one, as they were, should be, and are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from tcelab.judge import Finding
from tcelab.papr import tce
from tcelab.report.tabledump import heading
from tcelab.report.tableview import cells
from tcelab.run.record import TableView

LEFT, WIDTH = 74, 560
"""Pixels: where each row of a drawing begins, and how long it is."""
_BINS: Final = 112
_SIDE: Final = 8
"""Entries that are drawn on either side of the wrong one."""
_ROW: Final = 30
"""Pixels from one row to the next."""

_PERMISSIONS: Final = re.compile(r"\((?:.*, )?(read-write|read|write|none|empty)\)")
_LETTERS: Final = {"read-write": "RW", "read": "R", "write": "W", "none": "0", "empty": "", "unknown": "?"}
UNKNOWN: Final = "unknown"


class Stretch(NamedTuple):
    """Neighbouring parts of a window that are equally full. `level`: 0 empty to 4 full."""

    x: float
    width: float
    level: int


class Square(NamedTuple):
    """One entry. `kind`: its permissions, `empty` or `unknown`; `wrong`: it is not what it should be."""

    x: float
    kind: str
    letters: str
    wrong: bool


class Label(NamedTuple):
    """A text on an axis, and how it stands at its place: `start`, `middle` or `end`."""

    x: float
    anchor: str
    text: str


class Row(NamedTuple):
    """`parts`: stretches of the window, or squares."""

    y: float
    name: str
    parts: Sequence[Stretch] | Sequence[Square]


class Picture(NamedTuple):
    """Rows above an axis of bus addresses. `marks`: where the wrong entries are, that of the finding first."""

    rows: list[Row]
    axis: list[Label]
    marks: list[float]
    height: float
    says: str


class Drawing(NamedTuple):
    """:ivar heading: of the table; `window`, `entries`: its two pictures."""

    heading: str
    window: Picture
    entries: Picture
    side: float


def draw(
    finding: Finding, beside: Sequence[Finding], before: Mapping[int, TableView], seen: Mapping[int, TableView]
) -> Drawing | None:
    """None: the finding is about no entry, or its table was not kept.

    :param beside: findings at the same checkpoint.
    :param before: the tables at the checkpoint before, if they were kept; `seen`: those of the finding.
    """
    view = seen.get(finding.liobn) if finding.liobn is not None else None
    if view is None or finding.ioba is None or not view.entries:
        return None
    number = (finding.ioba - view.bus_offset) >> view.page_shift
    there = [each for each in (finding, *beside) if each.liobn == finding.liobn and each.ioba is not None]
    wrong = {((each.ioba or 0) - view.bus_offset) >> view.page_shift: each for each in reversed(there)}
    last = before.get(view.liobn)
    if last is not None and (last.entries, last.page_shift, last.bus_offset) != _shape(view):
        last = None  # another window: its entries are at other places
    return Drawing(
        heading(view),
        _window(view, last, number, [number, *(each for each in wrong if each != number)]),
        _entries(view, last, number, wrong),
        WIDTH / (2 * _SIDE + 1),
    )


def _shape(view: TableView) -> tuple[int, int, int]:
    return view.entries, view.page_shift, view.bus_offset


# -- the whole window


def _window(view: TableView, last: TableView | None, number: int, wrong: Sequence[int]) -> Picture:
    rows = [("before", last), ("seen", view)] if last is not None else [("seen", view)]
    drawn = [Row(_ROW * i, name, list(_stretches(each))) for i, (name, each) in enumerate(rows) if each is not None]
    inside = [LEFT + WIDTH * (min(max(each, 0), view.entries) + 0.5) / view.entries for each in wrong]
    ends = (0, "start"), (view.entries // 2, "middle"), (view.entries, "end")
    axis = [Label(LEFT + WIDTH * at / view.entries, anchor, f"{view.ioba(at):#x}") for at, anchor in ends]
    live = [f"{len(each.index):,} live entries {name}" for name, each in rows if each is not None]
    size = cells(view, _BINS)[0]
    says = (
        f"Occupancy of the window from {view.bus_offset:#x} to {view.ioba(view.entries):#x}, in parts of {size:,} "
        f"entries: {', '.join(live)}. The wrong entry is at {view.ioba(number):#x}."
    )
    return Picture(drawn, axis, inside[:_BINS], _ROW * len(drawn), says)


def _stretches(view: TableView) -> Iterator[Stretch]:
    size, levels = cells(view, _BINS)
    bounds = [0, *(np.flatnonzero(np.diff(levels)) + 1).tolist(), len(levels)]
    for begin, end in pairwise(bounds):
        first, after = begin * size, min(end * size, view.entries)
        yield Stretch(
            round(LEFT + WIDTH * first / view.entries, 1),
            round(WIDTH * (after - first) / view.entries, 1),
            int(levels[begin]),
        )


# -- the entries around the wrong one


def _entries(view: TableView, last: TableView | None, number: int, wrong: Mapping[int, Finding]) -> Picture:
    first = max(0, min(number - _SIDE, view.entries - 2 * _SIDE - 1))
    numbers = range(first, min(first + 2 * _SIDE + 1, max(view.entries, number + 1)))
    now, then = _kinds(view, numbers), None if last is None else _kinds(last, numbers)
    right = [_kind(wrong[each].expected) if each in wrong else kind for each, kind in zip(numbers, now, strict=True)]
    rows = [("before", then), ("expected", right), ("seen", now)]
    side = WIDTH / (2 * _SIDE + 1)
    drawn: list[Row] = []
    for name, kinds in rows:
        if kinds is None:
            continue
        squares = [
            Square(round(LEFT + side * i, 1), kind, _LETTERS[kind], name == "seen" and each in wrong)
            for i, (each, kind) in enumerate(zip(numbers, kinds, strict=True))
        ]
        drawn.append(Row((side + 4) * len(drawn), name, squares))
    at = number - first
    middle = Label(LEFT + side * (at + 0.5), "middle", f"{view.ioba(number):#x}")
    ends = (
        Label(LEFT, "start", f"{view.ioba(numbers[0]):#x}"),
        Label(LEFT + WIDTH, "end", f"{view.ioba(numbers[-1]):#x}"),
    )
    room = 3
    axis = [*([ends[0]] if at > room else []), middle, *([ends[1]] if at < len(numbers) - 1 - room else [])]
    marks = [LEFT + side * (each - first + 0.5) for each in (number, *wrong) if each in numbers]
    says = f"Entries from {view.ioba(numbers[0]):#x} to {view.ioba(numbers[-1]):#x}. At {view.ioba(number):#x}: " + (
        ", ".join(f"{name} {kinds[at]}" for name, kinds in rows if kinds is not None)
    )
    return Picture(drawn, axis, marks[:1], (side + 4) * len(drawn), says)


def _kinds(view: TableView, numbers: range) -> list[str]:
    begin, end = np.searchsorted(view.index, [numbers.start, numbers.stop]).tolist()
    there = dict(zip(view.index[begin:end].tolist(), view.tce[begin:end].tolist(), strict=True))
    return [tce.PERMISSION_NAMES[tce.permissions(there[each])] if each in there else "empty" for each in numbers]


def _kind(told: str) -> str:
    """Of an entry as a finding tells it: `0x0000000007466003 (page 0x7466000, read-write)`, `0 (empty)`."""
    found = _PERMISSIONS.search(told)
    return found[1] if found is not None else UNKNOWN
