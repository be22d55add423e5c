"""The fold: what must be true after the operations that succeeded, from their outcomes alone.

It knows no errno rules: an operation that failed changes nothing, one that succeeded does what it says. Sources:
drivers/vfio/vfio_iommu_spapr_tce.c, drivers/vfio/container.c, drivers/vfio/group.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from tceagent import uapi
from tcelab import tag
from tcelab.judge.device import DeviceModel, Forbidden
from tcelab.judge.files import Container, DeviceFile, Files, Group, Target
from tcelab.judge.memory import BufferModel, PageModel, written
from tcelab.judge.rounds import calls_done, rounds
from tcelab.judge.table import Entry, TableModel
from tcelab.papr import dma, tce, window
from tcelab.program import (
    Bind,
    Buffer,
    Close,
    Dma,
    Exit,
    Fill,
    Frames,
    GuestOp,
    Ioctl,
    Master,
    Open,
    Page,
    Program,
    Protect,
    Put,
    Repeat,
    Spawn,
    Tag,
    Word,
)
from tcelab.run import Facts, Outcome, Step

SPAPR_TCE: Final = 2
"""VFIO_SPAPR_TCE_IOMMU: the container type whose charges we know."""

ARGSZ: Final = {"MAP_DMA": 32, "UNMAP_DMA": 24}
FLAGS: Final = {"MAP_DMA": tce.PERMISSIONS, "UNMAP_DMA": 0}
NOT_REACHED: Final = {"EPERM", "ENOMEM"}
"""Errnos of MAP_DMA and UNMAP_DMA that say that the pending default window was not made."""
BY_POINTER: Final = {*ARGSZ, "GROUP_SET_CONTAINER", "GROUP_GET_DEVICE_FD"}
"""Requests that change what we keep, with an argument that a program may have put where we do not look."""
NO_TABLE_CHARGE: Final = {"seed2013"}
"""Profiles of the driver that do not charge for a window's table."""

_MASK: Final = (1 << 64) - 1

Handler = Callable[[object, Ioctl, Outcome, int], None]


