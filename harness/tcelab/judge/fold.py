"""The fold: what must be true after the operations that succeeded, from their outcomes alone.

It knows no errno rules: an operation that failed changes nothing, one that succeeded does what it says. Sources:
drivers/vfio/vfio_iommu_spapr_tce.c, drivers/vfio/container.c, drivers/vfio/group.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tcelab import tag
from tcelab.judge.device import DeviceModel, Forbidden
from tcelab.judge.memory import BufferModel, PageModel
from tcelab.judge.rounds import calls_done, rounds
from tcelab.judge.table import Entry, TableModel
from tcelab.papr import dma, tce, window
from tcelab.program import (
    Bind,
    Buffer,
    Close,
    Dma,
    Fill,
    Frames,
    GuestOp,
    Ioctl,
    Master,
    Open,
    Page,
    Program,
    Repeat,
    Tag,
    Word,
)
from tcelab.run import Facts, Outcome, Step
from tcelab.topology import Phb

SPAPR_TCE: Final = 2
"""VFIO_SPAPR_TCE_IOMMU: the container type whose charges we know."""

ARGSZ: Final = {"MAP_DMA": 32, "UNMAP_DMA": 24}
FLAGS: Final = {"MAP_DMA": tce.PERMISSIONS, "UNMAP_DMA": 0}
NOT_REACHED: Final = {"EPERM", "ENOMEM"}
"""Errnos of MAP_DMA and UNMAP_DMA that say that the pending default window was not made."""


Handler = Callable[[object, Ioctl, Outcome, int], None]


@dataclass(slots=True, eq=False)
class Container:
    """:ivar made: the default window's table was created, and charged."""

    groups: list[Group] = field(default_factory=list)
    kind: int | None = None
    enabled: bool = False
    made: bool = False


@dataclass(slots=True, eq=False)
class Group:
    """A PE. `devices` counts open device files; each holds the group open."""

    phb: Phb
    table: TableModel
    container: Container | None = None
    open: bool = False
    devices: int = 0


