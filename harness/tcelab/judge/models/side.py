"""One of two runs of a program: its frames and addresses, and the parts of its outcomes that must be equal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tceagent import uapi
from tcelab.errors import counted
from tcelab.judge.models.hypercallmodel import seen_registers, words_of
from tcelab.judge.models.pes import MASTER, MEMORY, UNREACHED
from tcelab.judge.models.requests import request_name
from tcelab.papr import tce, window
from tcelab.program import (
    ENDS_KERNEL,
    AtOnce,
    Bind,
    BridgeAdd,
    BridgeRemove,
    Buffer,
    Burst,
    Ddw,
    DeviceAdd,
    DeviceRemove,
    DmaAlloc,
    DmaBind,
    DmaFree,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaRepeat,
    DmaUnbind,
    Doorbell,
    Engine,
    Exit,
    Frames,
    Hcall,
    HcallBatch,
    Ioctl,
    Load,
    Master,
    MemoryAdd,
    MemoryRemove,
    Op,
    Open,
    Page,
    Part,
    Put,
    Read,
    Repeat,
    Save,
)
from tcelab.run.record import Event, Facts, Outcome, TableView

_COMPARED: Final[dict[type[Op], tuple[str, ...]]] = {
    Bind: ("liobn", "window_start", "window_size", "buid"),
    AtOnce: (),
    DmaBind: ("liobn", "window_start", "window_size", "buid", "streaming", "coherent", "direct"),
    Repeat: ("calls",),
    Burst: ("done",),
    Doorbell: ("allowed", "refused", "errno", "first_refused", "interrupts"),
    Hcall: (),
    HcallBatch: ("statuses", "calls"),
    DmaRepeat: ("lists",),
    **dict.fromkeys(ENDS_KERNEL, ("boot",)),
    **dict.fromkeys((DeviceAdd, DeviceRemove, BridgeAdd, BridgeRemove, MemoryRemove, Save, Load), ()),
    MemoryAdd: ("address", "size"),
}
"""Output fields that depend neither on time nor on a kernel's order of devices."""

_FRAME: Final = np.uint64(~(window.PAGE_SIZE - 1) & (1 << 64) - 1)
LOW: Final = np.uint64(window.PAGE_SIZE - 1)
"""Bits of a TCE beside the page address: permissions and others."""
_RAW: Final = 1 << 40
"""Symbols from here on are frames that belong to no buffer."""


class Happening(NamedTuple):
    """An event: `key` holds everything that must be equal, entries as symbols; `text` is the same for people."""

    pe: int
    liobn: int
    key: tuple[object, ...]
    text: str


class Led(NamedTuple):
    """Where a TCE leads: the number of its page, and its low bits.

    :ivar before: the number that its page had under the kernel before: whose page it is now may differ in two runs.
    """

    page: int
    low: int
    before: int | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Led) or self.low != other.low:
            return False
        return self.page == other.page or (self.before is not None and self.before == other.before)

    def __hash__(self) -> int:
        return hash(self.low)


