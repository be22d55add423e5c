"""The law of tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import MOST, Ledger
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.reading import TableReading
from tcelab.judge.models.tablemodel import UNKNOWN, Differing, LiveEntry, TableModel, differing, same_place
from tcelab.papr import tce
from tcelab.program import pagetags
from tcelab.run.record import Snapshot, TableView

LAW: Final = Law(
    "table",
    says="each whole table equals the fold of the operations that succeeded",
    needs="a checkpoint",
    finds="compares each whole table, as each view saw it, with the fold's, entry by entry",
)


def table(ledger: Ledger, fold: Fold, seen: TableReading) -> None:
    """Each whole table equals the fold: nothing missing, nothing extra anywhere, permissions and frames exact.

    Source: PAPR, H_PUT_TCE writes exactly one entry; drivers/vfio/vfio_iommu_spapr_tce.c, a VFIO entry carries exactly
    the bits asked for. The channel's LIOBN has nothing mapped: its virtio device does not use the table. A table
    with another page size or bus offset is left to `inventory`: its entry numbers mean other bus addresses.
    """
    for view, tables in seen.views.items():
        for liobn, shown in tables.items():
            model = fold.tables.get(liobn)
            if model is None:  # `inventory` reports it
                continue
            ledger.judged("table")
            if not same_place(model, shown):
                seen.unlike.add(liobn)
                continue
            ledger.evidence.entries += shown.entries
            if ledger.batch:
                ledger.size(ledger.batch).entries += shown.entries
            _compare_table(ledger, model, seen, shown, view)


_RIGHT: Final = np.empty((0, 2), np.uint64)
"""The wrong entries of a right table, as (expected, seen): none."""


def _compare_table(ledger: Ledger, model: TableModel, seen: TableReading, shown: TableView, view: str) -> None:
    wrong = _but_untold(model, differing(model.arrays(), (shown.index, shown.tce)))
    seen.wrong.setdefault(model.liobn, set()).update(wrong.numbers.tolist())
    if told_already := [
        number for liobn, number in (*seen.split, *seen.outlived, *seen.handled) if liobn == model.liobn
    ]:
        wrong = wrong.where(~np.isin(wrong.numbers, told_already))
    if not len(wrong.numbers):
        ledger.standing.news(("table", model.liobn), view, ledger.step, wrong.numbers, _RIGHT)
        return
    how = np.stack([wrong.one, wrong.other], axis=1)
    new = ledger.standing.news(("table", model.liobn), view, ledger.step, wrong.numbers, how)
    told = 0
    for (number, _, value), is_new in zip(wrong.rows(), new.tolist(), strict=True):
        if not is_new:
            ledger.also_seen("table", (model.liobn, number, value), view)
        elif told < MOST:
            told += 1
            _wrong(ledger, model, seen.snapshot, view, (number, value))
    ledger.count("table", int(new.sum()) - told)


def _but_untold(model: TableModel, wrong: Differing) -> Differing:
    """Without entries whose frame the agent did not report, if their permissions are right: `tag` proves the frame."""
    if not len(wrong.numbers):
        return wrong
    unknown = np.flatnonzero((wrong.one == np.uint64(UNKNOWN)) & (wrong.other != 0))
    keep = np.ones(len(wrong.numbers), np.bool_)
    for i in unknown.tolist():
        entry = model.live.get(int(wrong.numbers[i]))
        keep[i] = entry is None or tce.permissions(int(wrong.other[i])) != entry.permissions
    return wrong.where(keep)


def _wrong(ledger: Ledger, model: TableModel, snapshot: Snapshot, view: str, pair: tuple[int, int]) -> None:
    number, value = pair
    entry = model.live.get(number)
    blamed = blame.entry(ledger, model, number)
    expected = entry.describe() if entry else tce.describe(0)
    message = (
        f"LIOBN {model.liobn:#x} IOBA {model.ioba(number):#x}: {_how(model, number, entry, value, blamed)}; "
        f"expected {expected}, seen {tce.describe(value)}{blamed.said}"
    )
    if value and (not entry or entry.frame != tce.address(value)):
        message += f"; guest RAM there: {_there(snapshot.pages, tce.address(value))}"
    ledger.report(
        "table",
        (model.liobn, number, value),
        message,
        liobn=model.liobn,
        ioba=model.ioba(number),
        expected=expected,
        seen=tce.describe(value),
        operation=blamed.operation,
        view=view,
        lasting=False,
    )


def _how(model: TableModel, number: int, entry: LiveEntry | None, value: int, blamed: blame.Blame) -> str:
    """How an entry is wrong, by the first rule that fits."""
    survived = blamed.concerns and number in model.removed
    rules: tuple[tuple[Callable[[], bool], str], ...] = (
        (lambda: number >= model.entries, "there is an entry past the end of the table"),
        (lambda: number < 0, "there is an entry below the window"),
        (lambda: entry is not None and value == 0, "an entry that was mapped is missing"),
        (lambda: entry is not None and entry.frame == tce.address(value), "an entry has the wrong permissions"),
        (lambda: entry is not None, "an entry leads to the wrong page"),
        (lambda: survived, "an entry survived its removal"),
        (lambda: True, "there is an entry that no operation made"),
    )
    return next(text for fits, text in rules if fits())


def _there(pages: dict[int, bytes | None], address: int) -> str:
    if address not in pages:
        return "not read"
    content = pages[address]
    return "none at that address" if content is None else pagetags.describe(content)
