"""A TCE table as a test sees it: what is live, and how it differs from what was expected, in runs of entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tcelab.papr import tce, window
from tcelab.run.record import TableView

_SHOWN: Final = 12
"""Most runs of a difference that are listed."""


class TceTable(Mapping[int, int]):
    """The live entries of one table: a mapping of bus address (IOBA, bytes) to TCE (64 bits).

    `table[ioba]` of an empty entry is 0, as in the table itself; `ioba in table`, `len(table)` and iteration are about
    live entries. `table == {...}` compares the live entries with a mapping.

    An address without an entry, outside the window or within a page, raises LookupError: a test that looks there would
    pass whatever the table holds.

    :ivar liobn: of the table.
    :ivar entries: how many entries it has, live or not.
    :ivar start: bus address of the first.
    :ivar page_size: bytes from each entry to the next.
    """

    def __init__(
        self, liobn: int, entries: int, live: Mapping[int, int], *, start: int = 0, page_shift: int = window.PAGE_SHIFT
    ) -> None:
        self.liobn, self.entries, self.start, self.page_size = liobn, entries, start, 1 << page_shift
        self._live = {ioba: word for ioba, word in sorted(live.items()) if word}

    @classmethod
    def of(cls, view: TableView) -> TceTable:
        """The table as one view showed it.

        :param view: of a snapshot.
        :return: its live entries.
        """
        places = (view.ioba(int(index)) for index in view.index)
        live = dict(zip(places, map(int, view.tce), strict=True))
        return cls(view.liobn, view.entries, live, start=view.bus_offset, page_shift=view.page_shift)

    def _asked(self, ioba: object) -> None:
        """Refuse an address where no entry can be: such a test would pass whatever the table holds."""
        number, within = divmod(ioba - self.start, self.page_size) if isinstance(ioba, int) else (-1, 0)
        if within or not 0 <= number < self.entries:
            asked = f"{ioba:#x}" if isinstance(ioba, int) else repr(ioba)
            size = f"{self.entries} entries of {self.page_size // 1024} KiB from {self.start:#x} on"
            raise LookupError(f"no entry of LIOBN {self.liobn:#x} has the IOBA {asked}: it has {size}")

    def __getitem__(self, ioba: int) -> int:
        self._asked(ioba)
        return self._live.get(ioba, 0)

    def __contains__(self, ioba: object) -> bool:
        """Is there a live entry?"""
        self._asked(ioba)
        return ioba in self._live

    def __iter__(self) -> Iterator[int]:
        return iter(self._live)

    def get(self, ioba: int, default: Any = None) -> Any:  # noqa: ANN401 - as Mapping has it
        """The entry at an address.

        :param ioba: bus address, in bytes.
        :param default: what to give for an empty entry.
        :return: the TCE, or the default.
        :raise LookupError: no entry has that address.
        """
        self._asked(ioba)
        return self._live.get(ioba, default)

    def __len__(self) -> int:
        return len(self._live)

    def __eq__(self, other: object) -> bool:
        """With another table, or with a mapping of IOBA to TCE."""
        if isinstance(other, TceTable):
            return (self.liobn, self.entries, self._live) == (other.liobn, other.entries, other._live)
        if isinstance(other, Mapping):
            return self._live == {ioba: word for ioba, word in other.items() if word}
        return NotImplemented

    __hash__ = None  # type: ignore[assignment] # equal to mappings, which have none

    def __repr__(self) -> str:
        return f"<table of LIOBN {self.liobn:#x}: {len(self)} of {self.entries} entries live>"


def difference(expected: Mapping[int, int], seen: Mapping[int, int]) -> list[str]:
    """Where two tables differ, as text.

    :param expected: IOBA to TCE; an entry that is missing or 0 is empty.
    :param seen: likewise.
    :return: a line for each run of neighbouring entries that differ in the same way, with the words of the first of
        them; at most 13 lines. Empty: the tables are equal.
    """
    runs: list[_Run] = []
    sizes = [each.page_size for each in (expected, seen) if isinstance(each, TceTable)]
    page = sizes[0] if sizes else window.PAGE_SIZE
    expected, seen = dict(expected), dict(seen)
    for ioba in sorted({*expected, *seen}):
        want, got = expected.get(ioba, 0), seen.get(ioba, 0)
        if want == got:
            continue
        kind = _kind(want, got)
        if runs and runs[-1].kind == kind and runs[-1].end == ioba:
            runs[-1].end += page
        else:
            runs.append(_Run(kind, ioba, ioba + page, want, got, page))
    lines = [run.describe() for run in runs[:_SHOWN]]
    if len(runs) > _SHOWN:
        left = sum(run.count for run in runs[_SHOWN:])
        lines.append(f"... and {len(runs) - _SHOWN} more runs, {left} entries")
    return lines


def _kind(want: int, got: int) -> str:
    """How two words differ."""
    if not got:
        return "is missing"
    if not want:
        return "should not be there"
    names = [tce.PERMISSION_NAMES[tce.permissions(word)] for word in (want, got)]
    if tce.address(want) == tce.address(got):
        return f"has the permissions {names[1]} instead of {names[0]}"
    other = "leads to another page"
    return other if names[0] == names[1] else f"{other}, {names[1]} instead of {names[0]}"


@dataclass(slots=True)
class _Run:
    """Neighbouring entries that differ in the same way, from IOBA `first` up to `end`, each of `page` bytes."""

    kind: str
    first: int
    end: int
    want: int
    got: int
    page: int

    @property
    def count(self) -> int:
        return (self.end - self.first) // self.page

    def describe(self) -> str:
        words = f"expected {tce.describe(self.want)}, seen {tce.describe(self.got)}"
        if self.count == 1:
            return f"IOBA {self.first:#x} {self.kind}: {words}"
        return f"IOBA {self.first:#x}..{self.end - 1:#x}, {self.count} entries, each {self.kind}; first {words}"
