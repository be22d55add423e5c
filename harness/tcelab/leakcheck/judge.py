"""Entries that stayed, and the laws that they break: from the tables at three moments, and the trace between them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from tcelab.leakcheck.directions import WrongDirection
from tcelab.leakcheck.dmaapi import Turned
from tcelab.leakcheck.leakresult import LeakFinding, Origin, TableAt
from tcelab.leakcheck.trace import Hypercall
from tcelab.leakcheck.tracereplay import Replayed, Shared, Table
from tcelab.papr import hcallnumbers, tce, window

Tables = Mapping[int, Table]
"""By LIOBN."""

_RESERVED: Final = window.PAGE_SIZE - 1 - tce.PERMISSIONS


_WHY: Final = {
    ("leak", False): "stayed",
    ("leak", True): "stayed, and outlived the driver",
    ("unbind", True): "stayed when the driver was unbound",
}
"""By law, and whether the entry outlived the driver."""


class _StoredTce(NamedTuple):
    """A TCE and its place."""

    liobn: int
    ioba: int
    tce: int


class Stayed:
    """Entries of a moment that were not there at the baseline.

    A driver replaces ring entries: every packet removes one and adds another. An entry is `excess` only if, for its
    LIOBN and permissions, more entries were added than removed.

    :ivar excess: by LIOBN and permissions, how many entries there are more.
    :ivar exchanged: by LIOBN, how many entries have replaced another.
    """

    def __init__(self, baseline: Tables, now: Tables) -> None:
        came: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
        gone: Counter[tuple[int, int]] = Counter()
        for liobn in baseline.keys() | now.keys():
            before, after = baseline.get(liobn, {}), now.get(liobn, {})
            for ioba, word in after.items():
                if before.get(ioba) != word:
                    came[liobn, tce.permissions(word)][ioba] = word
            for ioba, word in before.items():
                if after.get(ioba) != word:
                    gone[liobn, tce.permissions(word)] += 1
        self.came = came
        self.excess = {key: len(words) - gone[key] for key, words in came.items() if len(words) > gone[key]}
        self.exchanged: Counter[int] = Counter()
        for (liobn, _), words in came.items():
            self.exchanged[liobn] += min(len(words), gone[liobn, _])


class LeakJudge:
    """Knows the machine and the moment of the baseline.

    :ivar devices: by LIOBN, the devices whose drivers are the kernel's own.
    :ivar baseline_at: seconds since 1970.
    """

    def __init__(self, devices: Mapping[int, str], ram: int, baseline_at: float = 0.0) -> None:
        """:param ram: bytes of RAM that the kernel was given, from 0 on."""
        self.devices = devices
        self.baseline_at = baseline_at
        self._ram = ram

    def leaks(self, stayed: Stayed, replayed: Replayed, unbound: Tables) -> Iterator[LeakFinding]:
        """Entries that stayed. Where some were removed as well, entries that survived the unbind come first."""
        for (liobn, permissions), words in sorted(stayed.came.items()):
            left = stayed.excess.get((liobn, permissions), 0)
            still = unbound.get(liobn, {})
            outlived = {ioba for ioba, word in words.items() if liobn in self.devices and still.get(ioba) == word}
            others = [ioba for ioba in sorted(words) if ioba not in outlived]
            told = sorted(outlived) + (others if len(others) == left - len(outlived) else [])
            for ioba in told:
                yield self._entry("leak", _StoredTce(liobn, ioba, words[ioba]), replayed, outlived=ioba in outlived)
            if (rest := left - len(told)) > 0:
                yield LeakFinding(
                    law="leak",
                    message=f"{rest} of these {len(others)} entries have no place in what was there before:"
                    f" IOBA {', '.join(f'{ioba:#x}' for ioba in others[:16])}{', ...' * (len(others) > 16)}",  # noqa: PLR2004
                    liobn=liobn,
                    device=self.devices.get(liobn, ""),
                )

    def unbound(self, tables: Tables, told: Iterable[LeakFinding], replayed: Replayed) -> Iterator[LeakFinding]:
        """Entries in the tables of unbound devices, except those reported as leaks."""
        known = {(each.liobn, each.ioba) for each in told if each.outlived}
        for liobn in sorted(self.devices):
            for ioba, word in sorted(tables.get(liobn, {}).items()):
                if (liobn, ioba) not in known:
                    yield self._entry("unbind", _StoredTce(liobn, ioba, word), replayed, outlived=True)

    def entries(self, tables: Tables, replayed: Replayed) -> Iterator[LeakFinding]:
        """Laws of every live entry. Permissions are those of VFIO's caller where a PE has no driver of the kernel."""
        for liobn, table in sorted(tables.items()):
            for ioba, word in sorted(table.items()):
                for law, why in self.problems(liobn, word):
                    yield self._entry(law, _StoredTce(liobn, ioba, word), replayed, why)

    def problems(self, liobn: int, word: int) -> Iterator[tuple[str, str]]:
        """Laws that a TCE breaks wherever it stands: (law, why)."""
        if tce.address(word) + window.PAGE_SIZE > self._ram:
            yield "memory", f"leads to {tce.address(word):#x}, and the kernel has {self._ram:#x} bytes of RAM"
        if liobn not in self.devices:
            return
        if not word & tce.READ:
            yield "permission", f"gives {tce.PERMISSION_NAMES[tce.permissions(word)]}: the DMA API always lets read"
        if word & _RESERVED:
            yield "permission", f"has reserved bits: {word & _RESERVED:#x}"

    def call(self, call: Hypercall) -> Iterator[LeakFinding]:
        """Laws of the TCE in the trace when it is stored, however soon it is removed."""
        if call.status or not call.tce:
            return
        ioba = call.ioba + (call.entries - 1) * window.PAGE_SIZE
        for law, why in self.problems(call.liobn, call.tce):
            yield self._finding(law, _StoredTce(call.liobn, ioba, call.tce), self.origin(call, ioba), why)

    def direction(self, wrong: WrongDirection) -> LeakFinding:
        """An entry whose permissions differ from its driver's request."""
        gives = tce.PERMISSION_NAMES[tce.permissions(wrong.tce)]
        why = f"gives {gives}, and its driver asked for DMA_{wrong.direction}"
        spot = _StoredTce(wrong.liobn, wrong.ioba, wrong.tce)
        return self._finding("direction", spot, self.origin(wrong.call, wrong.ioba), why)

    def shared(self, shared: Shared) -> LeakFinding:
        """Entries that two mappings have at once."""
        call, many = shared.call, shared.entries > 1
        what = f"{shared.entries} entries from there on were" if many else "an entry was"
        still = "they" if many else "it"
        earlier = None if shared.earlier is None else self.origin(shared.earlier, shared.first)
        message = f"LIOBN {call.liobn:#x} IOBA {shared.first:#x}: {what} stored while {still} stood"
        message = f"{message} for another mapping (stored by: {describe(earlier)})"
        return self._of_call("shared", call, shared.first, message)

    def large(self, call: Hypercall) -> LeakFinding:
        """A call of the kernel with too many entries."""
        message = f"LIOBN {call.liobn:#x} IOBA {call.ioba:#x}: {call.name} of {call.entries} entries"
        return self._of_call("limit", call, call.ioba, message)

    def _of_call(self, law: str, call: Hypercall, ioba: int, message: str) -> LeakFinding:
        """About what a hypercall did from one entry on."""
        return LeakFinding(
            law=law,
            message=message,
            liobn=call.liobn,
            device=self.devices.get(call.liobn, ""),
            ioba=ioba,
            origin=self.origin(call, ioba),
        )

    def refused(self, call: Hypercall) -> LeakFinding:
        """A call of the kernel on a driver's table that failed."""
        finding = self.large(call)
        return msgspec.structs.replace(finding, message=f"{finding.message} was refused with status {call.status}")

    def turned(self, turned: Turned, times: int) -> LeakFinding:
        """Calls of the kernel that were refused, by the kernel's own trace."""
        name = next(
            (name for name, opcode in hcallnumbers.NAMES.items() if opcode == turned.opcode), f"{turned.opcode:#x}"
        )
        message = f"the kernel's {name} was refused with status {turned.status}, {times} times"
        return LeakFinding(law="limit", message=message)

    def origin(self, call: Hypercall, ioba: int) -> Origin:
        """The call that stored an entry, the entry's number in it, and its time."""
        return Origin(
            hypercall=call.name,
            seconds=round(call.at - self.baseline_at, 6),
            ioba=call.ioba,
            entries=call.entries,
            number=(ioba - call.ioba) // window.PAGE_SIZE + 1,
        )

    def _entry(
        self, law: str, spot: _StoredTce, replayed: Replayed, why: str = "", *, outlived: bool = False
    ) -> LeakFinding:
        call = replayed.origin(*spot)
        origin = None if call is None else self.origin(call, spot.ioba)
        return self._finding(law, spot, origin, why or _WHY[law, outlived], outlived=outlived)

    def _finding(
        self, law: str, spot: _StoredTce, origin: Origin | None, why: str, *, outlived: bool = False
    ) -> LeakFinding:
        return LeakFinding(
            law=law,
            message=f"LIOBN {spot.liobn:#x} IOBA {spot.ioba:#x}: {tce.describe(spot.tce)} {why}",
            liobn=spot.liobn,
            device=self.devices.get(spot.liobn, ""),
            ioba=spot.ioba,
            tce=spot.tce,
            origin=origin,
            outlived=outlived,
        )


def occupancy(devices: Mapping[int, str], baseline: Tables, after: Tables, unbound: Tables) -> list[TableAt]:
    """Each table that ever held an entry, and those of the devices."""
    exchanged = Stayed(baseline, after).exchanged
    held = {liobn for tables in (baseline, after, unbound) for liobn, table in tables.items() if table}
    return [
        TableAt(
            liobn=liobn,
            device=devices.get(liobn, ""),
            baseline=len(baseline.get(liobn, {})),
            after=len(after.get(liobn, {})),
            exchanged=exchanged[liobn],
            unbound=len(unbound.get(liobn, {})),
        )
        for liobn in sorted(held | devices.keys())
    ]


def describe(origin: Origin | None) -> str:
    """Where an entry came from, in words."""
    if origin is None:
        return "stored before the trace began"
    when = f"{abs(origin.seconds):.6f} s {'after' if origin.seconds >= 0 else 'before'} the baseline"
    if origin.entries == 1:
        return f"{origin.hypercall} of 1 entry, {when}"
    return (
        f"{origin.hypercall} of {origin.entries} entries from IOBA {origin.ioba:#x} on, the entry number"
        f" {origin.number} of them, {when}"
    )
