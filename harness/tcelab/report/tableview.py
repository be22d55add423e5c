"""The display of `tcelab watch`: occupancy of each table as a map of shades, permissions, rates, and the last
violations.

A cell of the map stands for a range of entries, the same power of two for all cells of a table. It is empty only if all
its entries are, and full only if none of them is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.text import Text

from tcelab.papr import tce
from tcelab.report.tabledump import bytes_of
from tcelab.run.record import TableView

if TYPE_CHECKING:
    from tcelab.qemu.livesample import LiveSample

SHADES: Final = "·░▒▓█"
ASCII: Final = ".:+#@"
"""The shades for a terminal with ASCII only."""
_STYLES: Final = ("grey30", "green", "bright_green", "yellow", "bold bright_white")
_MARGIN: Final = 2
_OVERHEAD: Final = 2
"""Lines of a table beside its map."""
_MOST_ROWS: Final = 12
_VIOLATIONS: Final = 3
_SPAN: Final = 1.0
"""Seconds over which a rate is taken."""


class Rate(NamedTuple):
    """Entries mapped and unmapped per second. An entry whose TCE changed counts as both."""

    maps: float
    unmaps: float


def changes(before: TableView, after: TableView) -> tuple[int, int]:
    """Entries mapped and unmapped between two samples of a table of one shape. Changes in between are missed, so these
    are lower bounds.
    """
    common, old, new = np.intersect1d(before.index, after.index, assume_unique=True, return_indices=True)
    replaced = int(np.count_nonzero(before.tce[old] != after.tce[new]))
    return len(after.index) - len(common) + replaced, len(before.index) - len(common) + replaced


def permissions(view: TableView) -> dict[str, int]:
    """How many live entries let a device read (R), write (W), both (RW), or neither."""
    counts = np.bincount((view.tce & np.uint64(tce.PERMISSIONS)).astype(np.int64), minlength=4).tolist()
    return {"R": counts[tce.READ], "W": counts[tce.WRITE], "RW": counts[tce.PERMISSIONS], "none": counts[0]}


def cells(view: TableView, most: int) -> tuple[int, npt.NDArray[np.int64]]:
    """How full each cell is: 0 empty, 4 full, in between by thirds.

    :param most: cells.
    :return: entries of a cell, and the levels (shape (n,)), as many cells as the table needs.
    """
    size = 1
    while -(-view.entries // size) > most:
        size *= 2
    count = -(-view.entries // size)
    live = np.bincount(view.index // np.uint32(size), minlength=count)
    room = np.full(count, size)
    if count:
        room[-1] = view.entries - (count - 1) * size
    levels = 1 + np.minimum(live * 3 // np.maximum(room, 1), 2)
    levels[live == 0] = 0
    levels[live == room] = len(SHADES) - 1
    return size, levels.astype(np.int64)


def busiest(tables: Sequence[TableView], most: int) -> list[TableView]:
    """The given number of tables, in their order; if there are more, the fullest ones."""
    first = sorted(range(len(tables)), key=lambda number: -len(tables[number].index))[:most]
    return [tables[number] for number in sorted(first)]


class Watching:
    """The samples of one guest so far.

    :ivar looks: how many samples were taken; `seen`: how many of them showed a table.
    :ivar last: the last sample.
    :ivar most: by LIOBN, the most entries that were live in one sample.
    """

    def __init__(self) -> None:
        self.looks = self.seen = 0
        self.last: LiveSample | None = None
        self.most: dict[int, int] = {}
        self._before: dict[int, tuple[float, TableView]] = {}
        self._counted: dict[int, deque[tuple[float, float, int, int]]] = {}

    def add(self, look: LiveSample) -> None:
        """One more."""
        self.looks += 1
        self.seen += bool(look.tables)
        self.last = look
        for view in look.tables:
            self.most[view.liobn] = max(self.most.get(view.liobn, 0), len(view.index))
            at, before = self._before.get(view.liobn, (look.at, view))
            counted = self._counted.setdefault(view.liobn, deque())
            if (before.entries, before.page_shift, before.bus_offset) != (
                view.entries,
                view.page_shift,
                view.bus_offset,
            ):
                counted.clear()  # another window: its entries are not comparable
            elif look.at > at:
                counted.append((look.at, look.at - at, *changes(before, view)))
            while counted and counted[0][0] <= look.at - _SPAN:
                counted.popleft()
            self._before[view.liobn] = look.at, view

    def rate(self, liobn: int) -> Rate:
        """Over the last second."""
        counted = self._counted.get(liobn, ())
        seconds = sum(each[1] for each in counted)
        if not seconds:
            return Rate(0.0, 0.0)
        return Rate(sum(each[2] for each in counted) / seconds, sum(each[3] for each in counted) / seconds)

    # -- as text

    def line(self) -> str:
        """All in one line, for a log."""
        if self.last is None:
            return "nothing has been seen yet"
        if not self.last.tables:
            return f"no table is seen: {self.last.unseen}"
        busy = [each for each in self.last.tables if len(each.index) or any(self.rate(each.liobn))]
        parts = [f"LIOBN {view.liobn:#x}: {self._numbers(view)}" for view in busy]
        if quiet := len(self.last.tables) - len(busy):
            parts.append(f"{quiet} {'empty tables' if quiet > 1 else 'empty table'}")
        return "; ".join([*parts, f"{self.last.refused} refused accesses"])

    def _numbers(self, view: TableView) -> str:
        kinds = ", ".join(f"{name} {n:,}" for name, n in permissions(view).items() if n or name != "none")
        rate = self.rate(view.liobn)
        return f"{len(view.index):,} live ({kinds}), +{rate.maps:,.0f}/s -{rate.unmaps:,.0f}/s"

    def summary(self) -> str:
        """The final summary of the watcher; never empty."""
        if not self.seen:
            why = self.last.unseen if self.last is not None else "there was no guest to look at, or it ended at once"
            return f"the watcher saw no table in {self.looks} looks: {why}"
        most = ", ".join(f"LIOBN {liobn:#x} {count:,}" for liobn, count in sorted(self.most.items()))
        refused = self.last.refused if self.last is not None else 0
        blind = f"; in {self.looks - self.seen} of them no table was seen" if self.looks > self.seen else ""
        return f"watched in {self.looks} looks{blind}; most entries live at once: {most}; {refused} refused accesses"

    def screen(self, width: int, height: int, head: Sequence[str], shades: str = SHADES) -> Text:
        """At most as many lines as the terminal has, each within its width.

        :param head: lines above the tables.
        """
        lines = [Text(each, "bold") for each in head]
        tail = self._tail()
        tables = self.last.tables if self.last is not None else ()
        if not tables:
            lines.append(Text(self.line(), "yellow"))
        room = max(0, height - len(lines) - len(tail))
        shown = busiest(tables, max(1, room // (_OVERHEAD + 1)))
        rows = max(1, min(_MOST_ROWS, room // max(1, len(shown)) - _OVERHEAD)) if shown else 0
        for view in shown:
            lines += self._table(view, width, rows, shades)
        if hidden := [each for each in tables if all(each is not other for other in shown)]:
            live = sum(len(each.index) for each in hidden)
            lines[-1] = Text(f"and {len(hidden)} more tables, {live:,} live: enlarge the terminal", "dim")
        lines += tail
        for line in lines:
            line.truncate(width)
        return Text("\n").join(lines[:height])

    def _tail(self) -> list[Text]:
        if self.last is None or not self.last.refused:
            return [Text("no violations", "dim")]
        told = [Text(each, "red") for each in self.last.violations[-_VIOLATIONS:]]
        many = f"{self.last.refused:,} violations, the last:" if self.last.refused > 1 else "1 violation:"
        return [Text(many, "bold red"), *told]

    def _table(self, view: TableView, width: int, rows: int, shades: str) -> list[Text]:
        columns = max(1, width - 2 * _MARGIN)
        size, levels = cells(view, columns * rows)
        lines = [
            Text(f"LIOBN {view.liobn:#x}: {self._numbers(view)}", "bold cyan"),
            Text(
                f"  {view.entries:,} entries of {bytes_of(1 << view.page_shift)} from {view.bus_offset:#x}; a cell is "
                f"{size:,} ({bytes_of(size << view.page_shift)})",
                "dim",
            ),
        ]
        for begin in range(0, len(levels), columns):
            row = Text(" " * _MARGIN)
            for level in levels[begin : begin + columns].tolist():
                row.append(shades[level], _STYLES[level])
            lines.append(row)
        return lines
