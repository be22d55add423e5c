"""The law of views."""

from __future__ import annotations

from typing import Final

import numpy as np

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import MOST, Ledger
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.reading import TableReading
from tcelab.judge.models.tablemodel import UNKNOWN, TableModel, differing
from tcelab.papr import tce
from tcelab.run.record import TableView

LAW: Final = Law(
    "views",
    says="live memory and state stream agree entry by entry",
    needs="a checkpoint with both views",
    finds="compares the two readings of one table, taken in one stop of the guest",
)


def views(ledger: Ledger, fold: Fold, seen: TableReading) -> None:
    """Live memory and state stream, read in one stop of the guest, show the same tables, entry by entry.

    Both read the same array of QEMU, so a difference means that one of them read the wrong place or at the wrong time.
    If they disagree on a table's page size or bus offset, equal entry numbers mean different bus addresses: `inventory`
    reports that.
    """
    live, stream = seen.views.get("live"), seen.views.get("stream")
    if live is None or stream is None:
        return
    ledger.judged("views")
    for liobn in live.keys() & stream.keys():
        one, other = live[liobn], stream[liobn]
        if (one.page_shift, one.bus_offset) == (other.page_shift, other.bus_offset) or not other.entries:
            _compare_views(ledger, fold.tables.get(liobn), seen, one, other)


def _compare_views(
    ledger: Ledger, model: TableModel | None, seen: TableReading, one: TableView, other: TableView
) -> None:
    wrong = differing((one.index, one.tce), (other.index, other.tce))
    how = np.stack([wrong.one, wrong.other], axis=1)
    new = ledger.standing.news(("views", one.liobn), "", ledger.step, wrong.numbers, how)
    told = 0
    for (number, left, right), is_new in zip(wrong.rows(), new.tolist(), strict=True):
        agrees = {left: "live memory", right: "the state stream"}.get(_folded(model, number), "neither")
        if agrees != "neither":
            seen.split.add((one.liobn, number))
        if is_new and told < MOST:
            told += 1
            _differ(ledger, model, one, (number, left, right), agrees)
    ledger.count("views", int(new.sum()) - told)


def _differ(ledger: Ledger, model: TableModel | None, live: TableView, row: tuple[int, int, int], agrees: str) -> None:
    number, one, other = row
    ioba = live.ioba(number)
    ledger.report(
        "views",
        (live.liobn, number, one, other),
        f"LIOBN {live.liobn:#x} IOBA {ioba:#x}: live memory shows {tce.describe(one)}, the state stream "
        f"{tce.describe(other)}; the operations agree with {agrees}",
        liobn=live.liobn,
        ioba=ioba,
        expected=tce.describe(one),
        seen=tce.describe(other),
        operation=None if model is None else blame.entry(ledger, model, number).operation,
        view="live, stream",
        lasting=False,
    )


def _folded(model: TableModel | None, number: int) -> int:
    entry = model.live.get(number) if model else None
    return (entry.tce or UNKNOWN) if entry else 0
