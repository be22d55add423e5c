"""The fold: what must be true after the operations that succeeded, from their outcomes alone.

It knows no errno rules: a failed operation changes nothing, a successful one has its documented effect. Sources:
drivers/vfio/vfio_iommu_spapr_tce.c, drivers/vfio/container.c, drivers/vfio/group.c.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

import msgspec

from tceagent import uapi
from tcelab.judge.models import probemodel
from tcelab.judge.models.chargemodel import SPAPR_TCE, charged, pinned
from tcelab.judge.models.drivermodel import DriverModel
from tcelab.judge.models.edumodel import DeviceModel, Forbidden
from tcelab.judge.models.files import ContainerModel, DeviceFileModel, Files, GroupModel, Target
from tcelab.judge.models.hypercallmodel import HypercallModel
from tcelab.judge.models.kvmmodel import KvmModel
from tcelab.judge.models.memorymodel import BufferModel, PageModel, leads_into, written
from tcelab.judge.models.pes import Pes
from tcelab.judge.models.pinmodel import Pins
from tcelab.judge.models.requests import ARGSZ, BY_FIELDS, BY_POINTER, KEEPS_ALL, MEMORY, NOT_TAKEN, request_name
from tcelab.judge.models.rounds import calls_done, rounds
from tcelab.judge.models.tablemodel import LiveEntry, Parting, TableModel, same_place
from tcelab.judge.models.transfers import Transfers
from tcelab.judge.models.windowmodel import WindowModel
from tcelab.papr import window
from tcelab.program import (
    AtOnce,
    Bind,
    Buffer,
    Burst,
    Close,
    Ddw,
    Dma,
    Doorbell,
    Engine,
    Exit,
    Fill,
    Flip,
    Frames,
    Fresh,
    Hcall,
    HcallBatch,
    Ioctl,
    LifeOp,
    Look,
    Master,
    Native,
    Op,
    Open,
    Page,
    Program,
    Protect,
    Put,
    Read,
    Repeat,
    Rtas,
    Spawn,
    Tag,
    Together,
    Word,
    is_life,
    pagetags,
)
from tcelab.program.topology import Device
from tcelab.run.record import Facts, Outcome, Step, TableView

NOT_GIVEN_BACK: Final = {"seed2013"}
"""Profiles of kernels on which a PE that leaves its container keeps its windows."""
UNENDED: Final = {"ETIMEDOUT", "EIO"}
"""Errnos of the agent's drivers: a transfer did not end in time, or not as it should."""
_MASK: Final = (1 << 64) - 1

Handler = Callable[[object, Ioctl, Outcome, int], None]
DeviceOp: TypeAlias = Master | Dma | Together | Burst | Doorbell | Engine | Look


