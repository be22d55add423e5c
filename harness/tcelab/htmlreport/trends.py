"""Trends over several nights: how the cells ended, and each figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

from tcelab.history.nightfile import Night
from tcelab.htmlreport.nightview import STATES, number, when

WIDTH, HEIGHT = 240, 56
"""Pixels of a plot of one figure."""
_EDGE: Final = 6
FIGURES: Final = 80
"""Figures that are plotted."""
NIGHTS: Final = 60
"""Nights that are shown, the last ones."""


class Bar(NamedTuple):
    """One night's cells that were not right: for each state that there is, its part of the column from the bottom up.

    :ivar parts: state, top and height of each; `total`: how many they are, written at `top`.
    """

    x: float
    width: float
    parts: list[tuple[str, float, float]]
    top: float
    total: int
    says: str


class NightRow(NamedTuple):
    """The same in numbers. `counts`: by state, in the order of `STATES`."""

    name: str
    began: str
    counts: list[int]


class Plot(NamedTuple):
    """One figure. `points`: places of its medians; `line`: the same for a polyline."""

    name: str
    where: str
    unit: str
    points: list[tuple[float, float]]
    line: str
    last: str
    change: str
    better: str
    low: str
    high: str
    says: str


class _Key(NamedTuple):
    name: str
    where: str
    unit: str
    better: str


class Trends(NamedTuple):
    """:ivar more: figures that are not plotted."""

    bars: list[Bar]
    rows: list[NightRow]
    states: list[str]
    plots: list[Plot]
    more: int


BARS: Final = 620
"""Pixels of all bars together, and `BAR`: of the highest."""
BAR: Final = 120
_LABEL: Final = 16
"""Pixels above the highest bar, for its number."""


def of(nights: Sequence[Night]) -> Trends | None:
    """The trends of nights, in any order; None: there are fewer than two."""
    ordered = sorted({each.id: each for each in nights}.values(), key=lambda each: each.began)[-NIGHTS:]
    if len(ordered) < 2:  # noqa: PLR2004 - one night has no trend
        return None
    rows = [NightRow(each.id, when(each.began), _counts(each)) for each in ordered]
    most = max(1, *(_wrong(each) for each in rows))
    step = BARS / len(rows)
    bars = [_bar(row, step * i, step * 0.8, most) for i, row in enumerate(rows)]
    figures: dict[_Key, list[tuple[int, float]]] = {}
    for i, night in enumerate(ordered):
        for cell in night.cells:
            where = " ".join(filter(None, (cell.kind, cell.scenario, cell.qemu, cell.kernel or cell.image, cell.cpu)))
            for figure in cell.figures:
                values = [each for each in figure.values if math.isfinite(each)]
                key = _Key(figure.name, f"{where} {cell.topology}".strip(), figure.unit, figure.better)
                if values:
                    figures.setdefault(key, []).append((i, statistics.median(values)))
    plots = [_plot(key, told, len(ordered)) for key, told in figures.items() if len({i for i, _ in told}) > 1]
    return Trends(bars, rows, list(STATES), plots[:FIGURES], max(0, len(plots) - FIGURES))


def _counts(night: Night) -> list[int]:
    words = ["pass" if cell.right else "finding" if cell.word == "pass" else cell.word for cell in night.cells]
    return [words.count(state) for state in STATES]


def _wrong(row: NightRow) -> int:
    return sum(count for state, count in zip(STATES, row.counts, strict=True) if state != "pass")


def _bar(row: NightRow, x: float, width: float, most: int) -> Bar:
    counts = dict(zip(STATES, row.counts, strict=True))
    parts, top = [], float(BAR)
    for state in reversed(STATES):
        if counts[state] and state != "pass":
            height = (BAR - _LABEL) * counts[state] / most
            top -= height
            parts.append((state, round(top, 1), round(height, 1)))
    said = ", ".join(f"{count} {state.replace('-', ' ')}" for state, count in counts.items() if count)
    return Bar(round(x, 1), round(width, 1), parts, round(top, 1), _wrong(row), f"{row.began}: {said or 'no cells'}")


def _plot(key: _Key, told: Sequence[tuple[int, float]], nights: int) -> Plot:
    name, where, unit, better = key
    values = [value for _, value in told]
    low, high = min(values), max(values)
    room = (high - low) or abs(high) or 1.0
    points = [
        (
            round(_EDGE + (WIDTH - 2 * _EDGE) * i / (nights - 1), 1),
            round(HEIGHT - _EDGE - (HEIGHT - 2 * _EDGE) * (value - low) / room, 1),
        )
        for i, value in told
    ]
    first, last = values[0], values[-1]
    change = f"{(last - first) / abs(first) * 100:+.1f} %" if first else ""
    return Plot(
        name,
        where,
        unit,
        points,
        " ".join(f"{x},{y}" for x, y in points),
        f"{number(last)} {unit}",
        change,
        _judged(last - first, better),
        number(low),
        number(high),
        f"{name} on {len(told)} nights, from {number(first)} to {number(last)} {unit}",
    )


def _judged(change: float, better: str) -> str:
    """Since the first night: `better`, `worse`, or empty where neither way is better."""
    if not change or not better:
        return ""
    return "better" if (change < 0) == (better == "lower") else "worse"
