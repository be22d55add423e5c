"""What one TCE table must hold: the fold of the maps and unmaps that succeeded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import is_
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from tcelab.judge.models.memorymodel import PageModel
from tcelab.papr import tce, window
from tcelab.run.record import TableView

Arrays: TypeAlias = tuple[npt.NDArray[np.uint32] | npt.NDArray[np.int64], npt.NDArray[np.uint64]]
"""Numbers of entries, ascending, and their TCEs."""

UNKNOWN: Final = 0xFFFFFFFFFFFFF000
"""Stands for a TCE whose frame the agent did not tell; no real entry has this value."""
ANYTHING: Final = UNKNOWN + 8
"""In an event, for an entry with unknown contents."""


_NOWHERE: Final = -1
"""In place of a page, for an entry that need not lead to one."""
_ANYWHERE: Final = -2
"""In place of a page, for an entry with unknown contents."""


class LiveEntry(msgspec.Struct, frozen=True):
    """A live entry.

    :ivar buffer: name of the buffer that it leads to, empty when the program mapped a raw address.
    :ivar number: page number within the buffer.
    :ivar page: that page, None when raw.
    :ivar frame: guest physical address that the agent read while the page was pinned, None if it did not report it.
    :ivar step: number of the operation that made it.
    :ivar rest: in an IOMMU page of more than 4 KiB, the pages after the first.
    :ivar raw: the TCE itself, of an entry that a hypercall stored as it was given.
    :ivar pinned: its page was pinned for it: by a container of type v1.
    :ivar untold: the entry's contents are unknown, even whether it is empty; the next snapshot shows them.
    """

    permissions: int
    buffer: str
    number: int
    page: PageModel | None
    frame: int | None
    step: int
    raw: int | None = None
    rest: tuple[PageModel | None, ...] = ()
    pinned: bool = False
    untold: bool = False

    def page_at(self, number: int) -> PageModel | None:
        """The 4 KiB page of that number within the IOMMU page."""
        return self.page if number == 0 else self.rest[number - 1] if number <= len(self.rest) else None

    @property
    def tce(self) -> int | None:
        if self.raw is not None:
            return self.raw
        return None if self.frame is None else tce.pack(self.frame, self.permissions)

    @property
    def lead(self) -> tuple[int | None, int]:
        """The entry's target: entries with the same target are right or wrong together."""
        if self.untold:
            return None, _ANYWHERE
        return self.frame, _NOWHERE if self.raw is not None and self.page is None else id(self.page)

    def describe(self) -> str:
        if self.untold:
            return "what a list held that nobody knows"
        raw = "a raw address" if self.raw is None else "as a hypercall gave it"
        where = f"{self.buffer}:{self.number}" if self.buffer else raw
        if self.tce is None:
            return f"{where}, {tce.PERMISSION_NAMES[self.permissions]}, frame not reported"
        return f"{tce.describe(self.tce)} = {where}"


class Parting(NamedTuple):
    """Entries of one table that must be gone, because their owner is.

    :ivar live: by number; `start`, `page_shift`: of the table then.
    :ivar how: how the owner went, in words that follow its name.
    """

    live: dict[int, LiveEntry]
    start: int
    page_shift: int
    how: str

    def at(self, ioba: int) -> LiveEntry | None:
        return self.live.get((ioba - self.start) >> self.page_shift)


