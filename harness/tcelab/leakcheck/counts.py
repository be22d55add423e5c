"""Which hypercalls were made, how often, and with how many entries at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from tcelab.leakcheck.trace import NAMES, Hypercall, Name
from tcelab.papr import tce


class Row(NamedTuple):
    """Calls of one kind and size on one table."""

    liobn: int
    name: Name
    size: int
    calls: int


class Counts:
    """The counts of one phase of a check.

    :ivar permissions: by LIOBN and permissions, the nonzero TCEs in the trace.
    :ivar refused: by LIOBN and status, calls that failed.
    """

    def __init__(self) -> None:
        self._calls: Counter[tuple[int, Name, int]] = Counter()
        self.permissions: Counter[tuple[int, int]] = Counter()
        self.refused: Counter[tuple[int, int]] = Counter()

    def add(self, call: Hypercall) -> None:
        if call.status:
            self.refused[call.liobn, call.status] += 1
            return
        self._calls[call.liobn, call.name, call.entries] += 1
        if call.tce:
            self.permissions[call.liobn, tce.permissions(call.tce)] += 1

    @property
    def total(self) -> int:
        """Calls that succeeded."""
        return self._calls.total()

    def rows(self) -> Iterator[Row]:
        """By LIOBN, kind and size, ascending."""
        for key in sorted(self._calls, key=lambda key: (key[0], NAMES.index(key[1]), key[2])):
            yield Row(*key, self._calls[key])
