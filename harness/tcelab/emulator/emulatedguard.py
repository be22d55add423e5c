"""Isolates a PE of the emulated machine when one of its devices does a DMA that its table forbids, and reports it.

A guard from outside comes a few milliseconds after the first access that was refused, and so does this one: transfers
that end together end before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from tcelab.emulator.pci import PciDevice
from tcelab.papr import dmarules, isolationrules, windowcreation
from tcelab.program import Rtas
from tcelab.run.record import Direction, Event, Guarding, Outcome

_RESETS = {(isolationrules.SET_RESET, isolationrules.HOT), (isolationrules.SET_RESET, isolationrules.FUNDAMENTAL)}


class EmulatedGuard:
    """:ivar mode: what is done about violations.

    :param clock: seconds since the machine's start.
    """

    def __init__(self, mode: Guarding, clock: Callable[[], float]) -> None:
        self.mode = mode
        self._clock = clock
        self._events: list[Event] = []
        self._waiting: list[tuple[PciDevice, Event]] = []

    def transferred(
        self,
        index: int,
        device: PciDevice,
        windows: windowcreation.Windows,
        pieces: Sequence[dmarules.Piece],
        direction: Direction,
    ) -> None:
        """Note a transfer of a device on the bus. Its consequences follow in `settle`.

        :param index: of its PHB. `windows`: of its PE.
        """
        first = next((piece for piece in pieces if piece.refused), None)
        if first is None or first.refused == dmarules.NO_MASTER or self.mode == "off":
            return
        table = windows.at(first.iova)
        number = (first.iova - table.bus_offset) >> table.page_shift
        beside = [table.get(each) for each in (number - 1, number + 1) if 0 <= each < table.entries]
        event = Event(
            kind="blocked",
            pe=index,
            liobn=table.liobn,
            device=device.name,
            iova=first.iova,
            start=pieces[0].iova,
            size=sum(piece.size for piece in pieces),
            direction=direction,
            reason=first.refused,
            entry=table.get(number) if 0 <= number < table.entries else None,
            neighbours=beside,
            at=self._clock(),
        )
        self._waiting.append((device, event))

    def mastered(self, index: int, liobn: int, device: PciDevice) -> None:
        """A driver has let its device master the bus."""
        if not device.isolation.dma:
            event = Event(kind="reapplied", pe=index, liobn=liobn, device=device.name, at=self._clock())
            self._events.append(event)

    def settle(self) -> None:
        """Apply the consequences of refused accesses."""
        waiting, self._waiting = self._waiting, []
        for device, event in waiting:
            if self.mode == "observe":
                self._events.append(msgspec.structs.replace(event, kind="violation"))
            elif device.isolation.violate():
                self._events.append(msgspec.structs.replace(event, kind="isolated"))
            else:
                self._events.append(msgspec.structs.replace(event, reason=dmarules.ISOLATED))

    def take(self) -> list[Event]:
        """What happened since the last call."""
        self.settle()
        events, self._events = self._events, []
        return events

    def call(self, op: Rtas, isolation: isolationrules.Isolation, devices: Sequence[PciDevice]) -> Outcome:
        """A service of firmware, for the PE of these devices."""
        if self.mode != "freeze":
            return Outcome(value=isolationrules.PARAMETER_ERROR)  # as QEMU answers for a PHB that it emulates
        mmio = isolation.mmio
        answer = isolation.call(op.call, op.option)
        for device in devices:
            if answer.status == isolationrules.SUCCESS and (op.call, op.option) in _RESETS:
                device.master = False
            if isolation.mmio and not mmio:
                device.thawed()
        return Outcome(value=answer.status, fields=dict(zip(isolationrules.OUTPUTS, answer.outputs, strict=False)))
