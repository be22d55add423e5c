"""Differences between two runs of one program, operation by operation and table by table.

Tables are compared by symbols: an entry whose frame belongs to a buffer stands for that buffer's page, so runs with
different frames compare. Memory is compared byte by byte if both runs used the same nonce.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tcelab.judge.models.consolelines import kinds
from tcelab.judge.models.reading import SLACK, refused_bytes
from tcelab.judge.models.side import LOW, Side
from tcelab.papr import window
from tcelab.program import ENDS_KERNEL, RESETS, Read, pagetags
from tcelab.run.record import KERNELS_LOG, Facts, Outcome, Refusal, Snapshot, Step, TableView

_LARGE: Final = 1 << 24
"""Values from here on are registers, and no counters."""
_BYTES: Final = 16
"""Bytes of a disk that are reported."""
_NOWHERE: Final = -1
"""For the frame of a page that nobody knows: no page is there."""


@dataclass(frozen=True, slots=True)
class Difference:
    """:ivar key: the same for the same thing, seen again later."""

    key: tuple[object, ...]
    message: str
    expected: str
    seen: str
    liobn: int | None = None
    ioba: int | None = None


class _Compared(NamedTuple):
    """How two tables differ, by how many frames were known of each side."""

    expected: TableView
    seen: TableView
    learnt: tuple[int, int]
    differences: list[Difference]


class _Paired(NamedTuple):
    """The frames of each side that hold the same places, for as long as neither side learns of others."""

    expected: dict[tuple[str, int], int]
    seen: dict[tuple[str, int], int]
    learnt: tuple[int, int]
    own: list[int]
    others: list[int]


class Comparison:
    """Compares the steps of one run (seen) with those of another (expected), as they come."""

    def __init__(self, expected: Facts, seen: Facts) -> None:
        self._facts = expected, seen
        self._begin()
        self._same_nonce = expected.nonce == seen.nonce
        self._names = expected.platform, seen.platform
        self._two_kernels = expected.platform == seen.platform
        self._compared: dict[int, _Compared] = {}

    def _begin(self) -> None:
        """No buffer is known."""
        numbers: dict[tuple[str, int], int] = {}
        self._expected, self._seen = (Side(each, numbers) for each in self._facts)
        self._paired = _Paired({}, {}, (0, 0), [], [])

    def compare(self, expected: Step, seen: Step) -> list[Difference]:
        """The differences after the same operation."""
        if isinstance(seen.op, Read) and seen.op.what in self._seen.facts.cannot:
            return []  # nobody has read it
        if expected.snapshot is not None and seen.snapshot is not None:
            return list(self._snapshots(expected.snapshot, seen.snapshot))
        if expected.outcome is None or seen.outcome is None:
            return []
        if isinstance(seen.op, ENDS_KERNEL):
            before = self._expected, self._seen
            self._begin()
            if not isinstance(seen.op, RESETS):
                self._expected.inherit(before[0])
                self._seen.inherit(before[1])
            self._compared.clear()
        self._expected.learn(expected.op, expected.outcome)
        self._seen.learn(seen.op, seen.outcome)
        out = list(self._twice(seen.number))
        one = self._expected.told(expected.op, expected.outcome)
        other = self._seen.told(seen.op, seen.outcome)
        if any(event.kind == "reapplied" for event in (*expected.outcome.events, *seen.outcome.events)):
            one, other = one | {"value": None}, other | {"value": None}  # read before or after the undo
        if one == other:
            return [*out, *self._events(expected.outcome, seen.outcome, seen.number)]
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        wanted, got = (
            ", ".join(_text(name, side, against) for name in names if name in side)
            for side, against in ((one, other), (other, one))
        )
        message = f"operation {seen.number} gives {got}, {self._names[0]} gives {wanted}"
        out.append(Difference(("outcome", seen.number), message, wanted, got))
        return [*out, *self._events(expected.outcome, seen.outcome, seen.number)]

    def _events(self, expected: Outcome, seen: Outcome, number: int) -> Iterator[Difference]:
        one, other = self._expected.befell(expected), self._seen.befell(seen)
        for i in range(max(len(one), len(other))):
            wanted, got = (side[i] if i < len(side) else None for side in (one, other))
            if wanted is not None and got is not None and wanted.key == got.key:
                continue
            texts = ["no event" if each is None else each.text for each in (wanted, got)]
            message = f"operation {number} gives {texts[1]}, {self._names[0]} gives {texts[0]}"
            liobn = next(each.liobn for each in (got, wanted) if each is not None)
            yield Difference(("event", number, i), message, texts[0], texts[1], liobn=liobn)

    def _twice(self, number: int) -> Iterator[Difference]:
        """Two pages cannot share a frame: one of them belongs to another buffer."""
        told, self._seen.twice = self._seen.twice, []
        for one, other, frame in told:
            names = [f"{buffer}:{page}" for buffer, page in (one, other)]
            message = f"operation {number} says that {names[1]} lies at {frame:#x}, where {names[0]} lies"
            yield Difference(("frame", frame), message, "a frame of its own", f"the frame of {names[0]}")

    def _snapshots(self, expected: Snapshot, seen: Snapshot) -> Iterator[Difference]:
        if not self._seen.facts.views:
            yield from self._consoles(expected.console, seen.console)
            return
        yield from self._tables(_first(expected, self._expected.facts), _first(seen, self._seen.facts))
        if self._same_nonce:
            yield from self._contents(expected, seen)
            yield from self._disks(expected.disks, seen.disks)
        yield from self._refusals(expected.refusals, seen.refusals)
        yield from self._consoles(expected.console, seen.console)

    def _consoles(self, expected: Sequence[str], seen: Sequence[str]) -> Iterator[Difference]:
        if KERNELS_LOG not in self._seen.facts.cannot and kinds(expected) != kinds(seen):
            wanted, got = ("; ".join(side) or "no trouble" for side in (expected, seen))
            yield Difference(("console", got), f"the kernel says {got}, {self._names[0]} says {wanted}", wanted, got)

    def _tables(self, expected: dict[int, TableView], seen: dict[int, TableView]) -> Iterator[Difference]:
        for liobn in sorted(expected.keys() | seen.keys()):
            wanted, got = (side[liobn].entries if liobn in side else 0 for side in (expected, seen))
            if wanted != got:
                message = f"LIOBN {liobn:#x} has {got} entries, {self._names[0]} has {wanted}"
                yield Difference(("size", liobn), message, f"{wanted} entries", f"{got} entries", liobn=liobn)
            shapes = [_shape(side.get(liobn)) for side in (expected, seen)]
            if all(shapes) and shapes[0] != shapes[1]:
                # Entries of the same number are not of the same bus address.
                message = f"LIOBN {liobn:#x} has {shapes[1]}, {self._names[0]} has {shapes[0]}"
                yield Difference(("shape", liobn, shapes[1]), message, shapes[0], shapes[1], liobn=liobn)
            else:
                yield from self._entries(expected.get(liobn) or _none(liobn), seen.get(liobn) or _none(liobn))

    def _entries(self, expected: TableView, seen: TableView) -> Iterator[Difference]:
        """What differs is kept, for as long as neither the tables nor what is known of frames are other ones."""
        learnt = self._expected.learnt, self._seen.learnt
        known = self._compared.get(expected.liobn)
        if known is None or known.expected is not expected or known.seen is not seen or known.learnt != learnt:
            known = _Compared(expected, seen, learnt, list(self._differing(expected, seen)))
            self._compared[expected.liobn] = known
        yield from known.differences

    def _differing(self, expected: TableView, seen: TableView) -> Iterator[Difference]:
        one, other = self._expected.symbols(expected), self._seen.symbols(seen)
        if np.array_equal(expected.index, seen.index) and np.array_equal(one, other):
            wrong = np.flatnonzero((expected.tce ^ seen.tce) & LOW)
            numbers = expected.index[wrong].tolist()
        else:
            left = _by_number(expected, one)
            right = _by_number(seen, other)
            numbers = sorted(number for number in left.keys() | right.keys() if left.get(number) != right.get(number))
        if not numbers:
            return
        tces = [dict(zip(view.index.tolist(), view.tce.tolist(), strict=True)) for view in (expected, seen)]
        for number in numbers:
            if self._inherited(*(side.get(number, 0) for side in tces)):
                continue
            texts = self._expected.describe(tces[0].get(number, 0)), self._seen.describe(tces[1].get(number, 0))
            ioba = (expected if expected.entries else seen).ioba(number)
            where = f"LIOBN {expected.liobn:#x} IOBA {ioba:#x}"
            yield Difference(
                ("entry", expected.liobn, number, texts[1]),
                f"{where}: the entry is {texts[1]}, {self._names[0]} has {texts[0]}",
                *texts,
                liobn=expected.liobn,
                ioba=ioba,
            )

    def _inherited(self, expected: int, seen: int) -> bool:
        """Both are the same entry of a kernel before: its page may have become another one's since, on either side."""
        entry = self._expected.inherited(expected)
        return entry is not None and entry == self._seen.inherited(seen)

    def _contents(self, expected: Snapshot, seen: Snapshot) -> Iterator[Difference]:
        # Nearly always all are equal: that is found without code of ours for each page.
        pairs = self._pairs()
        if list(map(expected.pages.get, pairs.own)) == list(map(seen.pages.get, pairs.others)):
            return
        for place, frame in self._seen.frames.items():
            own = self._expected.frames.get(place)
            if own not in expected.pages or frame not in seen.pages or place in self._seen.rings:
                continue
            content, wanted = seen.pages[frame], expected.pages[own]
            if wanted != content and not (self._two_kernels and place in self._seen.named):
                texts = pagetags.contrast(wanted, content) if wanted else ("no RAM", pagetags.describe(content or b""))
                message = f"buffer {place[0]} page {place[1]} holds {texts[1]}, {self._names[0]} has {texts[0]}"
                yield Difference(("content", place, content), message, texts[0], texts[1])

    def _pairs(self) -> _Paired:
        expected, seen, learnt = self._expected.frames, self._seen.frames, (self._expected.learnt, self._seen.learnt)
        known = self._paired
        if known.expected is not expected or known.seen is not seen or known.learnt != learnt:
            own = [expected.get(place, _NOWHERE) for place in seen]
            known = self._paired = _Paired(expected, seen, learnt, own, list(seen.values()))
        return known

    def _disks(self, expected: Mapping[str, bytes], seen: Mapping[str, bytes]) -> Iterator[Difference]:
        for name in sorted(expected.keys() & seen.keys()):
            wanted, got = expected[name], seen[name]
            if wanted != got:
                at = next((i for i, (one, other) in enumerate(zip(wanted, got, strict=False)) if one != other), 0)
                texts = [side[at : at + _BYTES].hex() for side in (wanted, got)]
                message = f"the disk of {name} holds {texts[1]} at byte {at:#x}, {self._names[0]} has {texts[0]}"
                yield Difference(("disk", name, at, texts[1]), message, texts[0], texts[1])

    def _refusals(self, expected: Sequence[Refusal], seen: Sequence[Refusal]) -> Iterator[Difference]:
        wanted, got = refused_bytes(expected), refused_bytes(seen)
        for place in sorted(wanted.keys() | got.keys()):
            direction, page = place
            if page in self._seen.queues:
                continue
            pieces = sum((each.direction, each.address >> window.PAGE_SHIFT) == place for each in expected)
            if bool(wanted[place]) == bool(got[place]) and abs(wanted[place] - got[place]) <= SLACK * pieces:
                continue
            texts = [f"{side[place]} bytes refused" for side in (wanted, got)]
            access = f"device {direction}s at {page << window.PAGE_SHIFT:#x}"
            yield Difference(
                ("refusal", *place),
                f"{access}: {texts[1]}, {self._names[0]} says {texts[0]}",
                texts[0],
                texts[1],
                ioba=page << window.PAGE_SHIFT,
            )