class Side:
    """One of the two runs: which frame belongs to which page of which buffer, and where its counters began.

    :ivar twice: two places of live buffers that are reported to share a frame.
    :ivar learnt: counts the frames that it came to know, or to know for another page.
    :ivar direct: LIOBNs of windows that a driver of the DMA API has had made, in which all RAM is mapped.
    :ivar named: pages with structs that contain addresses or descriptors, which differ between two kernels.
    :ivar rings: pages with the queue of a device, and `queues`, their bus pages: an isolated device may or may not have
        reported its last transfer as done.
    """

    def __init__(self, facts: Facts, numbers: dict[tuple[str, int], int]) -> None:
        self.facts = facts
        self.frames: dict[tuple[str, int], int] = {}
        self._numbers = numbers
        self._per_cpu_page = facts.page_size // window.PAGE_SIZE
        self._symbols: dict[int, int] = {}
        self.learnt = 0
        self._sorted: tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]] | None = None
        self._addresses: dict[str, tuple[int, int]] = {}
        self._owners: dict[str, str] = {}
        self.named: set[tuple[str, int]] = set()
        self.rings: set[tuple[str, int]] = set()
        self.queues: set[int] = set()
        self._places: dict[int, tuple[str, int]] = {}
        self.twice: list[tuple[tuple[str, int], tuple[str, int], int]] = []
        self._pins: int | None = None
        self._inherited: dict[int, int] = {}
        self.direct: set[int] = set()
        self._made: set[int] = set()
        self._liobns: dict[str, int] = {}
        self._coherent: dict[str, str] = {}

    def inherit(self, before: Side) -> None:
        """The side as it was until its kernel ended and its tables stayed: entries lead where they led."""
        shift = len(before._inherited) + len(before._numbers)
        self._inherited = {frame: number - shift for frame, number in before._inherited.items()}
        self._inherited |= {frame: -1 - number for frame, number in before._symbols.items()}

    def inherited(self, value: int) -> tuple[int, int] | None:
        """What an entry stands for that the kernel before had made; None: it had made none that leads there."""
        number = self._inherited.get(tce.address(value))
        return None if number is None else (number, value & int(LOW))

    def learn(self, op: Op, outcome: Outcome) -> None:
        """Learn frames and addresses from an outcome."""
        match op:
            case Buffer() if outcome.value is not None:
                self._addresses[op.name] = outcome.value, op.pages + -op.pages % self._per_cpu_page
                self._owners[op.name] = op.by
            case Exit():
                self._forget(op.process)
            case Frames():
                self._know(op.buffer, 0, self._whole(outcome.frames))
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
            case DmaBind() | DmaUnbind() | DmaMask() | DmaAlloc() | DmaFree() | DmaMap() | DmaMapSg() | Ddw():
                self._drive(op, outcome)
            case Hcall() | HcallBatch():
                for word, frame in zip(words_of(op), outcome.frames, strict=False):
                    self._know(word.buffer, word.index, [frame])

    def _drive(self, op: Op, outcome: Outcome) -> None:
        """What a driver of the DMA API is given."""
        match op:
            case DmaBind():
                self._liobns[op.device] = outcome.fields.get("liobn", 0)
            case Ddw(call="create") if not outcome.value:
                self._made.add(outcome.fields.get("liobn", 0))
            case DmaMask() if outcome.fields.get("direct"):
                liobn = self._liobns.get(op.device, 0)
                self.direct.add(liobn if liobn | 1 in self._made else liobn | 1)
            case DmaAlloc():
                self._coherent[op.buffer] = op.device
                self._know(op.buffer, 0, outcome.frames)
            case DmaFree() if not outcome.errno:
                self._freed(op.buffer)
            case DmaUnbind() if not op.late and not outcome.errno:
                for name in [name for name, device in self._coherent.items() if device == op.device]:
                    self._freed(name)
            case DmaMap() | DmaMapSg():
                frames = iter(outcome.frames)
                for part in [Part(op.page, op.size)] if isinstance(op, DmaMap) else op.parts:
                    first, offset = divmod(part.page.index * window.PAGE_SIZE + part.page.plus, window.PAGE_SIZE)
                    count = -(-(offset + part.size) // window.PAGE_SIZE)
                    self._know(part.page.buffer, first, list(islice(frames, count)))

    def _freed(self, buffer: str) -> None:
        """The kernel has the memory again."""
        self._coherent.pop(buffer, None)
        self.frames = {place: frame for place, frame in self.frames.items() if place[0] != buffer}

    def told(self, op: Op, outcome: Outcome) -> dict[str, object]:
        """The parts of an outcome that must be equal."""
        made = isinstance(op, Open | Buffer) or (
            isinstance(op, Ioctl) and (op.into or request_name(op.request) == "GROUP_GET_DEVICE_FD")
        )
        value: object = outcome.value
        if made and outcome.value is not None:
            value = "made" if outcome.value >= 0 else outcome.value
        elif isinstance(op, Master) and outcome.value not in (None, UNREACHED):
            value = outcome.value & (MEMORY | MASTER)  # the rest is firmware's: SLOF enables SERR#, VOF nothing
        elif isinstance(op, Read) and op.what == "pins" and outcome.value is not None:
            self._pins = outcome.value if self._pins is None else self._pins
            value = outcome.value - self._pins
        out: dict[str, object] = {"errno": outcome.errno} if outcome.errno else {"value": value}
        names = _COMPARED.get(type(op), tuple(outcome.fields))
        out |= {name: outcome.fields[name] for name in names if name in outcome.fields}
        if "flight" in outcome.fields:
            out["flight"] = _flown(outcome.fields["flight"])
        if isinstance(op, Hcall | HcallBatch):
            out["registers"] = [
                tuple(self._led(each) if leads else each for leads, each in registers)
                for registers in seen_registers(op, outcome)
            ]
        return out | {"frames": tuple(bool(frame) for frame in outcome.frames)}

    def befell(self, outcome: Outcome) -> list[Happening]:
        """The parts of an outcome's events that must be equal: all but times. Events of two PEs have no order."""
        told = [self._happening(event) for event in outcome.events if event.kind != "unblamed"]
        return sorted(told, key=lambda each: each.pe)

    def _happening(self, event: Event) -> Happening:
        entries = [event.entry, *event.neighbours]
        symbols = tuple(None if each is None else self._led(each) for each in entries)
        names = ("kind", "pe", "liobn", "device", "iova", "start", "size", "direction", "reason")
        key = (*(getattr(event, name) for name in names), symbols)
        text = f"PE {event.pe} {event.kind}: {event.device}"
        if event.direction:
            entry, *beside = ["none" if each is None else self.describe(each) for each in entries]
            text += f" {event.direction}s {event.iova:#x} of {counted(event.size, 'byte')} from {event.start:#x} on"
            text += f" ({event.reason}, entry {entry} beside {' and '.join(beside) or 'nothing'})"
        return Happening(event.pe, event.liobn, key, text)

    def _symbol(self, value: int) -> int:
        """As `symbols`, of one entry."""
        frame = tce.address(value)
        return self._symbols.get(frame, (frame >> window.PAGE_SHIFT) + _RAW) if value else 0

    def _led(self, value: int) -> Led:
        """A TCE that a hypercall gave."""
        inherited = self.inherited(value)
        return Led(self._symbol(value), value & int(LOW), None if inherited is None else inherited[0])

    def symbols(self, table: TableView) -> npt.NDArray[np.int64]:
        """For each live entry, the number of the page that it leads to. Where all RAM is mapped, whose page it is does
        not matter.
        """
        if table.liobn in self.facts.direct or table.liobn in self.direct:
            return ((table.tce & _FRAME) >> np.uint64(window.PAGE_SHIFT)).astype(np.int64) + _RAW
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
        buffer, page = next(islice(self._numbers, number, None))  # they are numbered as they come
        return f"{buffer}:{page} ({tce.PERMISSION_NAMES[tce.permissions(value)]})"

    def _repeated(self, op: Repeat, frames: Sequence[int]) -> None:
        """The frames of each MAP_DMA that was done at least once, one after the other."""
        for call in op.ops:
            size = call.fields.get("size", 0)
            if call.request == "MAP_DMA" and isinstance(size, int) and frames:
                pages = size >> window.PAGE_SHIFT
                self._know(*self._page(call), frames[:pages])
                frames = frames[pages:]

    def _whole(self, frames: list[int]) -> list[int]:
        """With the rest of the last CPU page, which a map past the buffer's end may reach."""
        rest = -len(frames) % self._per_cpu_page
        return [*frames, *(frames[-1] and frames[-1] + i * window.PAGE_SIZE for i in range(1, rest + 1))]

    def _place(self, buffer: str, page: int) -> tuple[str, int]:
        """The memory past a buffer's end may be another buffer of its process."""
        address, pages = self._addresses.get(buffer, (0, page + 1))
        if page >= pages:
            at = address + page * window.PAGE_SIZE
            for name, (start, count) in self._addresses.items():
                if self._owners[name] == self._owners[buffer] and 0 <= at - start < count * window.PAGE_SIZE:
                    return name, (at - start) // window.PAGE_SIZE
        return buffer, page

    def _know(self, buffer: str, first: int, frames: Sequence[int]) -> None:
        _, pages = self._addresses.get(buffer, (0, first + len(frames)))
        for number, frame in enumerate(frames, first):
            place = (buffer, number) if number < pages else self._place(buffer, number)
            if frame and self.frames.get(place) != frame:  # most are known: a page is mapped again and again
                self._learn(place, frame)

    def _learn(self, place: tuple[str, int], frame: int) -> None:
        self._sorted = None
        self.learnt += 1
        there = self._places.get(frame)
        if there is not None and there != place and self.frames.get(there) == frame:
            self.twice.append((there, place, frame))
        self._places[frame] = place
        number = self._numbers.setdefault(place, len(self._numbers))
        self.frames[place] = frame
        self._symbols[frame] = number

    def _forget(self, process: str) -> None:
        """Its memory was freed; entries may lead there as long as the pages are pinned."""
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


def _flown(flight: dict[str, Any]) -> dict[str, object]:
    """What must be equal of a device that was in flight: whether anything was refused, and which bus pages changed."""
    changed = [page["ioba"] for page in flight["pages"] if page["changed"]]
    return {"started": flight["started"], "refused": bool(flight["refused"]), "changed": changed}
