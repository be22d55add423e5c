"""`tcelab report`: a run or a night as one HTML file that needs no network.

- `consolelines`: lines of a guest's console around a finding
- `excerpt`: the part of a program that shows a finding
- `findingview`: a finding with what explains it
- `folders`: reads the folder of a run or a night
- `nightview`: a night: its matrix as a grid, its cells
- `occupancy`: draws the table around a wrong entry
- `page`: puts the page together
- `past`: what the history knows of the nights before
- `pestory`: draws what befell a PE
- `runview`: a run, a series, a leak check, a campaign
- `safetext`: what a guest printed, so that it can be looked at
- `trends`: figures over several nights
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import tcelab
from tcelab.history.nightfile import Night
from tcelab.history.store import History
from tcelab.htmlreport import folders, nightview, page, past, pestory, runview, trends
from tcelab.htmlreport.folders import nights

__all__ = ["build", "nights"]


def build(folder: Path, others: Sequence[Night] = (), history: History | None = None) -> bytes:
    """The report on a folder, as HTML in UTF-8.

    :param others: further nights, for the trends.
    :param history: of a night: tells further nights of its matrix, and what changed since the last one.
    :raise UsageError: nothing of which a report can be made, or a history that cannot be read.
    :raise HarnessError: a history that cannot be read now.
    """
    told = folders.read(folder)
    common = {"version": tcelab.__version__, "made": nightview.when(time.time()), "legend": list(pestory.legend())}
    if not isinstance(told, Night):
        return page.render("run.html", run=runview.view(folder, told, "run"), trends=trends.of(others), **common)
    before = past.of(told, history) if history is not None else past.NOTHING
    every = trends.of([*before.nights, *others, told])
    return page.render(
        "night.html", night=nightview.view(folder, told), trends=every, past=before, number=nightview.number, **common
    )
