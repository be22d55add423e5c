"""A TCE table as a test sees it: what is live, and how it differs from what was expected, in runs of entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tcelab.papr import tce, window
from tcelab.run import TableView

_SHOWN: Final = 12
"""Runs of a difference that are spelled out."""


class TceTable(Mapping[int, int]):
    """The live entries of one table: bus address (IOBA) to TCE. `table[ioba]` of an address without an entry is 0, as
    in the table itself; `ioba in table` and `table.get(ioba)` are about live entries.

    :ivar liobn: of the table.
    :ivar entries: how many entries it has, live or not.
    """

    def __init__(self, liobn: int, entries: int, live: Mapping[int, int]) -> None:
        self.liobn, self.entries = liobn, entries
        self._live = {ioba: word for ioba, word in sorted(live.items()) if word}

    @classmethod
    def of(cls, view: TableView) -> TceTable:
        """What one view of it showed."""
        places = (view.ioba(int(index)) for index in view.index)
        return cls(view.liobn, view.entries, dict(zip(places, map(int, view.tce), strict=True)))

    def __getitem__(self, ioba: int) -> int:
        return self._live.get(ioba, 0)

    def __contains__(self, ioba: object) -> bool:
        """Is there a live entry?"""
        return ioba in self._live

    def __iter__(self) -> Iterator[int]:
        return iter(self._live)

    def get(self, ioba: int, default: Any = None) -> Any:  # noqa: ANN401 - as Mapping has it
        """The entry of an address, or the default if it has none."""
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
    """Where two tables differ, a line for each run of neighbouring entries that differ in the same way; empty if they
    do not. The words of a run's first entry stand for all.
    """
    runs: list[_Run] = []
    for ioba in sorted({*expected, *seen}):
        want, got = expected.get(ioba, 0), seen.get(ioba, 0)
        if want == got:
            continue
        kind = _kind(want, got)
        if runs and runs[-1].kind == kind and runs[-1].end == ioba:
            runs[-1].end += window.PAGE_SIZE
        else:
            runs.append(_Run(kind, ioba, ioba + window.PAGE_SIZE, want, got))
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
    """Neighbouring entries that differ in the same way, from IOBA `first` up to `end`."""

    kind: str
    first: int
    end: int
    want: int
    got: int

    @property
    def count(self) -> int:
        return (self.end - self.first) // window.PAGE_SIZE

    def describe(self) -> str:
        words = f"expected {tce.describe(self.want)}, seen {tce.describe(self.got)}"
        if self.count == 1:
            return f"IOBA {self.first:#x} {self.kind}: {words}"
        return f"IOBA {self.first:#x}..{self.end - 1:#x}, {self.count} entries, each {self.kind}; first {words}"