class Fold:
    """:ivar tables: per LIOBN, the channel's too.

    :ivar pes: their conditions; `transfers`: of their devices.
    :ivar unknown: reasons why something that succeeded could not be folded.
    :ivar warned: functions of the kernel that warn but once, and have.
    :ivar partings: by LIOBN, the last times that an owner of entries went; `boots`: how many kernels have ended.
    """

    def __init__(self, program: Program, facts: Facts) -> None:
        self.program, self.facts = program, facts
        self.partings: dict[int, deque[Parting]] = {}
        self.boots = 0
        every = program.topology.machine
        self.tables = {phb.liobn: TableModel(phb.liobn, phb.entries, phb.window_start) for phb in every}
        self.windows = {phb.index: WindowModel(phb, self.tables) for phb in every}
        given_back = facts.profile not in NOT_GIVEN_BACK
        self.groups = {
            phb.index: GroupModel(phb, self.windows[phb.index], given_back=given_back) for phb in program.topology.phbs
        }
        self.group_of = {device.name: self.groups[phb.index] for phb in program.topology.phbs for device in phb.devices}
        self.devices = {each.name: self._device(each) for each in program.topology.devices}
        self.buffers: dict[str, BufferModel] = {}
        self.files = Files()
        self.paths = {f"/dev/vfio/${name}": group for name, group in self.group_of.items()}
        self.unknown: list[str] = []
        self.warned: set[str] = set()
        self.pes = Pes(program.topology.phbs, self.devices, facts)
        self.transfers = Transfers(self.pes, self.unknown)
        self.pins = Pins(facts.page_size, self._entries, self.unknown)
        self.drive()

    def drive(self) -> None:
        """A kernel begins, with a driver that has done nothing."""
        self.hypercalls = (KvmModel if self.program.topology.nested else HypercallModel)(
            self.tables, lambda: self.buffers, self.facts.ram, self.transfers, self.pins, self.unknown
        )
        self.driver = DriverModel(self.number, self._place, self.pins, self.unknown, quirks=self.facts.quirks)
        self._ioctls: dict[str, Handler] = {
            "SET_IOMMU": self._set_iommu,
            "GROUP_SET_CONTAINER": self._set_container,
            "GROUP_UNSET_CONTAINER": self._unset_container,
            "GROUP_GET_DEVICE_FD": self._get_device_fd,
            **self.driver.handlers,
        }

    def _entries(self) -> Iterator[LiveEntry]:
        return (entry for table in self.tables.values() for entry in table.live.values())

    def _pages(self) -> Iterator[PageModel]:
        """All pages that a device may write to."""
        for buffer in self.buffers.values():
            yield from buffer.pages
        for entry in self._entries():
            yield from (page for page in (entry.page, *entry.rest) if page is not None)

    def _device(self, device: Device) -> DeviceModel:
        windows = self.group_of[device.name].windows
        return probemodel.of(device, windows, self.facts) or DeviceModel(device.name, windows, device.mask)

    def apply(self, step: Step) -> None:
        """Fold in one operation."""
        outcome = step.outcome
        if outcome is None:
            return
        self.pes.begin()
        self.transfers.begin()
        if isinstance(step.op, Ioctl):
            self._ioctl(step.op, outcome, step.number)
        elif isinstance(step.op, Repeat):
            self._repeat(step.op, outcome, step.number)
        elif isinstance(step.op, Hcall | HcallBatch):
            self.hypercalls.apply(step.op, outcome, step.number)
        elif not outcome.errno:
            self._plain(step.op, outcome, step.number)
        elif outcome.errno in UNENDED:
            self.unknown.append(f"a transfer of step {step.number} ended with {outcome.errno}: what did it move?")
        if self.transfers.spilled:
            for page in self._pages():
                page.blur(step.number)
        self.pes.end(outcome.events)

    def excuse(self, liobn: int, number: int, step: int) -> None:
        """An entry is empty because a declared quirk emptied it."""
        owner = next((group.container for group in self.groups.values() if liobn in group.windows.liobns), None)
        self.driver.excuse(owner, self.tables[liobn], number, step)

    def seen(self, tables: Iterable[TableView]) -> None:
        """Adopt what a checkpoint shows of entries with unknown contents, by the first view."""
        for shown in tables:
            model = self.tables.get(shown.liobn)
            if model is not None and model.untold and same_place(model, shown):
                self.hypercalls.seen(model, shown)

    @property
    def forbidden(self) -> list[Forbidden]:
        """Device accesses that must have been refused since the last checkpoint."""
        return self.transfers.forbidden

    @property
    def live(self) -> int:
        """Number of page pins of the kernel: in v1 containers, one for each live entry."""
        return pinned(self.groups.values(), self.driver, self.facts)

    def charge(self, process: str = "") -> int | None:
        """KiB of locked memory that containers charge a process for; None if a container's type has no rule."""
        return charged(self.groups.values(), self.driver, self.facts, process)

    def number(self, word: Word) -> int | None:
        """A word as the number that the agent passed; None if unknown."""
        if isinstance(word, int):
            return word
        if isinstance(word, Page) and word.buffer in self.buffers:
            address = self.buffers[word.buffer].address
            return None if address is None else (address + word.index * pagetags.PAGE + word.plus) & _MASK
        return None

    def target(self, op: Ioctl) -> Target | None:
        """What an ioctl is done on."""
        return self.files.get(op.by, op.file)

    # -- operations other than ioctls ---------------------------------------------------------------------------

    def _plain(self, op: Op, outcome: Outcome, step: int) -> None:
        if is_life(op):
            self.event(op, outcome, step)
            return
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
                self.files.exit(op.process, step)
                self.driver.exit(op.process)
                # Only pages that entries lead to stay, because they are pinned; these entries know their pages.
                self.buffers = {name: each for name, each in self.buffers.items() if each.process != op.process}
            case Rtas():
                self.pes.call(op, outcome)
            case Ddw():
                self._ddw(op, outcome, step)
            case Master() | Dma() | Together() | Burst() | Doorbell() | Engine() | Look():
                self._device_op(op, outcome, step)
            case _:
                self._memory(op, outcome, step)

    def event(self, op: LifeOp, _outcome: Outcome, step: int) -> None:
        """An event in the life of a table succeeded."""
        self.unknown.append(f"there is no rule for what {type(op).__name__} of step {step} has done")

    def _ddw(self, op: Ddw, outcome: Outcome, step: int) -> None:
        group = self.group_of[op.device]
        container = group.container
        followed = container is not None and container.kind == SPAPR_TCE and op.call != "create"
        if op.call != "query" and not followed and not group.is_aside(op):
            self.unknown.append(f"Ddw of step {step} changed the windows of a PE that a container has")
        if outcome.value == 0 and op.call in {"reset", "remove"}:
            tables = [table for table in group.windows.active if op.call == "reset" or table.liobn == op.liobn]
            self.pins.stored([entry for table in tables for entry in table.live.values()])
        if problem := group.windows.called(op, outcome, step):
            self.unknown.append(problem)
        if container is not None:
            container.found(group.table)

    def _device_op(self, op: DeviceOp, outcome: Outcome, step: int) -> None:
        files = [each.file for each in op.ops] if isinstance(op, Together) else [op.file]
        handles = [self.files.get(op.by, file) for file in files]
        devices = [handle.device for handle in handles if isinstance(handle, DeviceFileModel)]
        if len(devices) < len(files):
            return
        match op:
            case Master():
                self.pes.master(devices[0], outcome.value, on=op.on)
            case Look():
                look = self.pes.identity if op.what == "identity" else self.pes.command
                look(devices[0], outcome.value)
            case Dma():
                self.transfers.single(devices[0], op, outcome, step)
            case Together():
                self.transfers.together(devices, op, outcome, step)
            case Burst() | Doorbell():
                self.transfers.many(devices[0], op, outcome, step)
            case Engine():
                ring = self.buffers[op.ring.buffer].pages[op.ring.index : op.ring.index + 2]
                self.transfers.engine(devices[0], op, ring, outcome, step)

    def _memory(self, op: Op, outcome: Outcome, step: int) -> None:
        match op:
            case Buffer():
                pages = [PageModel() for _ in range(op.pages)]
                self.buffers[op.name] = BufferModel(op.name, outcome.value, pages, op.by)
                self.buffers[op.name].learn(0, outcome.frames)
            case Tag():
                self.buffers[op.buffer].tag(op, self.facts.nonce, step)
            case Fill():
                data = pagetags.data(self.facts.nonce, op.seed, op.size)
                self.buffers[op.buffer].write(op.offset, data, step)
            case Put():
                self._put(op, step)
            case Protect():
                self.buffers[op.buffer].access = op.access
            case Frames():
                self.buffers[op.buffer].learn(0, outcome.frames)
            case Read() | Native() | Flip() | Fresh() | AtOnce():
                pass  # nothing that the fold follows: counters, what undoes itself, a lie, another guest's beginning
            case _:
                self.unknown.append(f"there is no rule for what {type(op).__name__} of step {step} has done")

    def _open(self, op: Open) -> None:
        if op.path == "/dev/vfio/vfio":
            self.files.open(op.by, op.file, ContainerModel())
        elif op.path in self.paths:
            self.files.open(op.by, op.file, self.paths[op.path])

    def _put(self, op: Put, step: int) -> None:
        layout, buffer = uapi.LAYOUTS[op.request], self.buffers[op.buffer]
        numbers = {name: number for name, word in op.fields.items() if (number := self.number(word)) is not None}
        if len(numbers) == len(op.fields):
            buffer.write(op.offset, layout.pack(numbers), step)
        else:
            buffer.blur(op.offset, layout.size, step)

    # -- ioctls -------------------------------------------------------------------------------------------------

    def _ioctl(self, op: Ioctl, outcome: Outcome, step: int) -> None:
        name, handle = request_name(op.request), self.target(op)
        op = self._with_fields(op, name)
        if name in ARGSZ and isinstance(handle, ContainerModel):
            self.driver.reached(handle, name, op, outcome, step)
        if op.value is not None:
            self._written(op, outcome, step)
            if name in BY_POINTER:
                if not outcome.errno and (outcome.value == 0 or name not in {*ARGSZ, *MEMORY}):
                    self.unknown.append(f"{name} of step {step} passed a struct that we cannot see")
                return
        if name == "GROUP_SET_CONTAINER" and outcome.errno in NOT_TAKEN and isinstance(handle, GroupModel):
            handle.not_taken(step)
        if outcome.errno or name in KEEPS_ALL:
            return
        if name in self._ioctls:
            self._ioctls[name](handle, op, outcome, step)
        else:
            self.unknown.append(f"there is no rule for what request {op.request} of step {step} has done")

    def _with_fields(self, op: Ioctl, name: str) -> Ioctl:
        """A call whose struct was passed by address, converted to one with fields, if the struct is known."""
        place = None if op.value is None or name not in BY_FIELDS else self._place(op.value, op.by)
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

    def _written(self, op: Ioctl, outcome: Outcome, step: int) -> None:
        """The memory that an ioctl's value leads to is unknown after the call."""
        place = None if op.value is None else self._place(op.value, op.by)
        # EFAULT may come half way through.
        if place is not None and place[0].access == "write" and outcome.errno in ("", "EFAULT"):
            place[0].blur(place[1], written(op.request), step)

    def _set_container(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        container = self.files.get(op.by, str(op.fields.get("container")))
        if outcome.value == 0 and isinstance(handle, GroupModel) and isinstance(container, ContainerModel):
            self._taken(handle, step)
            handle.join(container)

    def _taken(self, group: GroupModel, step: int) -> None:
        """VFIO takes a PE, whoever had it."""

    def _unset_container(self, handle: object, _op: Ioctl, outcome: Outcome, step: int) -> None:
        if outcome.value == 0 and isinstance(handle, GroupModel):
            handle.leave(step)

    def _get_device_fd(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        name = str(op.fields.get("name"))
        if outcome.value is not None and outcome.value >= 0 and isinstance(handle, GroupModel) and name in self.devices:
            self.files.open(op.by, op.into or step, DeviceFileModel(self.devices[name], handle))

    def _set_iommu(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        if outcome.value == 0 and isinstance(handle, ContainerModel):
            handle.kind = None if op.value is None else self.number(op.value)
            handle.sweep = self.driver.sweep
            for group in handle.groups:
                if group.windows.inherited:
                    self.unknown.append(
                        f"step {step} makes a container of a PE whose 64-bit window a kernel before has made: nobody"
                        " knows which windows it has"
                    )
                if not group.given_back:  # the driver of 2013 takes over the kernel's table, and clears it
                    self.driver.sweep(handle, group, step)

    def _place(self, word: Word, process: str) -> tuple[BufferModel, int] | None:
        """The buffer of a process, and how many bytes into it, that an address leads to. A place that a program names
        may lie outside the buffer.
        """
        if isinstance(word, Page):
            buffer = self.buffers.get(word.buffer)
            return None if buffer is None else (buffer, word.index * pagetags.PAGE + word.plus)
        address = self.number(word)
        return None if address is None else leads_into(self.buffers.values(), address, process)
