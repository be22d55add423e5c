"""Compares stored entries with the drivers' requests: each entry permits what its driver requested, no more and no
less.

For each entry of a table, the first store belongs to the first mapping that covers it, the second to the second: a
driver gets no entry again before it has freed it. So the two witnesses are matched entry by entry, however far one lags
behind the other.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from tcelab.leakcheck.dmaapi import Asked, Raw
from tcelab.leakcheck.trace import Hypercall
from tcelab.leakcheck.tracereplay import Replayed, Table
from tcelab.papr import hcallnumbers, tce, window
from tcelab.program.topology import Device

_GIVES: Final = {
    "TO_DEVICE": {tce.READ},
    "FROM_DEVICE": {tce.WRITE, tce.PERMISSIONS},
    "BIDIRECTIONAL": {tce.PERMISSIONS},
}
"""By direction, the permissions that an entry may have."""

Key = tuple[int, int]
"""LIOBN and bus address of an entry."""


class _Store(NamedTuple):
    """`tce`: None where the trace does not tell it."""

    call: Hypercall
    tce: int | None


class WrongDirection(NamedTuple):
    """An entry whose permissions differ from the request."""

    liobn: int
    ioba: int
    tce: int
    direction: str
    call: Hypercall


class Raws:
    """Hypercalls that programs made themselves, as far as they are known.

    :ivar unknown: why some may be unknown; empty: all are known.
    """

    def __init__(self) -> None:
        self.unknown = ""
        self._told: set[Raw] = set()
        self._opcodes: Counter[int] = Counter()

    def add(self, raw: Raw) -> None:
        if raw.batch == 1:
            self._told.add(raw)
            self._opcodes[raw.opcode] += 1
        else:
            self.unknown = f"a program made {raw.batch or 'some'} hypercalls at once, and not each of them is told"

    def made(self, call: Hypercall) -> bool:
        """Did a program make it?"""
        same = (hcallnumbers.NAMES[call.name], call.liobn, call.ioba, call.entries)
        return any((raw.opcode, raw.liobn, raw.ioba, raw.entries) == same for raw in self._told)

    def stored(self, liobn: int, ioba: int) -> bool:
        """Did a program store something in an entry?"""
        return any(
            raw.liobn == liobn
            and raw.ioba <= ioba < raw.ioba + raw.entries * window.PAGE_SIZE
            and (raw.opcode == hcallnumbers.H_PUT_TCE_INDIRECT or raw.value)
            for raw in self._told
        )

    def calls(self, opcode: int) -> int:
        """How many calls of one kind are known."""
        return self._opcodes[opcode]


class Directions:
    """For the devices of the kernel's own drivers.

    :ivar asked: by LIOBN and direction, mappings that drivers got.
    :ivar stored: entries of the trace that were compared with requests; `live`: entries of tables.
    """

    def __init__(self, devices: Mapping[int, Device]) -> None:
        self._liobns = {device.slot: liobn for liobn, device in devices.items()}
        self._stores: dict[Key, deque[_Store]] = defaultdict(deque)
        self._wanted: dict[Key, deque[str]] = defaultdict(deque)
        self._matched: dict[Key, tuple[Hypercall, str]] = {}
        self._seen: dict[Key, list[_Store]] = defaultdict(list)
        self._wrong: dict[tuple[int, int, int, str], WrongDirection] = {}
        self._old: set[Key] = set()
        self.asked: Counter[tuple[int, str]] = Counter()
        self.stored = self.live = 0

    def store(self, call: Hypercall) -> None:
        """A hypercall that may have stored something."""
        if call.status or call.liobn not in self._liobns.values():
            return
        last = call.ioba + (call.entries - 1) * window.PAGE_SIZE
        for ioba in range(call.ioba, last + 1, window.PAGE_SIZE):
            known = call.name != "H_PUT_TCE_INDIRECT" or ioba == last
            if not known or call.tce:
                key = (call.liobn, ioba)
                self._stores[key].append(_Store(call, call.tce if known else None))
                self._match(key)

    def ask(self, asked: Asked) -> None:
        """A mapping that a driver got."""
        liobn = self._liobns.get(_slot(asked.device))
        if liobn is None:
            return
        self.asked[liobn, asked.direction] += 1
        for number in range(asked.entries):
            key = (liobn, asked.first + number * window.PAGE_SIZE)
            self._wanted[key].append(asked.direction)
            self._match(key)

    def look(self, tables: Mapping[int, Table], replayed: Replayed) -> None:
        """Compare each entry of a table that was read."""
        for liobn in self._liobns.values():
            for ioba, word in tables.get(liobn, {}).items():
                key = (liobn, ioba)
                call = replayed.origin(liobn, ioba, word)
                if call is None:
                    self._old.add(key)
                    continue
                matched = self._matched.get(key)
                if matched is not None and matched[0] is call:
                    self._judge_live(key, _Store(call, word), matched[1])
                else:
                    self._seen[key].append(_Store(call, word))

    def _match(self, key: Key) -> None:
        stores, wanted = self._stores[key], self._wanted[key]
        while stores and wanted:
            store, direction = stores.popleft(), wanted.popleft()
            self._matched[key] = store.call, direction
            if store.tce is not None:
                self.stored += 1
                self._judge(key, store, direction)
            for seen in self._seen.pop(key, ()):
                if seen.call is store.call:
                    self._judge_live(key, seen, direction)
                elif any(other.call is seen.call for other in stores):
                    self._seen[key].append(seen)

    def _judge_live(self, key: Key, store: _Store, direction: str) -> None:
        self.live += 1
        self._judge(key, store, direction)

    def _judge(self, key: Key, store: _Store, direction: str) -> None:
        word = store.tce
        if word is not None and tce.permissions(word) not in _GIVES.get(direction, ()):
            self._wrong.setdefault((*key, word, direction), WrongDirection(*key, word, direction, store.call))

    def wrong(self, raws: Raws) -> Iterator[WrongDirection]:
        """The findings, once everything is known, without entries that a program's own hypercall may have stored."""
        for each in self._wrong.values():
            if not self._mixed((each.liobn, each.ioba), raws):
                yield each

    def _mixed(self, key: Key, raws: Raws) -> bool:
        return raws.stored(*key) or bool(raws.unknown and self._stores.get(key))

    def unasked(self, key: Key) -> bool:
        """Is there a store without a request, once everything is known?"""
        return bool(self._stores.get(key))

    def undecided_because(self, raws: Raws) -> Iterator[str]:
        """The reasons against a verdict, once everything is known."""
        why = f"; {raws.unknown}" if raws.unknown else ""
        if alone := [key for key, stores in self._stores.items() if stores and not raws.stored(*key)]:
            yield f"no driver asked for {_entries(alone)}, so nobody can tell what they should give{why}"
        if nothing := [key for key, wanted in self._wanted.items() if wanted]:
            yield f"for a driver's mapping no hypercall stored {_entries(nothing)}"
        if old := self._old - self._matched.keys():
            yield f"{_entries(list(old))} stood before anybody heard what drivers asked for"
        if mixed := [key for key in self._matched if self._mixed(key, raws)]:
            yield f"of {_entries(mixed)} nobody can tell which were a program's own and which a driver's{why}"


def _entries(keys: list[Key]) -> str:
    (liobn, ioba), many = min(keys), len(keys) > 1
    return f"{len(keys)} entr{'ies' if many else 'y'} (LIOBN {liobn:#x} IOBA {ioba:#x}{', ...' * many})"


def _slot(device: str) -> int:
    """Of a PCI device as the kernel names it; -1: it is none."""
    try:
        return int(device.rpartition(":")[2].partition(".")[0], 16)
    except ValueError:
        return -1
