"""Nights made by hand: small ones for the history's tests."""

from __future__ import annotations

from tcelab.history.nightfile import Attempt, Cell, CellFigure, FoundInCell, Night

DAY = 86400.0
CODES = {"pass": 0, "finding": 1, "could-not-judge": 125, "flaky": 1, "not-run": 125}
VERSIONS = {"kernel": "6.1.0", "qemu": {"version": "10.0", "sha256": "aa"}}


def found(key="aaaa", **fields):
    given = {"law": "table", "operation": "ioctl MAP_DMA", "errno": "", "difference": "IOBA N is empty"}
    return FoundInCell(key=key, message="IOBA 0x0 is empty", replay="tcelab replay x", **{**given, **fields})


def cell(name="dma", word="pass", *, seed=1, findings=(), figures=None, began=0.0, seconds=2.0, **fields):
    """A cell that ran, unless its word is `not-run`."""
    keys = [each.key for each in findings]
    attempt = Attempt(word=word, exit_code=CODES[word], seconds=seconds, folder=f"cells/{name}", findings=keys)
    return Cell(
        **{"id": name, "kind": "run", "scenario": name, "command": ["run", name], "versions": VERSIONS, **fields},
        seed=seed,
        word=word,
        attempts=[] if word == "not-run" else [attempt],
        began=began,
        findings=list(findings),
        figures=[CellFigure(name=what, unit="ms", values=list(each), better="lower") for what, each in figures.items()]
        if figures
        else [],
    )


def night(day, *cells, name="", **fields):
    """The night of a day, counted from the first."""
    for each in cells:
        each.began = each.began or (day * DAY + 60 if each.attempts else 0.0)
    given = {"tcelab": "0.2.0", "matrix": "nightly.toml", "matrix_sha256": "00", "host": {"name": "host"}}
    return Night(
        **{**given, **fields}, id=name or f"night-{day}", began=day * DAY, ended=day * DAY + 600, cells=list(cells)
    )
