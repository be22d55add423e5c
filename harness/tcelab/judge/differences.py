"""Differences between two runs of one program, operation by operation and table by table.

Tables are compared by symbols: an entry whose frame belongs to a buffer is that buffer's page, so runs compare although
their frames differ. Memory is compared byte by byte where both runs tagged with the same nonce.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tceagent import uapi
from tcelab import tag
from tcelab.judge.console import kinds
from tcelab.judge.hypercalls import seen_registers, words_of
from tcelab.judge.ram import SLACK, refused_bytes
from tcelab.judge.requests import request_name
from tcelab.papr import tce, window
from tcelab.program import (
    Bind,
    Buffer,
    Burst,
    Engine,
    Exit,
    Frames,
    Hcall,
    HcallBatch,
    Ioctl,
    Op,
    Open,
    Page,
    Put,
    Read,
    Repeat,
)
from tcelab.run import Event, Facts, Outcome, Refusal, Snapshot, Step, TableView

_COMPARED: Final[dict[type[Op], tuple[str, ...]]] = {
    Bind: ("liobn", "window_start", "window_size", "buid"),
    Repeat: ("calls",),
    Burst: ("done",),
    Hcall: (),
    HcallBatch: ("statuses", "calls"),
}
"""Of what an operation reports, all that depends neither on time nor on the order in which a kernel finds devices."""

_FRAME: Final = np.uint64(~(window.PAGE_SIZE - 1) & (1 << 64) - 1)
_LOW: Final = np.uint64(window.PAGE_SIZE - 1)
"""Permissions, and what else there may be in a TCE beside the page."""
_LARGE: Final = 1 << 24
"""Values from here on are registers, and no counters."""
_BYTES: Final = 16
"""Of a disk that are told."""
_RAW: Final = 1 << 40
"""Symbols from here on are frames that belong to no buffer."""


@dataclass(frozen=True, slots=True)
class Difference:
    """:ivar key: the same for the same thing, seen again later."""

    key: tuple[object, ...]
    message: str
    expected: str
    seen: str
    liobn: int | None = None
    ioba: int | None = None


class Happening(NamedTuple):
    """An event: `key` is all of it that must be equal, its entries by symbols, and `text` the same for people."""

    pe: int
    liobn: int
    key: tuple[object, ...]
    text: str


class Side:
    """One of the two runs: which frame belongs to which page of which buffer, and where its counters began.

    :ivar twice: two places of living buffers that are said to lie in one frame.
    :ivar named: pages with structs that name addresses or descriptors: of two kernels, each has its own.
    :ivar rings: pages with the queue of a device, and `queues`, their bus pages: a device that is isolated has said of
        its last transfer that it is done, or has not.
    """

    def __init__(self, facts: Facts, numbers: dict[tuple[str, int], int]) -> None:
        self.facts = facts
        self.frames: dict[tuple[str, int], int] = {}
        self._numbers = numbers
        self._symbols: dict[int, int] = {}
        self._sorted: tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]] | None = None
        self._addresses: dict[str, tuple[int, int]] = {}
        self._owners: dict[str, str] = {}
        self.named: set[tuple[str, int]] = set()
        self.rings: set[tuple[str, int]] = set()
        self.queues: set[int] = set()
        self._places: dict[int, tuple[str, int]] = {}
        self.twice: list[tuple[tuple[str, int], tuple[str, int], int]] = []
        self._pins: int | None = None

    def learn(self, op: Op, outcome: Outcome) -> None:
        """What an outcome tells of frames and addresses."""
        match op:
            case Buffer() if outcome.value is not None:
                self._addresses[op.name] = outcome.value, op.pages
                self._owners[op.name] = op.by
            case Exit():
                self._forget(op.process)
            case Frames():
                self._know(op.buffer, 0, outcome.frames)
            case Put() if not all(isinstance(word, int) for word in op.fields.values()):
                last = op.offset + uapi.LAYOUTS[op.request].size - 1
                pages = range(op.offset // window.PAGE_SIZE, last // window.PAGE_SIZE + 1)
                self.named.update((op.buffer, page) for page in pages)
            case Engine():
                for page in range(2):
                    self.rings.add((op.ring.buffer, op.ring.index + page))
                    self.queues.add((op.iova >> window.PAGE_SHIFT) + page)
            case Ioctl() if outcome.frames and op.value is None:
                self._know(*self._page(op), outcome.frames)
            case Repeat():
                self._repeated(op, outcome.frames)
            case Hcall() | HcallBatch():
                for word, frame in zip(words_of(op), outcome.frames, strict=False):
                    self._know(word.buffer, word.index, [frame])

    def told(self, op: Op, outcome: Outcome) -> dict[str, object]:
        """What must be equal of an outcome."""
        made = isinstance(op, Open | Buffer) or (
            isinstance(op, Ioctl) and (op.into or request_name(op.request) == "GROUP_GET_DEVICE_FD")
        )
        value: object = outcome.value
        if made and outcome.value is not None:
            value = "made" if outcome.value >= 0 else outcome.value
        elif isinstance(op, Read) and op.what == "pins" and outcome.value is not None:
            self._pins = outcome.value if self._pins is None else self._pins
            value = outcome.value - self._pins
        out: dict[str, object] = {"errno": outcome.errno} if outcome.errno else {"value": value}
        names = _COMPARED.get(type(op), tuple(outcome.fields))
        out |= {name: outcome.fields[name] for name in names if name in outcome.fields}
        if isinstance(op, Hcall | HcallBatch):
            out["registers"] = [
                tuple((self._symbol(each), each & int(_LOW)) if leads else each for leads, each in registers)
                for registers in seen_registers(op, outcome)
            ]
        return out | {"frames": tuple(bool(frame) for frame in outcome.frames)}

    def befell(self, outcome: Outcome) -> list[Happening]:
        """What must be equal of the events of an outcome: all but times. What befell two PEs has no order."""
        told = [self._happening(event) for event in outcome.events if event.kind != "unblamed"]
        return sorted(told, key=lambda each: each.pe)

    def _happening(self, event: Event) -> Happening:
        entries = [event.entry, *event.neighbours]
        symbols = tuple(None if each is None else (self._symbol(each), each & int(_LOW)) for each in entries)
        names = ("kind", "pe", "liobn", "device", "iova", "start", "size", "direction", "reason")
        key = (*(getattr(event, name) for name in names), symbols)
        text = f"PE {event.pe} {event.kind}: {event.device}"
        if event.direction:
            entry, *beside = ["none" if each is None else self.describe(each) for each in entries]
            text += f" {event.direction}s {event.iova:#x} of {event.size} bytes from {event.start:#x} on"
            text += f" ({event.reason}, entry {entry} beside {' and '.join(beside) or 'nothing'})"
        return Happening(event.pe, event.liobn, key, text)

    def _symbol(self, value: int) -> int:
        """As `symbols`, of one entry."""
        frame = tce.address(value)
        return self._symbols.get(frame, (frame >> window.PAGE_SHIFT) + _RAW) if value else 0

    def symbols(self, table: TableView) -> npt.NDArray[np.int64]:
        """For each live entry, the number of the page that it leads to."""
        if self._sorted is None:
            known = sorted(self._symbols.items())
            self._sorted = (
                np.array([frame for frame, _ in known], np.uint64),
                np.array([number for _, number in known], np.int64),
            )
        frames, numbers = self._sorted
        wanted = table.tce & _FRAME
        raw = (wanted >> np.uint64(window.PAGE_SHIFT)).astype(np.int64) + _RAW
        if not len(frames):
            return raw
        at = np.minimum(np.searchsorted(frames, wanted), len(frames) - 1)
        return np.where(frames[at] == wanted, numbers[at], raw)

    def describe(self, value: int) -> str:
        """A TCE as `m:3 (read)`, or raw."""
        if not value:
            return "0 (empty)"
        number = self._symbols.get(tce.address(value))
        if number is None:
            return tce.describe(value)
        buffer, page = next(place for place, known in self._numbers.items() if known == number)
        return f"{buffer}:{page} ({tce.PERMISSION_NAMES[tce.permissions(value)]})"

    def _repeated(self, op: Repeat, frames: Sequence[int]) -> None:
        """The frames of each MAP_DMA that was done at least once, one after the other."""
        for call in op.ops:
            size = call.fields.get("size", 0)
            if call.request == "MAP_DMA" and isinstance(size, int) and frames:
                pages = size >> window.PAGE_SHIFT
                self._know(*self._page(call), frames[:pages])
                frames = frames[pages:]

    def _know(self, buffer: str, first: int, frames: Sequence[int]) -> None:
        for page, frame in enumerate(frames, first):
            if not frame or self.frames.get((buffer, page)) == frame:
                continue
            self._sorted = None
            there = self._places.get(frame)
            if there is not None and there != (buffer, page) and self.frames.get(there) == frame:
                self.twice.append((there, (buffer, page), frame))
            self._places[frame] = buffer, page
            number = self._numbers.setdefault((buffer, page), len(self._numbers))
            self.frames[buffer, page] = frame
            self._symbols[frame] = number

    def _forget(self, process: str) -> None:
        """Its memory is somebody else's now; entries may lead there as long as the pages are pinned."""
        gone = {name for name, owner in self._owners.items() if owner == process}
        self.frames = {place: frame for place, frame in self.frames.items() if place[0] not in gone}

    def _page(self, op: Ioctl) -> tuple[str, int]:
        """The buffer and page that a MAP_DMA began at; a raw address that lies in none is a buffer of its own."""
        vaddr = op.fields.get("vaddr", 0)
        if isinstance(vaddr, Page):
            return vaddr.buffer, vaddr.index + vaddr.plus // window.PAGE_SIZE
        for name, (address, pages) in self._addresses.items():
            if isinstance(vaddr, int) and 0 <= vaddr - address < pages * window.PAGE_SIZE:
                return name, (vaddr - address) // window.PAGE_SIZE
        return f"address {vaddr}", 0


