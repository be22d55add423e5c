"""What the kernel's DMA API must have done: masks, mappings with the handles that were told, and their entries.

It chooses no handle: it takes those of the outcomes, and says what must then be true. Source: Linux
Documentation/core-api/dma-api.rst; arch/powerpc/kernel/iommu.c (iommu_map_page, ppc_iommu_map_sg, iommu_alloc_coherent:
each mapping has entries of its own); arch/powerpc/kernel/dma-iommu.c (dma_iommu_dma_supported: the last mask that was
set decides whether a device goes around them).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from tceagent import testdev
from tcelab.judge.models.directmodel import DirectWindows
from tcelab.judge.models.edumodel import DeviceModel
from tcelab.judge.models.files import GroupModel
from tcelab.judge.models.memorymodel import BufferModel, PageModel
from tcelab.judge.models.tablemodel import LiveEntry, TableModel
from tcelab.judge.models.transfers import Transfers
from tcelab.papr import dmarules, tce, window
from tcelab.program import (
    Dma,
    DmaAlloc,
    DmaBind,
    DmaFree,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaMove,
    DmaOp,
    DmaRepeat,
    DmaSync,
    DmaUnbind,
    DmaUnmap,
    Flight,
    Part,
    Transfer,
    pagetags,
)
from tcelab.program.dmaops import GRANTS
from tcelab.run.record import Facts, Outcome

PCI_MASK: Final = 32
"""Bits of both masks of a PCI device that no driver has changed (drivers/pci/probe.c, pci_setup_device)."""


class Segment(NamedTuple):
    """A handle that was given, and how many bytes it is for."""

    handle: int
    size: int

    @property
    def last(self) -> int:
        """Bus address of its last byte."""
        return self.handle + self.size - 1


class Span(NamedTuple):
    """Bytes within one 4 KiB page of memory, and where their device reaches them.

    :ivar handle: bus address of the first of them; None: no segment has it.
    :ivar offset: of it in the page; `size`: bytes.
    """

    handle: int | None
    page: PageModel | None
    buffer: str
    number: int
    frame: int | None
    offset: int
    size: int


@dataclass(slots=True, eq=False)
class MapModel:
    """Memory that is mapped for a device.

    :ivar permissions: that its entries give.
    :ivar bits: of the mask that its handles must be within.
    :ivar step: number of the operation that mapped it; `by`: its process.
    """

    name: str
    device: str
    permissions: int
    bits: int
    step: int
    segments: list[Segment]
    spans: list[Span]
    by: str = ""


@dataclass(slots=True)
class DriverState:
    """A device that the driver has or had.

    :ivar direct: the kernel lets it go around the API's tables.
    :ivar answers: to each mask that was asked for, by which one, its bits, and whether there was a window in which all
        RAM is mapped: errno and `direct`.
    """

    streaming: int = PCI_MASK
    coherent: int = PCI_MASK
    direct: bool = False
    answers: dict[tuple[str, int, bool], tuple[str, bool]] = field(default_factory=dict)


class TestDeviceModel(DeviceModel):
    """An iommu-testdev: it writes a pattern of its own, whether it masters the bus or not."""

    __test__ = False

    def transfer(self, op: Dma | Transfer | Flight, step: int, *, isolated: bool = False) -> list[dmarules.Piece]:
        """See `DeviceModel.transfer`."""
        written = testdev.pattern(op.size)
        pieces = self.pieces(op, isolated=isolated)
        for piece in pieces:
            page = None if piece.refused else self.page(piece)
            if page is not None:
                page.write(piece.iova % pagetags.PAGE, written[piece.start : piece.start + piece.size], step)
        return pieces

    def pieces(self, op: Dma | Transfer | Flight, *, isolated: bool) -> list[dmarules.Piece]:
        """See `DeviceModel.pieces`."""
        return self.windows.pieces(op.iova, op.size, to_memory=op.to_memory, master=True, isolated=isolated)


def segments_of(outcome: Outcome) -> list[Segment] | None:
    """The handles that an outcome tells; None: it tells none that make sense."""
    told = outcome.fields.get("segments")
    if not isinstance(told, list) or not told:
        return None
    whole = all(len(each) == 2 and all(type(number) is int for number in each) for each in told)  # noqa: PLR2004
    return [Segment(*each) for each in told] if whole else None


class Machine(Protocol):
    """What of the fold it uses: see `tcelab.judge.models.eventfold.EventFold`."""

    facts: Facts
    group_of: dict[str, GroupModel]
    devices: dict[str, DeviceModel]
    buffers: dict[str, BufferModel]
    direct: DirectWindows
    transfers: Transfers
    unknown: list[str]


class DmaModel:
    """:ivar maps: what is mapped, by name; `ended`: what was, likewise.

    :ivar states: of devices, by name; they outlive the driver.
    :ivar gone: by LIOBN and number, entries that must be gone since the mapping that had them ended: what had them,
        and the number of the operation that ended it.
    :ivar wrong: by the operation that made a mapping, LIOBN, number and word of its entries that were told to be wrong;
        `untold`: of those that were only counted.
    """

    def __init__(self, fold: Machine) -> None:
        self._fold = fold
        self.begin()

    def begin(self) -> None:
        """A kernel begins, whose drivers have done nothing."""
        self.maps: dict[str, MapModel] = {}
        self.ended: dict[str, MapModel] = {}
        self.states: dict[str, DriverState] = {}
        self.gone: dict[tuple[int, int], tuple[str, int]] = {}
        self.wrong: dict[int, set[tuple[int, int, int]]] = {}
        self.untold: set[tuple[int, int, int]] = set()

    def state(self, device: str) -> DriverState:
        return self.states.setdefault(device, DriverState())

    def group(self, device: str) -> GroupModel:
        return self._fold.group_of[device]

    def is_direct(self, group: GroupModel, handle: int) -> bool:
        """It lies in a window in which all RAM is mapped."""
        table = group.windows.at(handle)
        return table.liobn in self._fold.direct.liobns and 0 <= table.number(handle) < table.entries

    def apply(self, op: DmaOp, outcome: Outcome, step: int) -> None:
        """Fold in one operation."""
        match op:
            case DmaMask():
                self._mask(op, outcome)
            case _ if outcome.errno:
                if isinstance(op, DmaMove) and not (outcome.errno == "ENOENT" and self._nowhere(op)):
                    self._unknown(f"a transfer of step {step} ended with {outcome.errno}: what did it move?")
            case DmaBind():
                self._fold.devices[op.device].master = True
                self._take_masks(op.device, outcome)
            case DmaUnbind():
                self._unbind(op, step)
            case DmaAlloc() | DmaMap() | DmaMapSg():
                self._map(op, outcome, step)
            case DmaFree():
                self._end(op.buffer, step)
                self._fold.buffers.pop(op.buffer, None)
            case DmaUnmap():
                self._end(op.name, step)
            case DmaMove():
                self._move(op, outcome, step)
            case DmaRepeat() | DmaSync():
                pass  # the one leaves nothing, and memory is coherent on this platform

    def _unknown(self, why: str) -> None:
        self._fold.unknown.append(why)

    def _take_masks(self, device: str, outcome: Outcome) -> None:
        told, state = outcome.fields, self.state(device)
        masks = told.get("streaming"), told.get("coherent")
        if all(type(each) is int for each in masks) and type(told.get("direct")) is bool:
            state.streaming, state.coherent = masks  # type: ignore[assignment]
            state.direct = told["direct"]
        else:
            self._unknown(f"the driver did not tell the masks of {device}")

    def _mask(self, op: DmaMask, outcome: Outcome) -> None:
        asked = self.asked(op)
        self._take_masks(op.device, outcome)
        state = self.state(op.device)
        state.answers.setdefault(asked, (outcome.errno, state.direct))
        if state.direct:
            self._fold.direct.make(self.group(op.device).windows)

    def asked(self, op: DmaMask) -> tuple[str, int, bool]:
        """The question that sets a mask, with what its answer may depend on."""
        there = bool(self._fold.direct.liobns & {*self.group(op.device).windows.liobns})
        return op.which, op.bits, there

    def _unbind(self, op: DmaUnbind, step: int) -> None:
        self._fold.devices[op.device].master = False
        for name in [name for name, each in self.maps.items() if each.device == op.device and not op.late]:
            self._end(name, step)
            if name in self._fold.buffers and self._fold.buffers[name].address is None:
                self._fold.buffers.pop(name)

    def exit(self, process: str, step: int) -> None:
        """A process ends, and with it what it has mapped: the driver unmaps it once its file is closed."""
        for name in [name for name, each in self.maps.items() if each.by == process]:
            self._end(name, step)

    def handed_over(self, liobns: Collection[int]) -> None:
        """VFIO has the tables, and what its users map there is none of the driver's."""
        self.gone = {place: ended for place, ended in self.gone.items() if place[0] not in liobns}

    # -- mappings

    def parts(self, op: DmaAlloc | DmaMap | DmaMapSg, outcome: Outcome) -> Iterator[Span]:
        """Its memory, by 4 KiB pages, without handles."""
        if isinstance(op, DmaAlloc):
            buffer = BufferModel(op.buffer, None, [PageModel() for _ in range(op.pages)], op.by)
            buffer.learn(0, outcome.frames)
            self._fold.buffers[op.buffer] = buffer
            for number, page in enumerate(buffer.pages):
                yield Span(None, page, op.buffer, number, page.frame, 0, pagetags.PAGE)
            return
        frames = iter(outcome.frames)
        for part in [Part(op.page, op.size)] if isinstance(op, DmaMap) else op.parts:
            buffer = self._fold.buffers[part.page.buffer]
            for number, offset, size in _pieces(part):
                frame = next(frames, None)
                buffer.learn(number, [] if frame is None else [frame])
                yield Span(None, buffer.pages[number], buffer.name, number, frame, offset, size)

    def _map(self, op: DmaAlloc | DmaMap | DmaMapSg, outcome: Outcome, step: int) -> None:
        segments = segments_of(outcome)
        parts = list(self.parts(op, outcome))
        name = op.buffer if isinstance(op, DmaAlloc) else op.name
        if segments is None:
            self._unknown(f"{name} of step {step} was mapped, and nobody told where")
            return
        state = self.state(op.device)
        bits = state.coherent if isinstance(op, DmaAlloc) else state.streaming
        granted = tce.PERMISSIONS if isinstance(op, DmaAlloc) else GRANTS[op.direction]
        made = MapModel(name, op.device, granted, bits, step, segments, list(_spread(parts, segments)), op.by)
        self.maps[name] = made
        for table, number, entry in self._entries(made):
            table.put(number, [entry], step)
            self.gone.pop((table.liobn, number), None)

    def _entries(self, made: MapModel) -> Iterator[tuple[TableModel, int, LiveEntry]]:
        """The entries that it has: none where all RAM is mapped."""
        group = self.group(made.device)
        for span in self._whole(made):
            if span.handle is None or self.is_direct(group, span.handle):
                continue
            table = group.windows.at(span.handle)
            number = table.number(span.handle)
            if 0 <= number < table.entries:
                frame = None if span.frame is None else span.frame & -window.PAGE_SIZE
                entry = LiveEntry(made.permissions, span.buffer, span.number, span.page, frame, made.step)
                yield table, number, entry

    def _whole(self, made: MapModel) -> Iterable[Span]:
        """Coherent memory comes in whole pages of the CPU: behind those that were asked for are others."""
        yield from made.spans
        last = made.spans[-1]
        buffer = self._fold.buffers.get(made.name)
        if buffer is None or buffer.address is not None or last.handle is None or last.frame is None:
            return
        per_page = self._fold.facts.page_size // pagetags.PAGE
        for more in range(1, -len(made.spans) % per_page + 1):
            place = more * pagetags.PAGE
            yield Span(last.handle + place, None, made.name, last.number + more, last.frame + place, 0, pagetags.PAGE)

    def _end(self, name: str, step: int) -> None:
        made = self.maps.pop(name, None)
        if made is None:
            return
        self.ended[name] = made
        for table, number, _ in list(self._entries(made)):
            live = table.live.get(number)
            if live is None or live.step == made.step:
                table.clear(number, number + 1, step)
                self.gone[table.liobn, number] = made.name, step

    def _nowhere(self, op: DmaMove) -> bool:
        """There is no such mapping, for it was refused, or it has no such segment: nothing moves."""
        made = self.maps.get(op.name) or self.ended.get(op.name)
        return made is None or op.segment >= len(made.segments)

    def _move(self, op: DmaMove, outcome: Outcome, step: int) -> None:
        made = self.maps.get(op.name) or self.ended.get(op.name)
        if made is None or self._nowhere(op):
            self._unknown(f"nobody knows where the transfer of step {step} went")
            return
        iova = (made.segments[op.segment].handle + op.plus) & ((1 << 64) - 1)
        asked = Dma(file="", iova=iova, size=op.size, to_memory=op.to_memory, offset=op.offset)
        self._fold.transfers.single(self._fold.devices[made.device], asked, outcome, step)


def _pieces(part: Part) -> Iterator[tuple[int, int, int]]:
    """The 4 KiB pages that a part lies in: number in its buffer, offset in it, bytes."""
    at, left = part.page.index * pagetags.PAGE + part.page.plus, part.size
    while left:
        number, offset = divmod(at, pagetags.PAGE)
        size = min(pagetags.PAGE - offset, left)
        yield number, offset, size
        at, left = at + size, left - size


def _spread(parts: Iterable[Span], segments: Sequence[Segment]) -> Iterator[Span]:
    """The bytes of the segments, in order, are those of the parts."""
    rest = list(segments)
    for part in parts:
        done = 0
        while done < part.size and rest:
            handle, left = rest[0]
            size = min(part.size - done, left)
            yield part._replace(handle=handle, offset=part.offset + done, size=size)
            done += size
            rest[0] = Segment(handle + size, left - size)
            if not rest[0].size:
                rest.pop(0)
        if done < part.size:
            yield part._replace(offset=part.offset + done, size=part.size - done)
