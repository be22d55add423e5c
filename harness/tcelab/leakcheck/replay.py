"""The tables as the trace of hypercalls makes them: a view that never reads QEMU's memory, and knows who wrote what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from tcelab.leakcheck.trace import Hypercall, NewTable
from tcelab.papr import window

Table = Mapping[int, int]
"""Bus addresses of the entries that are not zero, and their TCEs."""

_MORE: Final = 1
"""A failed call tells the number of the last good entry or of the first bad one."""


class Written(NamedTuple):
    """An entry, as far as the trace knows it.

    :ivar tce: None: something that is not told.
    :ivar call: that stored it; None: it was there before the trace began.
    :ivar certain: False: the call failed, and nobody can tell whether it came that far.
    """

    tce: int | None
    call: Hypercall | None
    certain: bool = True


class Replay:
    """Follows the trace from tables that were read."""

    def __init__(self, tables: Mapping[int, Table]) -> None:
        self._tables = {
            liobn: {ioba: Written(tce, None) for ioba, tce in table.items()} for liobn, table in tables.items()
        }

    def feed(self, event: Hypercall | NewTable) -> None:
        """The next event."""
        if isinstance(event, NewTable):
            self._tables[event.liobn] = {}
            return
        table = self._tables.setdefault(event.liobn, {})
        failed = event.status != 0
        last = event.ioba + (event.entries - 1) * window.PAGE_SIZE
        for ioba in range(event.ioba, last + 1 + _MORE * failed * window.PAGE_SIZE, window.PAGE_SIZE):
            known = not failed and (event.name != "H_PUT_TCE_INDIRECT" or ioba == last)
            if known and event.tce == 0:
                table.pop(ioba, None)
            else:
                table[ioba] = Written(event.tce if known else None, event, not failed)

    def freeze(self) -> Replayed:
        """As it is now."""
        return Replayed({liobn: dict(table) for liobn, table in self._tables.items()})


class Replayed:
    """The tables at one moment."""

    def __init__(self, tables: Mapping[int, Mapping[int, Written]]) -> None:
        self._tables = tables

    def origin(self, liobn: int, ioba: int) -> Hypercall | None:
        """The call that stored an entry; None: it was there before."""
        written = self._tables.get(liobn, {}).get(ioba)
        return None if written is None else written.call

    def differences(self, liobn: int, read: Table) -> list[str]:
        """What is otherwise in a table that was read: a line for each entry."""
        table = self._tables.get(liobn, {})
        lines = []
        for ioba in sorted(table.keys() | read.keys()):
            seen = read.get(ioba, 0)
            written = table.get(ioba, Written(0, None))
            if written.certain and (seen == 0 if written.tce is None else seen != written.tce):
                expected = "an entry" if written.tce is None else f"{written.tce:#x}"
                lines.append(f"LIOBN {liobn:#x} IOBA {ioba:#x}: the trace makes it {expected}, the table has {seen:#x}")
        return lines
