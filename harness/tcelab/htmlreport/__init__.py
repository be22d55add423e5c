"""`tcelab report`: a run or a night as one HTML file that needs no network.

- `consolelines`: lines of a guest's console around a finding
- `excerpt`: the part of a program that shows a finding
- `findingview`: a finding with what explains it
- `folders`: reads the folder of a run or a night
- `nightview`: a night: its matrix as a grid, its cells
- `occupancy`: draws the table around a wrong entry
- `page`: puts the page together
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
from tcelab.htmlreport import folders, nightview, page, pestory, runview, trends
from tcelab.htmlreport.folders import nights

__all__ = ["build", "nights"]


def build(folder: Path, others: Sequence[Night] = ()) -> bytes:
    """The report on a folder, as HTML in UTF-8.

    :param others: further nights, for the trends.
    :raise UsageError: nothing of which a report can be made.
    """
    told = folders.read(folder)
    common = {"version": tcelab.__version__, "made": nightview.when(time.time()), "legend": list(pestory.legend())}
    if isinstance(told, Night):
        night = nightview.view(folder, told)
        return page.render("night.html", night=night, trends=trends.of([*others, told]), **common)
    return page.render("run.html", run=runview.view(folder, told, "run"), trends=trends.of(others), **common)
