"""Laws of the TCE tables as the host's views saw them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tcelab.judge import blame
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.device import Forbidden
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.table import UNKNOWN, Arrays, Entry, TableModel
from tcelab.papr import tce
from tcelab.program import tag
from tcelab.run import Snapshot, TableView, ViewName

MOST: Final = 1000
"""Wrong entries of one table and look that are told one by one; the rest are only counted."""


@dataclass(slots=True)
class Look:
    """One snapshot, sorted: tables per view and LIOBN, and what laws tell each other about it.

    :ivar forbidden: device accesses since the snapshot before that must have been refused.
    :ivar wrong: by LIOBN, numbers of all entries that the table law found wrong.
    :ivar split: (LIOBN, entry) on which the views differ, and one of them is right.
    :ivar unlike: LIOBNs of tables with another page size or place than they must have: their entries are not compared.
    :ivar led_to: frames that right entries lead to, which the tag law judged.
    """

    snapshot: Snapshot
    views: dict[ViewName, dict[int, TableView]]
    forbidden: Sequence[Forbidden]
    wrong: dict[int, set[int]] = field(default_factory=dict)
    unlike: set[int] = field(default_factory=set)
    split: set[tuple[int, int]] = field(default_factory=set)
    led_to: set[int] = field(default_factory=set)


def look(snapshot: Snapshot, forbidden: Sequence[Forbidden]) -> Look:
    views: dict[ViewName, dict[int, TableView]] = {}
    for table in snapshot.tables:
        views.setdefault(table.view, {})[table.liobn] = table
    return Look(snapshot, views, forbidden)


def inventory(ledger: Ledger, fold: Fold, seen: Look) -> None:
    """Every view shows exactly the tables of the windows that there are, of the right size, page size and place.

    Source: QEMU hw/ppc/spapr_pci.c (one object per window, empty until the window is created). A table that is
    missing or has another size would make every other law of it hollow.
    """
    for view, tables in seen.views.items():
        ledger.judged("inventory")
        shown = [table.liobn for table in seen.snapshot.tables if table.view == view]
        for liobn in sorted({liobn for liobn in shown if shown.count(liobn) > 1}):
            _inventory(ledger, liobn, view, "is shown more than once", ("1 table", f"{shown.count(liobn)} tables"))
        for liobn, model in fold.tables.items():
            table = tables.get(liobn)
            if table is None:
                _inventory(ledger, liobn, view, "has no table", (f"{model.entries} entries", "no table"))
            elif table.entries != model.entries:
                sizes = f"{model.entries} entries", f"{table.entries} entries"
                _inventory(ledger, liobn, view, "has the wrong size", sizes)
            elif (table.page_shift, table.bus_offset) != (model.page_shift, model.start):
                shapes = _shape(model.page_shift, model.start), _shape(table.page_shift, table.bus_offset)
                _inventory(ledger, liobn, view, "has the wrong shape", shapes)
        known = {liobn for each in fold.windows.values() for liobn in each.liobns}
        for liobn, table in tables.items():
            if liobn not in fold.tables and (liobn not in known or table.entries):
                _inventory(ledger, liobn, view, "has a table", ("no table", f"{table.entries} entries"))


def _shape(page_shift: int, bus_offset: int) -> str:
    return f"page shift {page_shift}, bus offset {bus_offset:#x}"


def _inventory(ledger: Ledger, liobn: int, view: str, what: str, sides: tuple[str, str]) -> None:
    expected, seen = sides
    ledger.report(
        "inventory",
        (liobn, what, seen, expected),
        f"LIOBN {liobn:#x} {what}: expected {expected}, seen {seen}",
        liobn=liobn,
        expected=expected,
        seen=seen,
        operation=blame.table(ledger),
        view=view,
    )


def views(ledger: Ledger, fold: Fold, seen: Look) -> None:
    """Live memory and state stream of one stop of the guest show the same tables, entry by entry.

    Both read QEMU's one array; a difference means that one reader looked at the wrong place or time. Of a table whose
    page size or place they do not agree on, entries of one number are not the same: `inventory` tells of that.
    """
    live, stream = seen.views.get("live"), seen.views.get("stream")
    if live is None or stream is None:
        return
    ledger.judged("views")
    for liobn in live.keys() & stream.keys():
        one, other = live[liobn], stream[liobn]
        if (one.page_shift, one.bus_offset) == (other.page_shift, other.bus_offset) or not other.entries:
            _compare_views(ledger, fold.tables.get(liobn), seen, one, other)


def _compare_views(ledger: Ledger, model: TableModel | None, seen: Look, one: TableView, other: TableView) -> None:
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


def table(ledger: Ledger, fold: Fold, seen: Look) -> None:
    """Each whole table equals the fold: nothing missing, nothing extra anywhere, permissions and frames exact.

    Source: PAPR, H_PUT_TCE writes exactly one entry; drivers/vfio/vfio_iommu_spapr_tce.c, a VFIO entry carries exactly
    the bits asked for. The channel's LIOBN has nothing mapped: its virtio device does not use the table. Of a table
    with another page size, or in another place, `inventory` tells: its numbers stand for other bus addresses.
    """
    for view, tables in seen.views.items():
        for liobn, shown in tables.items():
            model = fold.tables.get(liobn)
            if model is None:  # inventory tells
                continue
            ledger.judged("table")
            if not _same_place(model, shown):
                seen.unlike.add(liobn)
                continue
            ledger.evidence.entries += shown.entries
            if ledger.batch:
                ledger.size(ledger.batch).entries += shown.entries
            _compare_table(ledger, model, seen, shown, view)


def _same_place(model: TableModel, shown: TableView) -> bool:
    return not shown.entries or (shown.page_shift, shown.bus_offset) == (model.page_shift, model.start)


def _compare_table(ledger: Ledger, model: TableModel, seen: Look, shown: TableView, view: str) -> None:
    wrong = _but_untold(model, differing(model.arrays(), (shown.index, shown.tce)))
    seen.wrong.setdefault(model.liobn, set()).update(wrong.numbers.tolist())
    if seen.split:
        split = [number for liobn, number in seen.split if liobn == model.liobn]
        wrong = wrong.where(~np.isin(wrong.numbers, split))
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
    """Without those entries whose frame the agent did not tell: the tag law proves it."""
    unknown = np.flatnonzero((wrong.one == np.uint64(UNKNOWN)) & (wrong.other != 0))
    keep = np.ones(len(wrong.numbers), np.bool_)
    for i in unknown.tolist():
        entry = model.live.get(int(wrong.numbers[i]))
        keep[i] = entry is None or tce.permissions(int(wrong.other[i])) != entry.permissions
    return wrong.where(keep)


class Differing(NamedTuple):
    """Where two sparse tables differ: numbers of entries, ascending, and the TCE of each in one and in the other; 0
    stands for an empty entry.
    """

    numbers: npt.NDArray[np.int64]
    one: npt.NDArray[np.uint64]
    other: npt.NDArray[np.uint64]

    def rows(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.numbers.tolist(), self.one.tolist(), self.other.tolist(), strict=True)

    def where(self, which: npt.NDArray[np.bool_]) -> Differing:
        return Differing(self.numbers[which], self.one[which], self.other[which])


def differing(one: Arrays, other: Arrays) -> Differing:
    """Compare two sparse tables."""
    if np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]):
        return Differing(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.uint64))
    numbers = np.union1d(one[0], other[0]).astype(np.int64)
    left, right = _spread(numbers, one), _spread(numbers, other)
    return Differing(numbers, left, right).where(left != right)


def _spread(numbers: npt.NDArray[Any], sparse: Arrays) -> npt.NDArray[np.uint64]:
    out = np.zeros(len(numbers), np.uint64)
    out[np.searchsorted(numbers, sparse[0])] = sparse[1]
    return out


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


def _how(model: TableModel, number: int, entry: Entry | None, value: int, blamed: blame.Blame) -> str:
    """In a few words, how an entry is wrong: the first rule that fits."""
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
    return "none at that address" if content is None else tag.describe(content)


TABLE_LAWS: Final[Collection[Callable[[Ledger, Fold, Look], None]]] = (inventory, views, table)
