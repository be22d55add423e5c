"""The tables as reconstructed from the trace of hypercalls: a view that never reads QEMU's memory, and knows which call
wrote each entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from tcelab.leakcheck.trace import Hypercall, NewTable
from tcelab.papr import window

Table = Mapping[int, int]
"""Bus addresses of the entries that are not zero, and their TCEs."""

_MORE: Final = 1
"""A failed call reports the number of the last good entry, or of the first bad one."""


class Written(NamedTuple):
    """An entry, as far as the trace knows it.

    :ivar tce: None: something that is not told.
    :ivar call: that stored it; None: it was there before the trace began.
    :ivar certain: False: the call failed, and it is unknown whether it got that far.
    :ivar before: what certainly stood there then; None: nothing.
    """

    tce: int | None
    call: Hypercall | None
    certain: bool = True
    before: Written | None = None

    def made(self, seen: int) -> Hypercall | None:
        """The last call that stored the value. A failed call only if no other fits, because its store was not seen."""
        before = self.before
        if not self.certain and before is not None and before.tce in (None, seen):
            return before.call
        return self.call


class Shared(NamedTuple):
    """A call that stored over live entries.

    :ivar earlier: that stored those; None: they were there before the trace began.
    :ivar first: bus address of the first such entry; `entries`: how many there are by the same earlier call.
    """

    call: Hypercall
    earlier: Hypercall | None
    first: int
    entries: int


class Replay:
    """Follows the trace from tables that were read."""

    def __init__(self, tables: Mapping[int, Table]) -> None:
        self._tables = {
            liobn: {ioba: Written(tce, None) for ioba, tce in table.items()} for liobn, table in tables.items()
        }

    def feed(self, event: Hypercall | NewTable) -> list[Shared]:
        """The next event.

        :return: where it stored over entries that stood, by the calls that had stored those.
        """
        if isinstance(event, NewTable):
            self._tables[event.liobn] = {}
            return []
        table = self._tables.setdefault(event.liobn, {})
        if event.status:
            _failed(table, event)
            return []
        shared: list[Shared] = []
        last = event.ioba + (event.entries - 1) * window.PAGE_SIZE
        for ioba in range(event.ioba, last + 1, window.PAGE_SIZE):
            known = event.name != "H_PUT_TCE_INDIRECT" or ioba == last
            if known and event.tce == 0:
                table.pop(ioba, None)
                continue
            stood = table.get(ioba)
            if stood is not None and stood.certain:
                if shared and shared[-1].earlier is stood.call:
                    shared[-1] = shared[-1]._replace(entries=shared[-1].entries + 1)
                else:
                    shared.append(Shared(event, stood.call, ioba, 1))
            table[ioba] = Written(event.tce if known else None, event)
        return shared

    def freeze(self) -> Replayed:
        """As it is now."""
        return Replayed({liobn: dict(table) for liobn, table in self._tables.items()})


def _failed(table: dict[int, Written], event: Hypercall) -> None:
    """What a call may have stored before it failed: nothing for an H_PUT_TCE, or for a call that names no entry."""
    if not event.entries or event.name == "H_PUT_TCE":
        return
    end = event.ioba + (event.entries + _MORE) * window.PAGE_SIZE
    for ioba in range(event.ioba, end, window.PAGE_SIZE):
        stood = table.get(ioba)
        if stood is not None and not stood.certain:
            stood = stood.before
        table[ioba] = Written(None, event, certain=False, before=stood)


class Replayed:
    """The tables at one moment."""

    def __init__(self, tables: Mapping[int, Mapping[int, Written]]) -> None:
        self._tables = tables

    def origin(self, liobn: int, ioba: int, seen: int) -> Hypercall | None:
        """The last call that stored the entry that is seen; None: it was there before."""
        written = self._tables.get(liobn, {}).get(ioba)
        return None if written is None else written.made(seen)

    def differences(self, liobn: int, read: Table) -> list[str]:
        """The differences from a table that was read: a line for each entry."""
        table = self._tables.get(liobn, {})
        lines = []
        for ioba in sorted(table.keys() | read.keys()):
            seen = read.get(ioba, 0)
            written = table.get(ioba, Written(0, None))
            if written.certain and (seen == 0 if written.tce is None else seen != written.tce):
                expected = "an entry" if written.tce is None else f"{written.tce:#x}"
                lines.append(f"LIOBN {liobn:#x} IOBA {ioba:#x}: the trace makes it {expected}, the table has {seen:#x}")
        return lines
