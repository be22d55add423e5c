"""The figure of `tcelab bench batch`: what a call costs and how many pages a second that makes, against the batch size.

matplotlib comes with the extra `plot`; nothing else of tcelab needs it.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tcelab.bench import Fit, Measured, ways
from tcelab.bench.batch import CALLS, KINDS, curve
from tcelab.errors import Unsupported, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS: Final = (".svg", ".png")
_COLOURS: Final = {"map": "#1f5fa8", "unmap": "#c05a12"}
_NAMES: Final = {"map": "MAP_DMA", "unmap": "UNMAP_DMA"}
_MARKERS: Final = {"map": "o", "unmap": "s"}
_WAYS: Final = {
    ways.AGENT: ("#1f5fa8", "o"),
    ways.NATIVE: ("#6a3d9a", "^"),
    ways.PUT: ("#c05a12", "s"),
    ways.INDIRECT: ("#2a7f3f", "D"),
}
_STYLE: Final[Any] = {
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "tcelab",
}
_MOST_TICKS: Final = 9
_THOUSAND: Final = 1000.0
_ROOM: Final = 1.03
_LEGEND_ROOM: Final = 1.12

Quarters = tuple[list[float], list[float], list[float]]


def check(path: Path) -> None:
    """Before anything is measured.

    :raise UsageError: no picture of that kind is drawn.
    :raise Unsupported: matplotlib is not installed.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"--plot {path}: a picture ends with {' or '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise Unsupported("--plot needs matplotlib, which is not installed", next_step="pip install 'tcelab[plot]'")


