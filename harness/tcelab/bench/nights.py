"""How fast a history answers: a made one of many nights, each question asked in turns."""

from __future__ import annotations

import logging
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tcelab.bench import Figure, Measured
from tcelab.bench.benchguests import host_cpu
from tcelab.history import compare, queries
from tcelab.history.nightfile import Attempt, Cell, CellFigure, FoundInCell, Night
from tcelab.history.store import History
from tcelab.logs import NOTE

_LOG: Final = logging.getLogger(__name__)
CELLS: Final = 1000
"""Of each night."""
_DAY: Final = 86400.0
_KINDS: Final = 97
"""Different findings; each cell in ten has one."""


def measure(nights: int, repeat: int) -> Measured:
    """Make a history of `nights` nights in a folder of its own, and ask it everything `repeat` times."""
    with tempfile.TemporaryDirectory(prefix="tcelab-history-") as folder, History(Path(folder) / "h.sqlite") as history:
        _LOG.info("making %d nights of %d cells", nights, CELLS, extra=NOTE)
        chance = random.Random(1)  # noqa: S311 - repeats exactly, that is the point
        for number in range(nights):
            history.end(_night(number, chance))
        last = _night(nights - 1, chance)
        questions: dict[str, Callable[[], object]] = {
            "list": lambda: queries.nights(history, 20),
            "compare": lambda: compare.compare(history),
            "finding": lambda: queries.finding(history, f"{1:016x}"),
            "cell": lambda: queries.cell(history, "cell-10"),
            "record a cell": lambda: history.record(last, last.cells[0]),
        }
        figures = {name: [_seconds(ask) * 1e3 for _ in range(repeat)] for name, ask in questions.items()}
        size = history.path.stat().st_size / 1e6
    measured = [Figure(name, "ms", values) for name, values in figures.items()]
    return Measured(
        figures=[*measured, Figure("the file", "MB", [size])], on={"host": host_cpu(), "nights": str(nights)}
    )


def _seconds(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def _night(number: int, chance: random.Random) -> Night:
    began = (1 + number) * _DAY
    cells = [_cell(at, began + at, chance) for at in range(CELLS)]
    name = f"night-{number:06d}"
    return Night(id=name, tcelab="0", began=began, ended=began + CELLS, matrix="made", matrix_sha256="", cells=cells)


def _cell(number: int, began: float, chance: random.Random) -> Cell:
    bad = number % 10 == 0
    key = f"{number // 10 % _KINDS:016x}"
    found = FoundInCell(
        key=key, law="table", operation="ioctl MAP_DMA", errno="", difference=key, message=f"IOBA {key}"
    )
    return Cell(
        id=f"cell-{number}",
        kind="run",
        scenario=f"scenario{number}",
        qemu="qemu",
        cpu=f"power{8 + number % 4}",
        command=["tcelab", "run", f"scenario{number}"],
        word="finding" if bad else "pass",
        expected="finding" if bad else "pass",
        attempts=[
            Attempt(word="finding" if bad else "pass", exit_code=int(bad), seconds=2.0, folder=f"cells/{number}")
        ],
        began=began,
        versions={"qemu": {"version": "11.1"}, "guest": {"kernel": "6.12"}},
        findings=[found] if bad else [],
        figures=[
            CellFigure(
                name=f"figure {each}", unit="ms", values=[chance.gauss(10, 0.3) for _ in range(5)], better="lower"
            )
            for each in range(4)
        ],
    )
