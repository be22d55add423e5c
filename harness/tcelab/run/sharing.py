"""What did not change between two snapshots is held once: a record of thousands of checkpoints stays small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tcelab.run.record import Snapshot, TableView


class Sharing:
    """Of one guest's snapshots, in order."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, str], TableView] = {}
        self._pages: dict[int, bytes | None] = {}

    def shared(self, snapshot: Snapshot) -> Snapshot:
        """An equal snapshot, whose tables and pages are those of the snapshots before, as far as they are equal."""
        self._pages = self._same_pages(snapshot.pages)
        return replace(snapshot, tables=tuple(map(self._same_table, snapshot.tables)), pages=self._pages)

    def _same_table(self, table: TableView) -> TableView:
        key = table.liobn, table.view
        before = self._tables.get(key)
        if before is None or not _equal(before, table):
            self._tables[key] = table
            return table
        return before

    def _same_pages(self, pages: dict[int, bytes | None]) -> dict[int, bytes | None]:
        if pages == self._pages:
            return self._pages
        before = self._pages
        return {
            address: kept if (kept := before.get(address)) == content else content for address, content in pages.items()
        }


def _equal(one: TableView, other: TableView) -> bool:
    return (
        (one.entries, one.page_shift, one.bus_offset, one.default)
        == (other.entries, other.page_shift, other.bus_offset, other.default)
        and np.array_equal(one.index, other.index)
        and np.array_equal(one.tce, other.tce)
    )
