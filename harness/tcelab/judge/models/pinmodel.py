"""Pins without an entry of VFIO, and entries not of VFIO whose pins are dropped.

A v1 container pins the page of each entry that it stores, and unpins the page of each entry that it clears or replaces,
whoever stored it: it only looks at the table (drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_build and tce_iommu_clear:
DMA_NONE). So a hypercall that overwrites such an entry leaks its pin, and clearing an entry that a hypercall stored
drops a pin that was never taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from tcelab.judge.models.tablemodel import LiveEntry


class Pins:
    """:ivar off: pins in excess of the live v1 entries.

    :ivar lost: the number is unknown, since entries with unknown contents were cleared.
    """

    def __init__(self, page_size: int, entries: Callable[[], Iterable[LiveEntry]], unknown: list[str]) -> None:
        """:param page_size: bytes of a CPU page.
        :param entries: all that are live.
        :param unknown: gets reasons why the result is unknown.
        """
        self._page_size, self._entries, self._unknown = page_size, entries, unknown
        self._by_page: Counter[int | None] = Counter()
        self.off = 0
        self.lost = False
        self._told = False

    def begin(self) -> None:
        """Another kernel counts from anew."""
        self._by_page.clear()
        self.off, self.lost = 0, True

    def stored(self, gone: Iterable[LiveEntry]) -> None:
        """A hypercall, or firmware, overwrote entries: their pins stay."""
        for entry in gone:
            if entry.pinned:
                self._by_page[self._page(entry)] += 1
                self.off += 1

    def cleared(self, gone: Iterable[LiveEntry], step: int) -> None:
        """A container of type v1 cleared or replaced entries."""
        for entry in gone:
            if entry.untold:
                self.lost = True
            elif not entry.pinned and entry.permissions:
                self._by_page[self._page(entry)] -= 1
                self.off -= 1
        if any(count < 0 for count in self._by_page.values()):
            self._count(step)

    def _count(self, step: int) -> None:
        """More pins were dropped than taken: the result for the page is unknown."""
        held = Counter(self._page(entry) for entry in self._entries() if entry.pinned)
        if not self._told and any(held[page] + count < 0 for page, count in self._by_page.items()):
            self._told = True
            self._unknown.append(f"step {step} gave back a pin that nobody took: a hypercall had stored the entry")

    def _page(self, entry: LiveEntry) -> int | None:
        return None if entry.frame is None else entry.frame & -self._page_size
