"""The law of entries that outlive their owner."""

from __future__ import annotations

from typing import Final

import numpy as np

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import MOST, Ledger
from tcelab.judge.models.eventfold import EventFold
from tcelab.judge.models.reading import TableReading
from tcelab.judge.models.tablemodel import Arrays, LiveEntry, Parting, differing, same_place
from tcelab.papr import tce
from tcelab.run.record import TableView

LAW: Final = Law(
    "outliving",
    says="no entry outlives the process, container, driver, device or kernel that had it",
    needs="a checkpoint after an owner has gone",
    finds="looks in each table, a forgotten window's too, for entries whose owner is gone, and names the owner",
)


def outliving(ledger: Ledger, fold: EventFold, seen: TableReading) -> None:
    """An entry whose owner is gone is empty, or somebody else's.

    Source: Linux drivers/vfio/vfio_iommu_spapr_tce.c (tce_iommu_release, tce_iommu_release_ownership clear what a
    container mapped); QEMU hw/ppc/spapr_pci.c (spapr_phb_dma_reset makes every window anew). What is found here, the
    law of tables does not tell again.
    """
    if not fold.partings:
        return
    for view, tables in seen.views.items():
        for liobn in tables.keys() & fold.partings.keys():
            ledger.judged("outliving")
            _compare(ledger, fold, seen, tables[liobn], view)


def _compare(ledger: Ledger, fold: EventFold, seen: TableReading, shown: TableView, view: str) -> None:
    model = fold.tables.get(shown.liobn)
    if model is None or not same_place(model, shown):  # a window that must be gone, whatever is there now
        model = None
    live: Arrays = (shown.index[:0], shown.tce[:0]) if model is None else model.arrays()
    wrong = []
    for number, right, value in differing(live, (shown.index, shown.tce)).rows():
        found = _owned(fold, shown.liobn, shown.ioba(number), value)
        if found is not None and not right:
            wrong.append((number, value, *found))
    numbers = np.array([each[0] for each in wrong], np.int64)
    how = np.array([[each[1]] for each in wrong], np.uint64).reshape(-1, 1)
    new = ledger.standing.news(("outliving", shown.liobn), view, ledger.step, numbers, how)
    told = 0
    for (number, value, entry, gone), is_new in zip(wrong, new.tolist(), strict=True):
        seen.outlived.add((shown.liobn, number))
        key = shown.liobn, shown.ioba(number), value
        if not is_new:
            ledger.also_seen("outliving", key, view)
            continue
        told += 1
        if told <= MOST:
            blamed = blame.Blame(blame.table(ledger)) if model is None else blame.entry(ledger, model, number)
            _report(ledger, key, f"{fold.owner(entry)}, {gone.how} (made by operation {entry.step})", blamed, view)
    ledger.count("outliving", max(0, told - MOST))


def _owned(fold: EventFold, liobn: int, ioba: int, value: int) -> tuple[LiveEntry, Parting] | None:
    """The entry that was there with this value when its owner went, and how that went."""
    for gone in fold.partings[liobn]:
        entry = gone.at(ioba)
        if entry is not None and not entry.untold and entry.tce in (value, None):
            return entry, gone
    return None


def _report(ledger: Ledger, key: tuple[int, int, int], owner: str, blamed: blame.Blame, view: str) -> None:
    liobn, ioba, value = key
    ledger.report(
        "outliving",
        key,
        f"LIOBN {liobn:#x} IOBA {ioba:#x}: an entry outlives its owner, {owner};"
        f" expected {tce.describe(0)}, seen {tce.describe(value)}{blamed.said}",
        liobn=liobn,
        ioba=ioba,
        expected=tce.describe(0),
        seen=tce.describe(value),
        operation=blamed.operation,
        view=view,
        lasting=False,
    )