class TableModel:
    """The table of one window, its entries numbered from 0. Addresses outside the window have numbers as well, those
    below it negative ones.

    The cost of a change depends on its pages, not on the size of the table: a full window is judged about as fast as an
    empty one.

    :ivar start: bus address of the window.
    :ivar page_shift: of its IOMMU pages.
    :ivar live: entry number to entry; also of maps outside the window that the kernel claims to have made.
    :ivar removed: numbers of entries that were live once and were removed.
    :ivar pinned: how many live entries have their page pinned for them.
    :ivar leads: entry numbers by where they lead, (frame, identity of the page).
    """

    def __init__(self, liobn: int, entries: int, start: int = 0, page_shift: int = window.PAGE_SHIFT) -> None:
        self.liobn = liobn
        self.entries = entries
        self.start = start
        self.page_shift = page_shift
        self.live: dict[int, LiveEntry] = {}
        self.removed: set[int] = set()
        self.leads: dict[tuple[int | None, int], set[int]] = {}
        self.pinned = 0
        self._touched: list[tuple[int, int, int]] = []
        self._tces = np.zeros(entries, np.uint64)
        self._outside: dict[int, int] = {}
        self._arrays: Arrays | None = None

    def number(self, ioba: int) -> int:
        """Of the entry of a bus address."""
        return (ioba - self.start) >> self.page_shift

    def ioba(self, number: int) -> int:
        """Bus address of an entry."""
        return self.start + (number << self.page_shift)

    def page_number(self, offset: int) -> int:
        """The number, within its IOMMU page, of the 4 KiB page at an offset from the window's start."""
        return (offset & ((1 << self.page_shift) - 1)) >> window.PAGE_SHIFT

    def begin(self, entries: Mapping[int, LiveEntry]) -> None:
        """Entries that are there before any operation."""
        for number, entry in entries.items():
            self._set([number], entry)
        self._arrays = None

    def put(self, first: int, new: Sequence[LiveEntry], step: int) -> list[LiveEntry]:
        """Store entries from `first` on; returns what was there."""
        end = first + len(new)
        gone = self._forget(self._within(first, end))
        for entry, numbers in _runs(range(first, end), new):
            self._set(numbers, entry)
        self._touch(first, end, step)
        return gone

    def _set(self, numbers: Sequence[int], entry: LiveEntry) -> None:
        """Set these empty entries to that one."""
        self.live.update(dict.fromkeys(numbers, entry))
        self.pinned += entry.pinned * len(numbers)
        self.leads.setdefault(entry.lead, set()).update(numbers)
        value = UNKNOWN if entry.tce is None else entry.tce
        if self._has(numbers[0]) and self._has(numbers[-1]):
            self._tces[numbers[0] : numbers[-1] + 1] = value
            return
        for number in numbers:
            if self._has(number):
                self._tces[number] = value
            else:
                self._outside[number] = value

    def clear(self, first: int, end: int, step: int) -> list[LiveEntry]:
        """Empty the entries `first .. end-1`; returns those that were live."""
        gone = self._forget(self._within(first, end))
        self._touch(first, end, step)
        return gone

    def hand_over(self, step: int, *, memory: bool) -> None:
        """Its kernel is gone, and all entries stay.

        :param memory: so does what they lead to; otherwise another kernel has that.
        """
        run: list[LiveEntry] = []
        for number, entry in sorted(self.live.items()):
            kept = msgspec.structs.replace(entry, pinned=False)
            if not memory:
                kept = msgspec.structs.replace(
                    kept, page=None, rest=(), buffer="", raw=entry.tce, untold=entry.tce is None
                )
            run.append(kept)
            if number + 1 not in self.live:
                self.put(number + 1 - len(run), run, step)
                run = []

    @property
    def untold(self) -> set[int]:
        """Numbers of the entries with unknown contents."""
        return self.leads.get((None, _ANYWHERE), set())

    def tell(self, number: int, entry: LiveEntry | None) -> None:
        """Set an untold entry to the value that was seen, or to empty."""
        was_removed = number in self.removed
        self._forget([number])
        if not was_removed:
            self.removed.discard(number)
        if entry is not None:
            self._set([number], entry)
        self._arrays = None

    @property
    def touches(self) -> int:
        """How many operations have concerned its entries so far."""
        return len(self._touched)

    def touched(self, number: int, since: int) -> list[int]:
        """Which of them concerned an entry, by their number from 0 on, of those from `since` on."""
        later = enumerate(self._touched[since:], since)
        return [at for at, (first, end, _) in later if first <= number < end]

    def permissions(self, number: int) -> int:
        entry = self.live.get(number)
        return entry.permissions if entry else 0

    def last_operation(self, number: int) -> int | None:
        """Number of the last operation that concerned an entry."""
        return next((step for first, end, step in reversed(self._touched) if first <= number < end), None)

    def arrays(self) -> Arrays:
        """Live entry numbers ascending, and their TCEs (`UNKNOWN` for a frame that was not reported)."""
        if self._arrays is None:
            index = self._inside()
            inside = index.astype(np.uint32), self._tces[index]
            self._arrays = self._with_outside(*inside) if self._outside else inside
        return self._arrays

    def _with_outside(self, index: npt.NDArray[np.uint32], values: npt.NDArray[np.uint64]) -> Arrays:
        numbers = np.concatenate([index, np.array([*self._outside], np.int64)], dtype=np.int64)
        values = np.concatenate([values, np.array([*self._outside.values()], np.uint64)])
        order = np.argsort(numbers)
        return numbers[order], values[order]

    def _has(self, number: int) -> bool:
        return 0 <= number < self.entries

    def _inside(self) -> npt.NDArray[np.intp]:
        """Live entry numbers within the table; a full scan pays only if the table is not nearly empty."""
        if len(self.live) * 16 > self.entries:
            return np.flatnonzero(self._tces)
        return np.array(sorted(filter(self._has, self.live)), np.intp)

    def _within(self, first: int, end: int) -> list[int]:
        """Numbers of the live entries in `first .. end-1`; scans the range or the live entries, the smaller one."""
        if end - first < len(self.live):
            return list(filter(self.live.__contains__, range(first, end)))
        return sorted(filter(range(first, end).__contains__, self.live))

    def _forget(self, numbers: Sequence[int]) -> list[LiveEntry]:
        """Empty these entries, all of them live, and return them. They ascend, with no other live entry between."""
        gone = list(map(self.live.pop, numbers))
        self.removed.update(numbers)
        for entry, of_it in _runs(numbers, gone):
            led = self.leads[entry.lead]
            led.difference_update(of_it)
            if not led:
                del self.leads[entry.lead]
            self.pinned -= entry.pinned * len(of_it)
        if numbers and self._has(numbers[0]) and self._has(numbers[-1]):
            self._tces[numbers[0] : numbers[-1] + 1] = 0
            return gone
        for number in numbers:
            if self._has(number):
                self._tces[number] = 0
            else:
                del self._outside[number]
        return gone

    def tried(self, first: int, end: int, step: int) -> None:
        """An operation concerned the entries `first .. end-1` and left them as they were."""
        self._touched.append((first, end, step))

    def _touch(self, first: int, end: int, step: int) -> None:
        self.tried(first, end, step)
        self._arrays = None


