"""Laws of the TCE tables as the host's views saw them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tcelab import tag
from tcelab.judge.device import Forbidden
from tcelab.judge.fold import Fold
from tcelab.judge.ledger import Ledger
from tcelab.judge.table import UNKNOWN, Arrays, Entry, TableModel
from tcelab.papr import tce
from tcelab.run import Snapshot, TableView, ViewName

MOST: Final = 1000
"""Wrong entries of one table that are told one by one; the rest are only counted."""


@dataclass(slots=True)
class Look:
    """One snapshot, sorted: tables per view and LIOBN, and what laws tell each other about it.

    :ivar forbidden: device accesses since the snapshot before that must have been refused.
    :ivar wrong: (LIOBN, entry) that the table law found wrong.
    :ivar split: (LIOBN, entry) on which the views differ, and one of them is right.
    :ivar led_to: frames that right entries lead to, which the tag law judged.
    """

    snapshot: Snapshot
    views: dict[ViewName, dict[int, TableView]]
    forbidden: Sequence[Forbidden]
    wrong: set[tuple[int, int]] = field(default_factory=set)
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
    message = f"LIOBN {liobn:#x} {what}: expected {expected}, seen {seen}"
    ledger.report("inventory", (liobn, what, seen), message, liobn=liobn, expected=expected, seen=seen, view=view)


def views(ledger: Ledger, fold: Fold, seen: Look) -> None:
    """Live memory and state stream of one stop of the guest show the same tables, entry by entry.

    Both read QEMU's one array; a difference means that one reader looked at the wrong place or time.
    """
    live, stream = seen.views.get("live"), seen.views.get("stream")
    if live is None or stream is None:
        return
    ledger.judged("views")
    for liobn in live.keys() & stream.keys():
        pairs = differences((live[liobn].index, live[liobn].tce), (stream[liobn].index, stream[liobn].tce))
        _overflow(ledger, "views", liobn, pairs)
        for number, one, other in pairs[:MOST]:
            model, ioba = fold.tables.get(liobn), live[liobn].ioba(number)
            right = {one: "live memory", other: "the state stream"}.get(_folded(model, number), "neither")
            if right != "neither":
                seen.split.add((liobn, number))
            ledger.report(
                "views",
                (liobn, number, one, other),
                f"LIOBN {liobn:#x} IOBA {ioba:#x}: live memory shows {tce.describe(one)}, the state stream "
                f"{tce.describe(other)}; the operations agree with {right}",
                liobn=liobn,
                ioba=ioba,
                expected=tce.describe(one),
                seen=tce.describe(other),
                operation=model.last_operation(number) if model else None,
                view="live, stream",
            )


def _folded(model: TableModel | None, number: int) -> int:
    entry = model.live.get(number) if model else None
    return (entry.tce or UNKNOWN) if entry else 0


def table(ledger: Ledger, fold: Fold, seen: Look) -> None:
    """Each whole table equals the fold: nothing missing, nothing extra anywhere, permissions and frames exact.

    Source: PAPR, H_PUT_TCE writes exactly one entry; drivers/vfio/vfio_iommu_spapr_tce.c, a VFIO entry carries exactly
    the bits asked for. The channel's LIOBN has nothing mapped: its virtio device does not use the table.
    """
    for view, tables in seen.views.items():
        for liobn, shown in tables.items():
            model = fold.tables.get(liobn)
            if model is None:  # inventory tells
                continue
            ledger.judged("table")
            ledger.evidence.entries += shown.entries
            if ledger.batch:
                ledger.size(ledger.batch).entries += shown.entries
            pairs = differences(model.arrays(), (shown.index, shown.tce))
            _overflow(ledger, "table", liobn, pairs)
            for number, expected, value in pairs[:MOST]:
                entry = model.live.get(number)
                if expected == UNKNOWN and entry and value and tce.permissions(value) == entry.permissions:
                    continue  # the tag law proves the frame that the agent did not tell
                seen.wrong.add((liobn, number))
                if (liobn, number) not in seen.split:
                    _wrong(ledger, model, seen.snapshot, view, (number, value))


def differences(one: Arrays, other: Arrays) -> list[tuple[int, int, int]]:
    """(entry number, TCE in one, TCE in other) where two sparse tables differ; 0 stands for an empty entry."""
    if np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]):
        return []
    numbers = np.union1d(one[0], other[0])
    left, right = _spread(numbers, one), _spread(numbers, other)
    wrong = left != right
    return list(zip(numbers[wrong].tolist(), left[wrong].tolist(), right[wrong].tolist(), strict=True))


def _spread(numbers: npt.NDArray[Any], sparse: Arrays) -> npt.NDArray[np.uint64]:
    out = np.zeros(len(numbers), np.uint64)
    out[np.searchsorted(numbers, sparse[0])] = sparse[1]
    return out


def _overflow(ledger: Ledger, law: str, liobn: int, pairs: Sequence[object]) -> None:
    if len(pairs) > MOST:
        ledger.overflow(law, liobn, len(pairs) - MOST)


def _wrong(ledger: Ledger, model: TableModel, snapshot: Snapshot, view: str, pair: tuple[int, int]) -> None:
    number, value = pair
    entry = model.live.get(number)
    blamed = model.last_operation(number)
    expected = entry.describe() if entry else tce.describe(0)
    message = (
        f"LIOBN {model.liobn:#x} IOBA {model.ioba(number):#x}: {_how(model, number, entry, value, blamed)}; "
        f"expected {expected}, seen {tce.describe(value)}"
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
        operation=blamed,
        view=view,
    )


def _how(model: TableModel, number: int, entry: Entry | None, value: int, blamed: int | None) -> str:
    """In a few words, how an entry is wrong: the first rule that fits."""
    survived = blamed is not None and number in model.removed
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
