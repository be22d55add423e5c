"""What did not change between two snapshots is held once: a record of thousands of checkpoints stays small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from tcelab.run.record import Snapshot, TableView

_BLOCK: Final = 4096
"""Bytes of a disk that are held once: most transfers change less."""


class HeldDisks(Mapping[str, bytes]):
    """What was on each disk, by device; put together from its blocks whenever it is asked for."""

    __slots__ = ("_disks",)

    def __init__(self, disks: dict[str, tuple[bytes, ...]]) -> None:
        self._disks = disks

    def __getitem__(self, name: str) -> bytes:
        return b"".join(self._disks[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._disks)

    def __len__(self) -> int:
        return len(self._disks)


class Sharing:
    """Of one guest's snapshots, in order."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, str], TableView] = {}
        self._pages: dict[int, bytes | None] = {}
        self._disks: dict[str, tuple[bytes, tuple[bytes, ...]]] = {}

    def shared(self, snapshot: Snapshot) -> Snapshot:
        """An equal snapshot, whose tables, pages and blocks of disks are those of the snapshots before, as far as they
        are equal.
        """
        self._pages = self._same_pages(snapshot.pages)
        return replace(
            snapshot,
            tables=tuple(map(self._same_table, snapshot.tables)),
            pages=self._pages,
            disks=HeldDisks({name: self._same_blocks(name, content) for name, content in snapshot.disks.items()}),
        )

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

    def _same_blocks(self, name: str, content: bytes) -> tuple[bytes, ...]:
        last, before = self._disks.get(name, (b"", ()))
        if content is last:
            return before
        blocks = [content[at : at + _BLOCK] for at in range(0, len(content), _BLOCK)]
        if len(blocks) == len(before):
            blocks = [kept if kept == block else block for kept, block in zip(before, blocks, strict=True)]
        self._disks[name] = content, tuple(blocks)
        return self._disks[name][1]


def _equal(one: TableView, other: TableView) -> bool:
    return (
        (one.entries, one.page_shift, one.bus_offset, one.default)
        == (other.entries, other.page_shift, other.bus_offset, other.default)
        and np.array_equal(one.index, other.index)
        and np.array_equal(one.tce, other.tce)
    )
