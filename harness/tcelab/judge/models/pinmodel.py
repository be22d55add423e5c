"""Pins that no entry of VFIO's stands for, and those that entries stand for that are not VFIO's.

A container of type v1 pins the page of each entry that it makes, and unpins the page of each that it clears or
replaces, whoever made that: it asks the table alone (drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_build and
tce_iommu_clear: DMA_NONE). So a hypercall that stores over such an entry leaves its pin for good, and one that a
hypercall stored takes a pin along that it did not bring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from tcelab.judge.models.tablemodel import LiveEntry


class Pins:
    """:ivar off: how many pins there are more than entries of type v1 say.

    :ivar lost: nobody knows how many there are, since entries were cleared that nobody knew.
    """

    def __init__(self, page_size: int, entries: Callable[[], Iterable[LiveEntry]], unknown: list[str]) -> None:
        """:param page_size: bytes of a CPU page.
        :param entries: all that are live.
        :param unknown: gets reasons why nobody can know what happens.
        """
        self._page_size, self._entries, self._unknown = page_size, entries, unknown
        self._by_page: Counter[int | None] = Counter()
        self.off = 0
        self.lost = False
        self._told = False

    def stored(self, gone: Iterable[LiveEntry]) -> None:
        """A hypercall, or firmware, took the place of entries: their pins stay."""
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
        """More pins were given back than there were: what becomes of a page then, nobody knows."""
        held = Counter(self._page(entry) for entry in self._entries() if entry.pinned)
        if not self._told and any(held[page] + count < 0 for page, count in self._by_page.items()):
            self._told = True
            self._unknown.append(f"step {step} gave back a pin that nobody took: a hypercall had stored the entry")

    def _page(self, entry: LiveEntry) -> int | None:
        return None if entry.frame is None else entry.frame & -self._page_size