def _runs(numbers: Sequence[int], entries: Sequence[LiveEntry]) -> Iterable[tuple[LiveEntry, Sequence[int]]]:
    """Each entry with its numbers; one entry in all of them, as H_STUFF_TCE stores it, comes once."""
    if len(entries) > 1 and entries[0] is entries[-1] and all(map(is_, entries, repeat(entries[0]))):
        return [(entries[0], numbers)]
    return [(entry, [number]) for number, entry in zip(numbers, entries, strict=True)]


def same_place(model: TableModel, shown: TableView) -> bool:
    """Does a view show the table of that window, so that entry numbers mean the same bus addresses?"""
    return not shown.entries or (shown.page_shift, shown.bus_offset) == (model.page_shift, model.start)


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


_SAME: Final = Differing(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.uint64))


def differing(one: Arrays, other: Arrays) -> Differing:
    """Compare two sparse tables."""
    if np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]):
        return _SAME
    numbers = np.union1d(one[0], other[0]).astype(np.int64)
    left, right = _spread(numbers, one), _spread(numbers, other)
    return Differing(numbers, left, right).where(left != right)


def _spread(numbers: npt.NDArray[Any], sparse: Arrays) -> npt.NDArray[np.uint64]:
    out = np.zeros(len(numbers), np.uint64)
    out[np.searchsorted(numbers, sparse[0])] = sparse[1]
    return out