def _shape(table: TableView | None) -> str:
    """Empty if there is no table."""
    return f"page shift {table.page_shift}, bus offset {table.bus_offset:#x}" if table and table.entries else ""


def _by_number(table: TableView, symbols: npt.NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    low = (table.tce & LOW).tolist()
    return dict(zip(table.index.tolist(), zip(symbols.tolist(), low, strict=True), strict=True))


def _none(liobn: int) -> TableView:
    """A table that a run does not have."""
    return TableView(liobn, "live", 0, np.empty(0, np.uint32), np.empty(0, np.uint64))


def _first(snapshot: Snapshot, facts: Facts) -> dict[int, TableView]:
    """The tables as the first available view showed them."""
    for view in facts.views:
        tables = {table.liobn: table for table in snapshot.tables if table.view == view}
        if tables:
            return tables
    return {}


def _text(name: str, side: dict[str, object], other: dict[str, object]) -> str:
    """What one side has of something that differs: of a list, the first that does."""
    value, against = side[name], other.get(name)
    if name == "errno":
        return str(value)
    if name == "frames" and isinstance(value, tuple):
        return f"{sum(value)} of {len(value)} frames"
    if isinstance(value, list) and isinstance(against, list):
        return _of_list(name, value, against)
    plain = not isinstance(value, int) or name == "calls" or (name == "value" and value < _LARGE)
    return f"{name} {value}" if plain and name not in _ADDRESSES else f"{name} {value:#x}"


_ADDRESSES: Final = {"liobn", "buid", "window_start", "start_addr", "start"}
"""Fields that are told in hex, however small."""
_FIRST_REGISTER: Final = 4


def _of_list(name: str, value: list[object], against: list[object]) -> str:
    """Statuses or registers of hypercalls, or ends of transfers."""
    at = next((i for i, pair in enumerate(zip(value, against, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        return f"{len(value)} {name}"
    one, other = value[at], against[at]
    if name != "registers" or not isinstance(one, tuple) or not isinstance(other, tuple):
        return f"{name}[{at}] {one}"
    number = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), 0)
    return f"r{number + _FIRST_REGISTER} of call {at} {_register(one[number] if number < len(one) else None)}"


def _register(value: object) -> str:
    if isinstance(value, tuple):  # a TCE: the number of the page that it leads to, and the bits beside it
        return f"page {value[0]:#x} with {value[1]:#x}"
    return f"{value:#x}" if isinstance(value, int) else str(value)
