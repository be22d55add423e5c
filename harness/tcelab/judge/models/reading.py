"""One snapshot, sorted for the laws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tcelab.judge.models.edumodel import Forbidden
from tcelab.papr import window
from tcelab.run.record import Refusal, Snapshot, TableView, ViewName

SLACK: Final = 7
"""Bytes by which QEMU's report of a refused piece may differ from the piece: it reports whole words."""


def refused_bytes(refusals: Iterable[Refusal]) -> Counter[tuple[str, int]]:
    """How many bytes were refused, by direction and IOMMU page, by QEMU's reports."""
    out: Counter[tuple[str, int]] = Counter()
    for refusal in refusals:
        out[refusal.direction, refusal.address >> window.PAGE_SHIFT] += refusal.size
    return out


@dataclass(slots=True)
class TableReading:
    """One snapshot, sorted: tables per view and LIOBN, and what laws pass to later laws.

    :ivar forbidden: device accesses since the snapshot before that must have been refused.
    :ivar wrong: by LIOBN, numbers of all entries that the table law found wrong.
    :ivar split: (LIOBN, entry) where the views differ and one of them is right.
    :ivar unlike: LIOBNs of tables with a wrong page size or place: their entries are not compared.
    :ivar outlived: (LIOBN, entry) of entries that outlive their owner: that law told them.
    :ivar handled: (LIOBN, entry) of entries that a driver's handle leads to, or led to: the law of handles told them.
    :ivar led_to: frames that right entries lead to, which the tag law judged.
    """

    snapshot: Snapshot
    views: dict[ViewName, dict[int, TableView]]
    forbidden: Sequence[Forbidden]
    wrong: dict[int, set[int]] = field(default_factory=dict)
    unlike: set[int] = field(default_factory=set)
    split: set[tuple[int, int]] = field(default_factory=set)
    outlived: set[tuple[int, int]] = field(default_factory=set)
    handled: set[tuple[int, int]] = field(default_factory=set)
    led_to: set[int] = field(default_factory=set)


def read_tables(snapshot: Snapshot, forbidden: Sequence[Forbidden]) -> TableReading:
    views: dict[ViewName, dict[int, TableView]] = {}
    for table in snapshot.tables:
        views.setdefault(table.view, {})[table.liobn] = table
    return TableReading(snapshot, views, forbidden)