class Fold:
    """:ivar tables: per LIOBN, the channel's too.

    :ivar forbidden: device accesses that must have been refused since the last checkpoint; the judge empties it.
    :ivar unknown: reasons why something that succeeded could not be folded.
    """

    def __init__(self, program: Program, facts: Facts) -> None:
        self.facts = facts
        self.tables = {phb.liobn: TableModel(phb.liobn, phb.entries) for phb in program.topology.machine}
        self.groups = {phb.index: Group(phb, self.tables[phb.liobn]) for phb in program.topology.phbs}
        self.group_of = {device.name: self.groups[phb.index] for phb in program.topology.phbs for device in phb.devices}
        self.devices = {name: DeviceModel(name, group.table) for name, group in self.group_of.items()}
        self.buffers: dict[str, BufferModel] = {}
        self.files = Files()
        self.paths = {f"/dev/vfio/${name}": group for name, group in self.group_of.items()}
        self.forbidden: list[Forbidden] = []
        self.transfers: list[dma.Piece] = []
        self.unknown: list[str] = []
        self._refused_once: set[str] = set()
        self._ioctls: dict[str, Handler] = {
            "SET_IOMMU": self._set_iommu,
            "GROUP_SET_CONTAINER": self._set_container,
            "GROUP_UNSET_CONTAINER": self._unset_container,
            "GROUP_GET_DEVICE_FD": self._get_device_fd,
            "MAP_DMA": self._map,
            "UNMAP_DMA": self._unmap,
            "ENABLE": self._enable,
            "DISABLE": self._disable,
        }

    def apply(self, step: Step) -> None:
        """Fold in one guest operation."""
        outcome = step.outcome
        if outcome is None:
            return
        if isinstance(step.op, Ioctl):
            self._ioctl(step.op, outcome, step.number)
        elif isinstance(step.op, Repeat):
            self._repeat(step.op, outcome, step.number)
        elif not outcome.errno:
            self._plain(step.op, outcome, step.number)  # type: ignore[arg-type]

    @property
    def live(self) -> int:
        """Number of live entries, over all LIOBNs."""
        return sum(len(table.live) for table in self.tables.values())

    def charge(self, process: str = "") -> int | None:
        """KiB of locked memory that containers charge a process for, None when a container is not of type v1.

        Source: drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_enable and tce_iommu_create_table: whole CPU pages, of
        whoever enabled the container (tce_iommu_mm_set).
        """
        total = 0
        for group in self.groups.values():
            container = group.container
            if container is None or container.kind is None:
                continue
            if container.kind != SPAPR_TCE:
                return None
            if container.payer != process:
                continue
            total += self._pages(group.phb.window_size) if container.enabled else 0
            if container.made and self.facts.profile not in NO_TABLE_CHARGE:
                total += self._pages(group.table.entries * 8)
        return total * self.facts.page_size // 1024

    def number(self, word: Word) -> int | None:
        """A word as the number that the agent passed, None when we cannot know it."""
        if isinstance(word, int):
            return word
        if isinstance(word, Page) and word.buffer in self.buffers:
            address = self.buffers[word.buffer].address
            return None if address is None else (address + word.index * tag.PAGE + word.plus) & _MASK
        return None

    def target(self, op: Ioctl) -> Target | None:
        """What an ioctl is done on."""
        return self.files.get(op.by, op.file)

    def _pages(self, size: int) -> int:
        return size // self.facts.page_size

    # -- operations other than ioctls ---------------------------------------------------------------------------

    def _plain(self, op: GuestOp, outcome: Outcome, step: int) -> None:
        match op:
            case Bind():
                self.paths[f"/dev/vfio/{outcome.fields.get('group')}"] = self.group_of[op.device]
            case Open():
                self._open(op)
            case Close():
                self.files.close(op.by, op.file, step)
            case Spawn():
                self.files.fork(op.process)
            case Exit():
                # Only what entries still lead to is kept, by their pins: those entries know their pages.
                self.buffers = {name: each for name, each in self.buffers.items() if each.process != op.process}
                self.files.exit(op.process, step)
            case Master():
                handle = self.files.get(op.by, op.file)
                if isinstance(handle, DeviceFile):
                    handle.device.master = op.on
            case Dma():
                self._dma(op, step)
            case _:
                self._memory(op, outcome, step)

    def _memory(self, op: GuestOp, outcome: Outcome, step: int) -> None:
        match op:
            case Buffer():
                pages = [PageModel() for _ in range(op.pages)]
                self.buffers[op.name] = BufferModel(op.name, outcome.value, pages, op.by)
                self.buffers[op.name].learn(0, outcome.frames)
            case Tag():
                self.buffers[op.buffer].tag(op, self.facts.nonce, step)
            case Fill():
                data = tag.data(self.facts.nonce, op.seed, op.size)
                self.buffers[op.buffer].write(op.offset, data, step)
            case Put():
                self._put(op, step)
            case Protect():
                self.buffers[op.buffer].access = op.access
            case Frames():
                self.buffers[op.buffer].learn(0, outcome.frames)

    def _open(self, op: Open) -> None:
        if op.path == "/dev/vfio/vfio":
            self.files.open(op.by, op.file, Container())
        elif op.path in self.paths:
            self.files.open(op.by, op.file, self.paths[op.path])

    def _put(self, op: Put, step: int) -> None:
        layout, buffer = uapi.LAYOUTS[op.request], self.buffers[op.buffer]
        numbers = {name: number for name, word in op.fields.items() if (number := self.number(word)) is not None}
        if len(numbers) == len(op.fields):
            buffer.write(op.offset, layout.pack(numbers), step)
        else:
            buffer.blur(op.offset, layout.size, step)

    def _dma(self, op: Dma, step: int) -> None:
        handle = self.files.get(op.by, op.file)
        if not isinstance(handle, DeviceFile):
            return
        device = handle.device
        pieces = device.transfer(op, step)
        self.transfers = pieces
        for piece in pieces:
            if piece.refused:
                control = device.name not in self._refused_once
                self._refused_once.add(device.name)
                liobn = device.table.liobn
                self.forbidden.append(
                    Forbidden(device.name, liobn, op.to_memory, piece.iova, piece.size, piece.refused, step, control)
                )

    # -- ioctls -------------------------------------------------------------------------------------------------

    def _ioctl(self, op: Ioctl, outcome: Outcome, step: int) -> None:
        name, handle = request_name(op.request), self.target(op)
        op = self._with_fields(op, name)
        if name in ARGSZ and isinstance(handle, Container):
            self._pending_window(handle, name, op, outcome, step)
            if outcome.value != 0:
                self._failed(handle, op, step)
        if op.value is not None:
            self._written(op, outcome, step)
            if name in BY_POINTER:
                if not outcome.errno and (outcome.value == 0 or name not in ARGSZ):
                    self.unknown.append(f"{name} of step {step} passed a struct that we cannot see")
                return
        if name in self._ioctls and not outcome.errno:
            self._ioctls[name](handle, op, outcome, step)

    def _with_fields(self, op: Ioctl, name: str) -> Ioctl:
        """A map or unmap whose struct was passed by address, as if it had been given by fields, where we know it."""
        place = None if op.value is None or name not in ARGSZ else self._place(op.value, op.by)
        raw = None if place is None or place[0].access == "none" else place[0].read(place[1], uapi.LAYOUTS[name].size)
        if raw is None:
            return op
        layout = uapi.LAYOUTS[name]
        fields = dict(zip(layout.fields, layout.struct.unpack(raw), strict=True))
        return msgspec.structs.replace(op, value=None, fields=fields)

    def _repeat(self, op: Repeat, outcome: Outcome, step: int) -> None:
        done = calls_done(op, outcome)
        if done is None:
            self.unknown.append(f"Repeat of step {step} did not tell how many of its calls were done")
            return
        for call, its_own in rounds(op, outcome, done, self._pages_mapped):
            self._ioctl(msgspec.structs.replace(call, by=op.by), its_own, step)

    def _pages_mapped(self, op: Ioctl) -> int:
        size = self.number(op.fields.get("size", 0))
        return 0 if size is None or request_name(op.request) != "MAP_DMA" else size >> window.PAGE_SHIFT

    def _pending_window(self, container: Container, name: str, op: Ioctl, outcome: Outcome, step: int) -> None:
        # The first MAP or UNMAP that passes the checks of its struct creates the default window, even if it then
        # fails (tce_iommu_ioctl: tce_iommu_create_default_window comes before the window is looked up).
        if not container.enabled or container.made or outcome.errno in NOT_REACHED:
            return
        passed = self._passed(name, op)
        if passed is None and outcome.errno == "EFAULT":
            return  # not even the struct could be read
        argsz, flags = passed or (None, None)
        if argsz is None or flags is None:
            self.unknown.append(f"{name} of step {step} may have made the default window: its struct is not known")
        else:
            container.made = argsz >= ARGSZ[name] and not flags & ~FLAGS[name]

    def _passed(self, name: str, op: Ioctl) -> tuple[int | None, int | None] | None:
        """What the kernel read as argsz and flags, None where not known; None when there was nothing to read."""
        if op.value is None and isinstance(op.request, int):
            return None  # a request by its number takes no fields, and so leads nowhere
        if op.value is None:
            return self.number(op.fields.get("argsz", ARGSZ[name])), self.number(op.fields.get("flags", 0))
        place = self._place(op.value, op.by)
        return None if place is None or place[0].access == "none" else (None, None)

    def _written(self, op: Ioctl, outcome: Outcome, step: int) -> None:
        """What an ioctl wrote to the memory that its value leads to, we cannot know."""
        place = None if op.value is None else self._place(op.value, op.by)
        # EFAULT may come half way through.
        if place is not None and place[0].access == "write" and outcome.errno in ("", "EFAULT"):
            place[0].blur(place[1], written(op.request), step)

    def _set_container(self, handle: object, op: Ioctl, outcome: Outcome, _step: int) -> None:
        container = self.files.get(op.by, str(op.fields.get("container")))
        if outcome.value == 0 and isinstance(handle, Group) and isinstance(container, Container):
            handle.container = container
            container.groups.append(handle)

    def _unset_container(self, handle: object, _op: Ioctl, outcome: Outcome, step: int) -> None:
        if outcome.value == 0 and isinstance(handle, Group):
            handle.leave(step)

    def _get_device_fd(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        name = str(op.fields.get("name"))
        if outcome.value is not None and outcome.value >= 0 and isinstance(handle, Group) and name in self.devices:
            self.files.open(op.by, op.into or step, DeviceFile(self.devices[name], handle))

    def _set_iommu(self, handle: object, op: Ioctl, outcome: Outcome, _step: int) -> None:
        if outcome.value == 0 and isinstance(handle, Container):
            handle.kind = None if op.value is None else self.number(op.value)

    def _enable(self, handle: object, op: Ioctl, outcome: Outcome, _step: int) -> None:
        if outcome.value == 0 and isinstance(handle, Container):
            handle.enabled, handle.payer = True, op.by

    def _disable(self, handle: object, _op: Ioctl, outcome: Outcome, _step: int) -> None:
        if outcome.value == 0 and isinstance(handle, Container):
            handle.enabled = False

    def _map(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        if outcome.value != 0 or not isinstance(handle, Container):
            return
        iova, size = self.number(op.fields.get("iova", 0)), self.number(op.fields.get("size", 0))
        flags = self.number(op.fields.get("flags", 0))
        if iova is None or size is None or flags is None:
            self.unknown.append(f"MAP_DMA of step {step} has fields whose values are unknown")
            return
        first, count = iova >> window.PAGE_SHIFT, size >> window.PAGE_SHIFT
        frames: list[int | None] = list(outcome.frames)
        if len(frames) != count:
            self.unknown.append(f"MAP_DMA of step {step} reported {len(frames)} frames for {count} pages")
            frames = [None] * count
        place = self._place(op.fields.get("vaddr", 0), op.by)
        buffer, start = (place[0], place[1] // tag.PAGE) if place else (None, 0)
        entries = []
        for i, frame in enumerate(frames):
            page = buffer.pages[start + i] if buffer and 0 <= start + i < len(buffer.pages) else None
            if page is not None and frame is not None:
                page.frame = frame
            name = buffer.name if buffer else ""
            entries.append(Entry(flags & tce.PERMISSIONS, name, start + i, page, frame, step))
        for group in handle.groups:
            if entries:
                group.table.put(first, entries, step)

    def _range(self, op: Ioctl) -> tuple[int, int] | None:
        """The entries `first .. end-1` that a map or unmap concerns, None when we cannot know them."""
        iova, size = self.number(op.fields.get("iova", 0)), self.number(op.fields.get("size", 0))
        if iova is None or size is None:
            return None
        return iova >> window.PAGE_SHIFT, (iova + size) >> window.PAGE_SHIFT

    def _failed(self, handle: Container, op: Ioctl, step: int) -> None:
        """A map or unmap that failed must have changed nothing: if something is wrong there, it is to blame."""
        concerned = self._range(op)
        if concerned is not None:
            for group in handle.groups:
                group.table.tried(*concerned, step)

    def _place(self, word: Word, process: str) -> tuple[BufferModel, int] | None:
        """The buffer of a process, and how many bytes into it, that an address leads to. A place that a program names
        may lie outside the buffer.
        """
        if isinstance(word, Page):
            buffer = self.buffers.get(word.buffer)
            return None if buffer is None else (buffer, word.index * tag.PAGE + word.plus)
        address = self.number(word)
        for buffer in self.buffers.values():
            if address is not None and buffer.address is not None and buffer.process == process:
                offset = address - buffer.address
                if 0 <= offset < len(buffer.pages) * tag.PAGE:
                    return buffer, offset
        return None

    def _unmap(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        if outcome.value != 0 or not isinstance(handle, Container):
            return
        concerned = self._range(op)
        if concerned is None:
            self.unknown.append(f"UNMAP_DMA of step {step} has fields whose values are unknown")
            return
        for group in handle.groups:
            group.table.clear(*concerned, step)


NAMES: Final = {number: name for name, number in uapi.NUMBERS.items() if name != "SPAPR_TCE_GET_INFO_DDW"}


def request_name(request: str | int) -> str:
    """The name of an ioctl request that a program may give as a number."""
    if isinstance(request, str):
        return "SPAPR_TCE_GET_INFO" if request == "SPAPR_TCE_GET_INFO_DDW" else request
    return NAMES.get(request, "")
