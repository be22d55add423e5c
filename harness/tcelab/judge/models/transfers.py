"""The effects of devices' transfers: on memory and devices, on the refusals that must come, and on PEs."""

from __future__ import annotations

from collections.abc import Sequence

from tcelab.judge.models import doorbellmodel
from tcelab.judge.models.diskmodel import DiskModel
from tcelab.judge.models.doorbellmodel import Rung
from tcelab.judge.models.edumodel import Asker, DeviceModel, Forbidden
from tcelab.judge.models.memorymodel import PageModel
from tcelab.judge.models.pes import Pes
from tcelab.papr import dmarules
from tcelab.program import Burst, Dma, Doorbell, Engine, Flight, Together, Transfer
from tcelab.run.record import Outcome


class Transfers:
    """:ivar forbidden: device accesses that must have been refused since the last checkpoint.

    :ivar watched: the watcher is known to see refusals; `unsaid`: until then, accesses without a report, each with the
        step and batch size of its checkpoint.
    :ivar doubted: other accesses may have been refused as well, and some of these may not.
    :ivar spilled: the last operation wrote through an entry with unknown target.
    :ivar done: the pieces of each transfer of the last operation, but for those that are only counted: `quick`, of how
        many nothing was refused, and how many pieces they had.
    :ivar rung: what the last operation's doorbell must tell; None: it was none, or nobody knows.
    """

    def __init__(self, pes: Pes, unknown: list[str]) -> None:
        """:param unknown: gets reasons why something could not be folded."""
        self.forbidden: list[Forbidden] = []
        self.doubted = False
        self.spilled = False
        self.done: list[list[dmarules.Piece]] = []
        self.quick = 0, 0
        self.rung: Rung | None = None
        self._unknown = unknown
        self._pes = pes
        self.watched = False
        self.unsaid: list[tuple[Forbidden, int, int]] = []

    def begin(self) -> None:
        """Another operation."""
        self.done, self.quick, self.spilled, self.rung = [], (0, 0), False, None

    def take_forbidden(self) -> list[Forbidden]:
        """The forbidden accesses that can be judged at a checkpoint."""
        forbidden, self.forbidden = self.forbidden, []
        return [] if self.doubted else forbidden

    def single(self, device: DeviceModel, op: Dma, outcome: Outcome, step: int) -> None:
        """One transfer."""
        self._begun(device, step)
        self._one(device, op, outcome.value, step, (op.by, op.file))

    def flown(self, device: DeviceModel, op: Flight, step: int) -> list[dmarules.Piece] | None:
        """A transfer that an event met in flight: its pieces; None: nobody knows. Its refusals are its event's to tell
        (law `flight`).
        """
        if self._goes_anywhere(device, op, step):
            return None
        pieces = device.transfer(op, step, isolated=not self._pes.of[device.name].isolation.dma)
        self._told(device, op, pieces, foreseen=True)
        return pieces

    def engine(self, device: DeviceModel, op: Engine, pages: list[PageModel], outcome: Outcome, step: int) -> None:
        """A virtio device is set up. `pages`: for its ring."""
        if self._pes.reach(device.name, outcome.value) and outcome.value == 0 and isinstance(device, DiskModel):
            device.set_up((op.by, op.file), pages, op.iova)
            self._begun(device, step)

    def _begun(self, device: DeviceModel, step: int) -> None:
        device.begun(step)
        if isinstance(device, DiskModel) and not device.ring_is_there():
            self._unknown.append(f"the ring of {device.name} cannot be reached through its table at step {step}")

    def together(self, devices: list[DeviceModel], op: Together, outcome: Outcome, step: int) -> None:
        """All are done before an isolation takes effect: as if one after the other, with the PEs in their previous
        condition.

        :param devices: those of its transfers.
        """
        ends = outcome.fields.get("ends")
        if not isinstance(ends, list) or len(ends) != len(op.ops):
            self._unknown.append(f"Together of step {step} did not tell how its transfers ended")
            return
        for i, (device, each, end) in enumerate(zip(devices, op.ops, ends, strict=True)):
            self._one(device, each, end, step, (op.by, each.file))
            late = zip(devices[i + 1 :], op.ops[i + 1 :], strict=True)
            if rest := [each for each in late if self._froze(device, each[0])]:
                self._unknown.append(f"{device.name} isolates its PE: what others did at step {step} is not known")
                for other, its in rest:
                    self._doubt(other, [its], step)
                return

    def _froze(self, device: DeviceModel, other: DeviceModel) -> bool:
        """A device has isolated the PE that another one is of as well, and that one may have noticed."""
        pe = self._pes.of[device.name]
        isolated = any(event.kind == "isolated" and event.device == device.name for event in self._pes.events)
        return device.at_once and isolated and other in pe.devices

    def many(self, device: DeviceModel, op: Burst | Doorbell, outcome: Outcome, step: int) -> None:
        """Many transfers of one device."""
        if isinstance(op, Burst):
            self._burst(device, op, outcome, step)
        else:
            self._doorbell(device, op, outcome, step)

    def _doorbell(self, device: DeviceModel, op: Doorbell, outcome: Outcome, step: int) -> None:
        """All of them, each after the consequences of the one before; see `Rung`."""
        if not self._pes.reach(device.name, outcome.value):
            return
        rung, isolation = Rung(), self._pes.of[device.name].isolation
        stopped, foreseen = not isolation.dma, isolation.mmio
        whole = doorbellmodel.written(op)
        for number, each in enumerate(op.transfers()):
            if self._goes_anywhere(device, each, step):
                self._doubt(device, list(op.transfers())[number + 1 :], step)
                return
            pieces = device.pieces(each, isolated=stopped)
            doorbellmodel.move(device, whole, pieces, rung, step)
            for piece in pieces:
                if piece.refused:
                    liobn = device.windows.active[piece.window].liobn
                    access = each.to_memory, piece.iova, piece.told, piece.size
                    self._forbid(device, liobn, access, piece.refused, step)
            stopped = self._told(device, each, pieces, foreseen=foreseen) or stopped
            rung.add(pieces)
        rung.unreachable = stopped and isolation.dma
        rung.interrupts = int(op.interrupt and device.master and not stopped)
        self.rung = rung

    def _burst(self, device: DeviceModel, op: Burst, outcome: Outcome, step: int) -> None:
        """Many transfers, as far as they were done. It is unknown which of them passed before an isolation."""
        done = outcome.fields.get("done")
        if type(done) is not int or not 0 <= done <= len(op.transfers):
            self._unknown.append(f"Burst of step {step} did not tell how many of its transfers were done")
            return
        self._begun(device, step)
        if done:
            self._pes.reach(device.name, 0)
        asker, i = (op.by, op.file), 0
        while i < done:
            if device.master and self._pes.of[device.name].isolation.dma:
                count, pieces = device.quick(op.transfers, i, done, step)
                self.quick = self.quick[0] + count, self.quick[1] + pieces
                i += count
            if i < done and self._goes_anywhere(device, op.transfers[i], step):
                self._doubt(device, op.transfers[i + 1 :], step)
                return
            if i < done and self._move(device, op.transfers[i], step, foreseen=True):
                self._lose(device, op.transfers[i + 1 :], step)
                return
            i += 1
        if done < len(op.transfers):
            self._one(device, op.transfers[done], outcome.value, step, asker)

    def _lose(self, device: DeviceModel, rest: list[Transfer], step: int) -> None:
        """An isolation came somewhere in the rest of a burst."""
        self._unknown.append(f"Burst of step {step} violates its table: what the isolation left of it is not known")
        self._doubt(device, rest, step)

    def _doubt(self, device: DeviceModel, transfers: Sequence[Dma | Transfer | Flight], step: int) -> None:
        """It is unknown which of them were done or refused."""
        self._pes.certain, self.doubted = False, True
        for each in transfers:
            device.doubt(each, step)

    def _one(self, device: DeviceModel, op: Dma | Transfer, value: int | None, step: int, asker: Asker) -> None:
        """One transfer that gave a value."""
        isolation = self._pes.of[device.name].isolation
        foreseen = isolation.mmio
        if not self._pes.reach(device.name, value) or self._goes_anywhere(device, op, step):
            return
        if value == 0:
            self._move(device, op, step, foreseen=foreseen)
            return
        pieces = device.missed(op, asker, isolated=not isolation.dma)
        for writes, iova, size in device.looks() if pieces else ():
            self._forbid(device, device.table.liobn, (writes, iova, iova, size), pieces[0].refused, step)
        self._told(device, op, pieces, foreseen=foreseen)

    def _goes_anywhere(self, device: DeviceModel, op: Dma | Transfer | Flight, step: int) -> bool:
        """It uses an entry with unknown contents, so its data and permission are unknown too."""
        tables = device.windows.active
        if not any(table.untold for table in tables):
            return False
        pieces = device.pieces(op, isolated=not self._pes.of[device.name].isolation.dma)
        if not any(not piece.refused and piece.entry in tables[piece.window].untold for piece in pieces):
            return False
        self._unknown.append(f"a transfer of step {step} goes through an entry that nobody knows")
        self._doubt(device, [op], step)
        self.spilled = self.spilled or op.to_memory
        return True

    def _move(self, device: DeviceModel, op: Dma | Transfer, step: int, *, foreseen: bool) -> bool:
        """A device was reached, and does a transfer. True if it violated the table of its PE.

        :param foreseen: it had to be reached; otherwise its reports are unknown.
        """
        pieces = device.transfer(op, step, isolated=not self._pes.of[device.name].isolation.dma)
        for piece in pieces:
            if piece.refused:
                liobn = device.windows.active[piece.window].liobn
                self._forbid(device, liobn, (op.to_memory, piece.iova, piece.told, piece.size), piece.refused, step)
        violated = self._told(device, op, pieces, foreseen=foreseen)
        for writes, iova, size in device.torn() if violated else ():
            place = device.table.liobn, writes, iova, iova, size
            self.forbidden.append(Forbidden(device.name, *place, dmarules.ISOLATED, step, maybe=True))
        return violated

    def _told(
        self, device: DeviceModel, op: Dma | Transfer | Flight, pieces: list[dmarules.Piece], *, foreseen: bool
    ) -> bool:
        self.done.append(pieces)
        return foreseen and self._pes.transferred(device, pieces, "write" if op.to_memory else "read")

    def _forbid(self, device: DeviceModel, liobn: int, access: tuple[bool, int, int, int], why: str, step: int) -> None:
        self.forbidden.append(Forbidden(device.name, liobn, *access, why, step))