@dataclass(slots=True, eq=False)
class DeviceFile:
    device: DeviceModel
    group: Group


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
        self.files: dict[str, Container | Group | DeviceFile] = {}
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

    @property
    def charge(self) -> int | None:
        """KiB of locked memory that containers are charged for, None when a container is not of type v1.

        Source: drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_enable and tce_iommu_create_table: whole CPU pages.
        """
        total = 0
        for group in self.groups.values():
            container = group.container
            if container is None or container.kind is None:
                continue
            if container.kind != SPAPR_TCE:
                return None
            total += self._pages(group.phb.window_size) if container.enabled else 0
            total += self._pages(group.table.entries * 8) if container.made else 0
        return total * self.facts.page_size // 1024

    def number(self, word: Word) -> int | None:
        """A word as the number that the agent passed, None when we cannot know it."""
        if isinstance(word, int):
            return word
        if isinstance(word, Page) and word.buffer in self.buffers:
            address = self.buffers[word.buffer].address
            return None if address is None else address + word.index * tag.PAGE + word.plus
        return None

    def _pages(self, size: int) -> int:
        return size // self.facts.page_size

    # -- operations other than ioctls ---------------------------------------------------------------------------

    def _plain(self, op: GuestOp, outcome: Outcome, step: int) -> None:
        match op:
            case Buffer():
                pages = [PageModel() for _ in range(op.pages)]
                self.buffers[op.name] = BufferModel(op.name, outcome.value, pages)
                self.buffers[op.name].learn(0, outcome.frames)
            case Tag():
                self.buffers[op.buffer].tag(op, self.facts.nonce, step)
            case Fill():
                data = tag.data(self.facts.nonce, op.seed, op.size)
                self.buffers[op.buffer].write(op.offset, data, step)
            case Frames():
                self.buffers[op.buffer].learn(0, outcome.frames)
            case Bind():
                self.paths[f"/dev/vfio/{outcome.fields.get('group')}"] = self.group_of[op.device]
            case Open():
                self._open(op)
            case Close():
                self._close(op, step)
            case Master():
                handle = self.files.get(op.file)
                if isinstance(handle, DeviceFile):
                    handle.device.master = op.on
            case Dma():
                self._dma(op, step)

    def _open(self, op: Open) -> None:
        if op.path == "/dev/vfio/vfio":
            self.files[op.file] = Container()
        elif op.path in self.paths:
            self.files[op.file] = group = self.paths[op.path]
            group.open = True

    def _close(self, op: Close, step: int) -> None:
        match self.files.pop(op.file, None):
            case Group() as group:
                group.open = False
                self._last_reference(group, step)
            case DeviceFile(device, group):
                device.master = False
                group.devices -= 1
                self._last_reference(group, step)

    def _last_reference(self, group: Group, step: int) -> None:
        # A device file holds the group's file: only the last of them leaves the container (vfio_group_fops_release).
        if not group.open and not group.devices:
            self._leave(group, step)

    def _leave(self, group: Group, step: int) -> None:
        container, group.container = group.container, None
        if container is None:
            return
        group.table.clear(0, group.table.entries, step)
        container.groups.remove(group)
        if not container.groups:  # the last group takes the driver's state along (vfio_group_detach_container)
            container.kind, container.enabled, container.made = None, False, False

    def _dma(self, op: Dma, step: int) -> None:
        handle = self.files.get(op.file)
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
        name = request_name(op.request)
        handle = self.files.get(op.file)
        if name in ARGSZ and op.value is not None:
            if outcome.value == 0:
                self.unknown.append(f"{name} of step {step} passed a struct that we cannot see")
            return
        if name in ARGSZ and isinstance(handle, Container):
            self._pending_window(handle, name, op, outcome)
            if outcome.value != 0:
                self._failed(handle, op, step)
        if name in self._ioctls and not outcome.errno:
            self._ioctls[name](handle, op, outcome, step)

    def _repeat(self, op: Repeat, outcome: Outcome, step: int) -> None:
        done = calls_done(op, outcome)
        if done is None:
            self.unknown.append(f"Repeat of step {step} did not tell how many of its calls were done")
            return
        for call, its_own in rounds(op, outcome, done, self._pages_mapped):
            self._ioctl(call, its_own, step)

    def _pages_mapped(self, op: Ioctl) -> int:
        size = self.number(op.fields.get("size", 0))
        return 0 if size is None or request_name(op.request) != "MAP_DMA" else size >> window.PAGE_SHIFT

    def _pending_window(self, container: Container, name: str, op: Ioctl, outcome: Outcome) -> None:
        # The first MAP or UNMAP that passes the checks of its struct creates the default window, even if it then
        # fails (tce_iommu_ioctl: tce_iommu_create_default_window comes before the window is looked up).
        argsz, flags = self.number(op.fields.get("argsz", ARGSZ[name])), self.number(op.fields.get("flags", 0))
        sound = argsz is not None and argsz >= ARGSZ[name] and flags is not None and not flags & ~FLAGS[name]
        if container.enabled and sound and outcome.errno not in NOT_REACHED:
            container.made = True

    def _set_container(self, handle: object, op: Ioctl, outcome: Outcome, _step: int) -> None:
        container = self.files.get(str(op.fields.get("container")))
        if outcome.value == 0 and isinstance(handle, Group) and isinstance(container, Container):
            handle.container = container
            container.groups.append(handle)

    def _unset_container(self, handle: object, _op: Ioctl, outcome: Outcome, step: int) -> None:
        if outcome.value == 0 and isinstance(handle, Group):
            self._leave(handle, step)

    def _get_device_fd(self, handle: object, op: Ioctl, outcome: Outcome, _step: int) -> None:
        name = str(op.fields.get("name"))
        if outcome.value is not None and outcome.value >= 0 and isinstance(handle, Group) and name in self.devices:
            handle.devices += 1
            self.devices[name].master = False
            self.files[op.into] = DeviceFile(self.devices[name], handle)

    def _set_iommu(self, handle: object, op: Ioctl, outcome: Outcome, _step: int) -> None:
        if outcome.value == 0 and isinstance(handle, Container):
            handle.kind = op.value

    def _enable(self, handle: object, _op: Ioctl, outcome: Outcome, _step: int) -> None:
        if outcome.value == 0 and isinstance(handle, Container):
            handle.enabled = True

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
        buffer, start = self._target(op.fields.get("vaddr", 0))
        entries = []
        for i, frame in enumerate(frames):
            page = buffer.pages[start + i] if buffer and start + i < len(buffer.pages) else None
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

    def _target(self, vaddr: Word) -> tuple[BufferModel | None, int]:
        """The buffer and page number that an address of the agent lies in."""
        address = self.number(vaddr)
        if isinstance(vaddr, Page):
            return self.buffers.get(vaddr.buffer), vaddr.index + vaddr.plus // tag.PAGE
        for buffer in self.buffers.values():
            if address is not None and buffer.address is not None:
                page = (address - buffer.address) // tag.PAGE
                if 0 <= page < len(buffer.pages):
                    return buffer, page
        return None, 0

    def _unmap(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        if outcome.value != 0 or not isinstance(handle, Container):
            return
        concerned = self._range(op)
        if concerned is None:
            self.unknown.append(f"UNMAP_DMA of step {step} has fields whose values are unknown")
            return
        for group in handle.groups:
            group.table.clear(*concerned, step)


NUMBERS: Final = {
    102: "SET_IOMMU",
    103: "GROUP_GET_STATUS",
    104: "GROUP_SET_CONTAINER",
    105: "GROUP_UNSET_CONTAINER",
    106: "GROUP_GET_DEVICE_FD",
    112: "SPAPR_TCE_GET_INFO",
    113: "MAP_DMA",
    114: "UNMAP_DMA",
    115: "ENABLE",
    116: "DISABLE",
}
"""Source: include/uapi/linux/vfio.h, VFIO_BASE + n."""


def request_name(request: str | int) -> str:
    """The name of an ioctl request that a program may give as a number."""
    if isinstance(request, str):
        return "SPAPR_TCE_GET_INFO" if request == "SPAPR_TCE_GET_INFO_DDW" else request
    return NUMBERS.get(request & 0xFF, "") if (request >> 8) & 0xFF == ord(";") else ""
