"""The fold over events in the life of a table: kernels end, the machine is reset, and entries lose their owners.

What is gone is remembered: an entry that a view shows all the same has outlived its owner, and the law `outliving`
names both.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from tcelab.judge.models.directmodel import DirectWindows
from tcelab.judge.models.dmamodel import DmaModel, TestDeviceModel
from tcelab.judge.models.edumodel import DeviceModel
from tcelab.judge.models.files import Files, GroupModel
from tcelab.judge.models.flightmodel import FlightModel, Target
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.memorymodel import PageModel
from tcelab.judge.models.tablemodel import LiveEntry, Parting, TableModel
from tcelab.papr import dmarules, isolationrules, tce, window
from tcelab.program import DmaOp, Exit, Flight, LifeOp, MemoryRemove, Program
from tcelab.program.lifeops import KEPT
from tcelab.program.plugged import Plugged
from tcelab.program.topology import Device
from tcelab.run.record import Facts, Step

_KEPT: Final = 4
"""Partings of one table that are remembered: an entry that outlives its owner shows at the next checkpoint."""


class EventFold(Fold):
    """The fold, with what events have in common. Each family of events builds on it; see `lifemodel`.

    :ivar defaults: by LIOBN, whether a window was marked as a default one when the guest was saved last.
    :ivar flown: the device that was in flight over the last operation; `aloft`: when the guest was saved.
    :ivar plugged: what is plugged in.
    :ivar dma: what the kernel's DMA API gave to a program's driver.
    """

    def __init__(self, program: Program, facts: Facts) -> None:
        super().__init__(program, facts)
        self.defaults: dict[int, bool] = {}
        self.aloft: Flight | None = None
        self.flown: FlightModel | None = None
        self.plugged = Plugged(program.topology)
        for index in self.groups.keys() - self.plugged.phbs:
            self.without(index)
        for group in self.groups.values():
            group.parting = self._parts
        self.direct = DirectWindows(program.topology, facts, self.windows)
        self.direct.boot()
        self.dma = DmaModel(self)
        for device in self.devices.values():
            device.anywhere = self._anywhere

    def _device(self, device: Device) -> DeviceModel:
        if device.model == "testdev":
            return TestDeviceModel(device.name, self.group_of[device.name].windows, device.mask)
        return super()._device(device)

    def _anywhere(self, table: TableModel, address: int) -> PageModel | None:
        """The page of a buffer at a real address, of a window in which all RAM is mapped."""
        if table.liobn not in self.direct.liobns:
            return None
        frame = address & -window.PAGE_SIZE
        return next((page for each in self.buffers.values() for page in each.pages if page.frame == frame), None)

    def apply(self, step: Step) -> None:
        """See `Fold.apply`. Of an event that the guest's kernel did not bring to its end, nobody knows what it left.
        Memory that it keeps stays as it is.
        """
        outcome = step.outcome
        self.flown = None
        if isinstance(step.op, MemoryRemove) and outcome is not None and outcome.errno == KEPT:
            return
        if isinstance(step.op, LifeOp) and outcome is not None and outcome.errno:
            where = f" in its step {outcome.fields['step']}" if "step" in outcome.fields else ""
            name = type(step.op).__name__.lower()
            self.unknown.append(f"{name} of step {step.number} ended with {outcome.errno}{where}: what did it leave?")
            return
        if isinstance(step.op, DmaOp) and outcome is not None:
            self.pes.begin()
            self.transfers.begin()
            self.dma.apply(step.op, outcome, step.number)
            self.pes.end(outcome.events)
            return
        if isinstance(step.op, Exit) and outcome is not None and not outcome.errno:
            self.dma.exit(step.op.process, step.number)
        super().apply(step)

    def without(self, phb: int, how: str = "") -> None:
        """A PHB is not there, nor are its windows.

        :param how: how the owners of its entries went; see `part`.
        """
        for table in self.groups[phb].windows.active:
            self.part(table, how)
            self.tables.pop(table.liobn, None)
        self.windows.pop(phb, None)

    def _parts(self, group: GroupModel, step: int) -> None:
        """A group leaves its container: what was mapped for it goes."""
        for table in group.windows.active:
            self.part(table, f"which let go of it in operation {step}")

    def _taken(self, group: GroupModel, step: int) -> None:
        """What the kernel had made for its own drivers goes (pseries/iommu.c, spapr_tce_take_ownership)."""
        windows = group.windows
        self.dma.handed_over(windows.liobns)
        if self.direct.forget(windows) and windows.liobns[1] in self.tables:
            table = self.tables[windows.liobns[1]]
            table.clear(0, table.entries, step)
            windows.remove(windows.liobns[1])

    def part(self, table: TableModel, how: str) -> None:
        """The owners of all live entries of a table go.

        :param how: how they go, in words that follow an owner's name.
        """
        if table.live:
            kept = self.partings.setdefault(table.liobn, deque(maxlen=_KEPT))
            kept.appendleft(Parting(dict(table.live), table.start, table.page_shift, how))

    def owner(self, entry: LiveEntry) -> str:
        """Who has an entry, in words."""
        op = self.program.ops[entry.step] if 0 <= entry.step < len(self.program.ops) else None
        file, by = getattr(op, "file", ""), getattr(op, "by", "")
        process = f"process {by}" if by else "the agent"
        return f"container {file} of {process}" if file else process

    def end_kernel(self, event: str, *, parts: bool = True) -> None:
        """The kernel ends, and with it all processes, containers and buffers. Tables stay as they are.

        :param event: what ended it, in words.
        :param parts: the entries that it had must be gone.
        """
        for table in self.tables.values() if parts else ():
            self.part(table, f"gone with its kernel by {event}")
        self.boots += 1
        self.files, self.buffers = Files(), {}
        self.paths = {f"/dev/vfio/${name}": group for name, group in self.group_of.items()}
        for group in self.groups.values():
            group.container, group.references = None, 0
        for device in self.devices.values():
            device.ended()
        self.warned.clear()
        self.pins.begin()
        self.dma.begin()
        self.drive()

    def reset_machine(self, step: int) -> None:
        """Every PHB has its default window alone, empty; no PE is isolated (hw/ppc/spapr_pci.c, spapr_phb_reset)."""
        self.tables.clear()
        self.plugged.reset()
        for phb in self.windows.keys() & self.groups.keys() - self.plugged.phbs:
            self.without(phb)
        for windows in self.windows.values():
            windows.restore()
            windows.default.clear(0, windows.default.entries, step)
        for each in self.pes.pes.values():
            each.isolation = isolationrules.Isolation()
        self.direct.boot()

    # -- a device in flight over an event

    def reaches(self, flight: Flight | None) -> bool:
        """It can be started now: its PE is not isolated."""
        return flight is not None and self.pes.of[flight.device].isolation.mmio

    def fly(self, flight: Flight | None, step: int, *, reached: bool | None = None) -> None:
        """Its transfer is done now, by the tables and the device as they are.

        :param reached: it could be started; by default if it could be now.
        """
        if flight is None:
            return
        device, pe = self.devices[flight.device], self.pes.of[flight.device]
        if not (self.reaches(flight) if reached is None else reached):
            self.flown = FlightModel(flight, pe.phb.liobn, reached=False)
            return
        inside = slice(flight.offset, flight.offset + flight.size)
        data = None if 0 in device.known[inside] else bytes(device.memory[inside])
        pieces = self.transfers.flown(device, flight, step)
        if pieces is not None:
            targets = tuple(_target(device, piece) for piece in pieces)
            self.flown = FlightModel(flight, pe.phb.liobn, reached=True, targets=targets, data=data)

    def lost(self, flight: Flight | None, never: str) -> None:
        """Its transfer is never done.

        :param never: why, in words.
        """
        if flight is not None:
            liobn = self.pes.of[flight.device].phb.liobn
            self.flown = FlightModel(flight, liobn, self.reaches(flight), never)


def _target(device: DeviceModel, piece: dmarules.Piece) -> Target:
    """Where a piece goes."""
    table = device.windows.active[piece.window]
    word = None if piece.refused else table.live[piece.entry].tce
    part = table.page_number(piece.offset) << window.PAGE_SHIFT
    return Target(piece, table.liobn, None if word is None else tce.address(word, table.page_shift) + part)