def draw(measured: Measured, path: Path) -> None:
    """The same figures give the same file, byte by byte, with one version of matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow
    from matplotlib.figure import Figure as Picture  # noqa: PLC0415

    with mpl.rc_context(_STYLE):
        others = ways.curves(measured.figures)
        picture = Picture(figsize=(15.5 if others else 10.5, 5.0), dpi=150)
        cost, rate, *more = picture.subplots(1, 3 if others else 2)
        fits = {fit.name: fit for fit in measured.fits}
        sizes = sorted(curve(measured.figures, KINDS[0]))
        for kind in KINDS:
            values = curve(measured.figures, kind)
            _cost(cost, kind, values, fits.get(kind))
            _rate(rate, kind, values, fits.get(kind))
        cost.set(title="What a call of n pages takes", ylabel="microseconds per call")
        rate.set(title="Pages per second, in calls of n pages", ylabel="thousand pages per second")
        for axes in (cost, rate):
            axes.set(xlabel="n, pages per call", xlim=(0, sizes[-1] * _ROOM), xticks=_ticks(sizes))
        cost.set_ylim(0, cost.get_ylim()[1] * _LEGEND_ROOM)
        rate.set_ylim(0, rate.get_ylim()[1])
        cost.legend(loc="upper left")
        rate.legend(loc="lower right", fontsize=8.5)
        for axes in more:
            _others(axes, others)
            axes.set(xlabel="n, pages per batch", xlim=(0, sizes[-1] * _ROOM), xticks=_ticks(sizes))
        picture.suptitle(_title(measured), x=0.012, ha="left", fontsize=12.5)
        picture.text(0.012, 0.012, _caption(measured), fontsize=8, color="#555555", va="bottom")
        picture.subplots_adjust(left=0.062, right=0.985, top=0.85, bottom=0.235, wspace=0.19)
        picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _cost(axes: Axes, kind: str, values: dict[int, list[float]], fit: Fit | None) -> None:
    sizes = sorted(values)
    low, middle, high = _quarters([values[n] for n in sizes])
    errors = [[m - a for m, a in zip(middle, low, strict=True)], [c - m for m, c in zip(middle, high, strict=True)]]
    label = _NAMES[kind]
    if fit is not None:
        label += f": {fit.call:.1f} µs + n · {fit.page:.2f} µs (residual {fit.residual:.1f} µs)"
        ends = [0, sizes[-1]]
        axes.plot(ends, [fit.at(n) for n in ends], color=_COLOURS[kind], linewidth=1, alpha=0.7)
    axes.errorbar(
        sizes, middle, errors, fmt=_MARKERS[kind], markersize=3.5, elinewidth=1.6, color=_COLOURS[kind], label=label
    )


def _rate(axes: Axes, kind: str, values: dict[int, list[float]], fit: Fit | None) -> None:
    sizes = sorted(values)
    rates = [[n * _THOUSAND / each for each in values[n]] for n in sizes]
    low, middle, high = _quarters(rates)
    colour = _COLOURS[kind]
    axes.fill_between(sizes, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.plot(sizes, middle, _MARKERS[kind], markersize=3.5, color=colour, label=_NAMES[kind])
    if fit is not None:
        steps = [sizes[-1] * i / 200 for i in range(201)]
        whole = [n * _THOUSAND / (fit.call + n * fit.page) for n in steps]
        axes.plot(steps, whole, color=colour, linewidth=1, alpha=0.7)
        free = _THOUSAND / fit.page if fit.page > 0 else 0.0
        label = f"{_NAMES[kind]}, if a call cost nothing: {free:.0f}"
        axes.axhline(free, color=colour, linewidth=1.1, linestyle=(0, (2, 2)), label=label)


def _others(axes: Axes, others: dict[str, dict[int, list[float]]]) -> None:
    """Curves of rates that are far from each other."""
    for way, values in others.items():
        sizes = sorted(values)
        low, middle, high = _quarters([[each / _THOUSAND for each in values[n]] for n in sizes])
        colour, marker = _WAYS[way]
        axes.fill_between(sizes, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(sizes, middle, marker, linestyle="-", linewidth=1, markersize=3.5, color=colour, label=way)
    axes.set(title="Ways into a table, by the size of a batch", ylabel="thousand pages per second", yscale="log")
    axes.legend(loc="lower right", fontsize=8.5)


def _quarters(rows: Sequence[Sequence[float]]) -> Quarters:
    """First quartile, median, third quartile of each row."""
    cut = [statistics.quantiles(row, n=4, method="inclusive") if len(row) > 1 else [row[0]] * 3 for row in rows]
    return [c[0] for c in cut], [c[1] for c in cut], [c[2] for c in cut]


def _ticks(sizes: Sequence[int]) -> list[int]:
    """Each size if they are few; else round ones, and the first."""
    if len(sizes) <= _MOST_TICKS:
        return list(sizes)
    step = next(each for each in (2, 4, 8, 16, 32, 64, 128, 256, 512) if sizes[-1] // each < _MOST_TICKS)
    return [sizes[0], *range(step, sizes[-1] + 1, step)]


def _title(measured: Measured) -> str:
    title = "Batches in the sPAPR TCE VFIO driver"
    worth = [f"{fit.call / fit.page:.1f} pages to {fit.name}" for fit in measured.fits if fit.page > 0]
    return f"{title}: a call itself costs as much as {', '.join(worth)}" if worth else title


def _caption(measured: Measured) -> str:
    on = {name: measured.on.get(name, "?") for name in ("host", "kernel", "qemu")}
    turns = len(measured.figures[0].values)
    ways_of = next((each for rates in ways.curves(measured.figures).values() for each in rates.values()), [])
    third = f" Ways: median of {len(ways_of)} turns; of VFIO, pairs of a map and an unmap." if ways_of else ""
    return (
        f"Linux {on['kernel']}, pseries guest, QEMU {on['qemu']}, host {on['host']}.\n"
        f"Points: median of {turns} turns of {CALLS} calls each, by the guest's clock; bars and bands: the middle half "
        "of the turns; lines: the least-squares fit.\n"
        "Maps go to empty entries, unmaps to live ones, in pages of 4 KiB. All of it is emulated: the shape may carry "
        f"over to hardware, the numbers do not.{third}"
    )