class Comparison:
    """Holds the steps of one run (seen) against those of another (expected), as they come."""

    def __init__(self, expected: Facts, seen: Facts) -> None:
        numbers: dict[tuple[str, int], int] = {}
        self._expected, self._seen = Side(expected, numbers), Side(seen, numbers)
        self._same_nonce = expected.nonce == seen.nonce
        self._names = expected.platform, seen.platform
        self._two_kernels = expected.platform == seen.platform

    def compare(self, expected: Step, seen: Step) -> list[Difference]:
        """What differs after the same operation."""
        if expected.snapshot is not None and seen.snapshot is not None:
            return list(self._snapshots(expected.snapshot, seen.snapshot))
        if expected.outcome is None or seen.outcome is None:
            return []
        self._expected.learn(expected.op, expected.outcome)
        self._seen.learn(seen.op, seen.outcome)
        out = list(self._twice(seen.number))
        one = self._expected.told(expected.op, expected.outcome)
        other = self._seen.told(seen.op, seen.outcome)
        if any(event.kind == "reapplied" for event in (*expected.outcome.events, *seen.outcome.events)):
            one, other = one | {"value": None}, other | {"value": None}  # read before or after that was undone
        if one == other:
            return [*out, *self._events(expected.outcome, seen.outcome, seen.number)]
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        wanted, got = (", ".join(_text(name, side) for name in names if name in side) for side in (one, other))
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
        """Two pages cannot lie in one frame: one of them is somebody else's."""
        told, self._seen.twice = self._seen.twice, []
        for one, other, frame in told:
            names = [f"{buffer}:{page}" for buffer, page in (one, other)]
            message = f"operation {number} says that {names[1]} lies at {frame:#x}, where {names[0]} lies"
            yield Difference(("frame", frame), message, "a frame of its own", f"the frame of {names[0]}")

    def _snapshots(self, expected: Snapshot, seen: Snapshot) -> Iterator[Difference]:
        yield from self._tables(_first(expected, self._expected.facts), _first(seen, self._seen.facts))
        if self._same_nonce:
            yield from self._contents(expected, seen)
            yield from self._disks(expected.disks, seen.disks)
        yield from self._refusals(expected.refusals, seen.refusals)
        if kinds(expected.console) != kinds(seen.console):
            wanted, got = ("; ".join(side.console) or "no trouble" for side in (expected, seen))
            yield Difference(("console", got), f"the kernel says {got}, {self._names[0]} says {wanted}", wanted, got)

    def _tables(self, expected: dict[int, TableView], seen: dict[int, TableView]) -> Iterator[Difference]:
        for liobn in sorted(expected.keys() | seen.keys()):
            wanted, got = (side[liobn].entries if liobn in side else 0 for side in (expected, seen))
            if wanted != got:
                message = f"LIOBN {liobn:#x} has {got} entries, {self._names[0]} has {wanted}"
                yield Difference(("size", liobn), message, f"{wanted} entries", f"{got} entries", liobn=liobn)
            yield from self._entries(expected.get(liobn) or _none(liobn), seen.get(liobn) or _none(liobn))

    def _entries(self, expected: TableView, seen: TableView) -> Iterator[Difference]:
        one, other = self._expected.symbols(expected), self._seen.symbols(seen)
        if np.array_equal(expected.index, seen.index) and np.array_equal(one, other):
            wrong = np.flatnonzero((expected.tce ^ seen.tce) & _LOW)
            numbers = expected.index[wrong].tolist()
        else:
            left = _by_number(expected, one)
            right = _by_number(seen, other)
            numbers = sorted(number for number in left.keys() | right.keys() if left.get(number) != right.get(number))
        tces = [dict(zip(view.index.tolist(), view.tce.tolist(), strict=True)) for view in (expected, seen)]
        for number in numbers:
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

    def _contents(self, expected: Snapshot, seen: Snapshot) -> Iterator[Difference]:
        for place, frame in self._seen.frames.items():
            own = self._expected.frames.get(place)
            if own not in expected.pages or frame not in seen.pages or place in self._seen.rings:
                continue
            content, wanted = seen.pages[frame], expected.pages[own]
            if wanted != content and not (self._two_kernels and place in self._seen.named):
                texts = [tag.describe(page) if page else "no RAM" for page in (wanted, content)]
                message = f"buffer {place[0]} page {place[1]} holds {texts[1]}, {self._names[0]} has {texts[0]}"
                yield Difference(("content", place, content), message, texts[0], texts[1])

    def _disks(self, expected: dict[str, bytes], seen: dict[str, bytes]) -> Iterator[Difference]:
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


def _by_number(table: TableView, symbols: npt.NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    low = (table.tce & _LOW).tolist()
    return dict(zip(table.index.tolist(), zip(symbols.tolist(), low, strict=True), strict=True))


def _none(liobn: int) -> TableView:
    """A table that a run does not have."""
    return TableView(liobn, "live", 0, np.empty(0, np.uint32), np.empty(0, np.uint64))


def _first(snapshot: Snapshot, facts: Facts) -> dict[int, TableView]:
    """The tables as the first view showed them that was there."""
    for view in facts.views:
        tables = {table.liobn: table for table in snapshot.tables if table.view == view}
        if tables:
            return tables
    return {}


def _text(name: str, side: dict[str, object]) -> str:
    value = side[name]
    if name == "errno":
        return str(value)
    if name == "frames" and isinstance(value, tuple):
        return f"{sum(value)} of {len(value)} frames"
    plain = not isinstance(value, int) or name == "calls" or (name == "value" and value < _LARGE)
    return f"{name} {value}" if plain else f"{name} {value:#x}"
