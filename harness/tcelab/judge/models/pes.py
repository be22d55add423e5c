"""The PEs in the fold, and what an operation must show of their condition.

The condition before an operation decides what it must show. The condition after it follows the reported events, so that
one missing isolation is one finding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from tcelab.judge.models.edumodel import DeviceModel
from tcelab.judge.models.tablemodel import ANYTHING, UNKNOWN, TableModel
from tcelab.papr import dmarules, isolationrules
from tcelab.program import Rtas
from tcelab.program.topology import Phb
from tcelab.run.record import Direction, Event, Facts, Outcome

ALL_ONES: Final = (1 << 64) - 1
"""Value of a transfer whose device cannot be reached."""

What = Literal["reach", "identity", "command register", "answer"]

NO_SERVICE: Final[tuple[int, dict[str, int]]] = (isolationrules.PARAMETER_ERROR, {})
"""QEMU's answer for a PHB that it emulates."""

_LEADS: Final = {
    (isolationrules.SET_OPTION, isolationrules.THAW_MMIO): isolationrules.Condition.MMIO_THAWED,
    (isolationrules.SET_OPTION, isolationrules.THAW_DMA): isolationrules.Condition.NORMAL,
    (isolationrules.SET_RESET, isolationrules.HOT): isolationrules.Condition.RESET,
    (isolationrules.SET_RESET, isolationrules.FUNDAMENTAL): isolationrules.Condition.RESET,
    (isolationrules.SET_RESET, isolationrules.DEACTIVATE): isolationrules.Condition.UNCONFIGURED,
    (isolationrules.CONFIGURE, 0): isolationrules.Condition.NORMAL,
}
"""Conditions after a service that was granted although it had to be refused."""
_LETS_GO: Final = {
    (isolationrules.SET_RESET, isolationrules.HOT),
    (isolationrules.SET_RESET, isolationrules.FUNDAMENTAL),
}


@dataclass(slots=True, eq=False)
class PeModel:
    """A PHB with its devices, and its condition."""

    phb: Phb
    devices: list[DeviceModel]
    isolation: isolationrules.Isolation = field(default_factory=isolationrules.Isolation)

    @property
    def index(self) -> int:
        return self.phb.index


class Effect(NamedTuple):
    """An observed effect of a PE's condition, and the expected one.

    :ivar title: of the condition that the operation found; `freezes`: how often the PE had been isolated.
    """

    what: What
    device: str
    pe: int
    title: str
    freezes: int
    expected: object
    seen: object


def isolates(facts: Facts) -> bool:
    """A violation isolates its PE."""
    return facts.isolates or facts.guard == "freeze"


class Pes:
    """:ivar effects: what the last operation showed; `events`: those that had to be told of it; `certain`: all of them
    are known.

    :ivar isolates: a violation isolates; otherwise, if it `observes`, it is only reported.
    """

    def __init__(self, phbs: Iterable[Phb], devices: dict[str, DeviceModel], facts: Facts) -> None:
        self.isolates = isolates(facts)
        self.observes = facts.guard == "observe"
        self.pes = {phb.index: PeModel(phb, [devices[each.name] for each in phb.devices]) for phb in phbs}
        self.of = {device.name: each for each in self.pes.values() for device in each.devices}
        self._then: dict[int, isolationrules.Isolation] = {}
        self._owed: set[int] = set()
        self.effects: list[Effect] = []
        self.events: list[Event] = []
        self.certain = True

    def begin(self) -> None:
        """Another operation."""
        self._then = {}
        self.effects, self.events, self.certain = [], [], True

    def end(self, told: Sequence[Event]) -> None:
        """The operation is folded in: apply its isolations."""
        isolated = {event.pe for event in told if event.kind == "isolated"}
        for index in isolated & self.pes.keys():
            self.pes[index].isolation.violate()
        self._owed |= {event.pe for event in self.events if event.kind == "isolated"} - isolated

    # -- what an operation does

    def reach(self, device: str, value: int | None) -> bool:
        """Was the device reached, by the value of a transfer?"""
        reached = value != ALL_ONES
        self.show("reach", device, self.of[device].isolation.mmio, reached, stopped=False)
        return reached

    def show(self, what: What, device: str, expected: object, seen: object, *, stopped: object = None) -> None:
        """An operation shows something.

        :param stopped: what it shows of an isolated PE: then a PE that had to be isolated is, although no event
            reported it.
        """
        each = self.of[device]
        title, freezes = each.isolation.condition.title, each.isolation.freezes
        if seen not in (expected, None) and seen == stopped and each.index in self._owed:
            self._owed.discard(each.index)
            each.isolation.violate()
            title = "isolated, though no event reported it"
        self.effects.append(Effect(what, device, each.index, title, freezes, expected, seen))

    def transferred(self, device: DeviceModel, pieces: Sequence[dmarules.Piece], direction: Direction) -> bool:
        """A device was reached and did a transfer. True if it violated the table of its PE."""
        first = next((piece for piece in pieces if piece.refused), None)
        if first is None or first.refused == dmarules.NO_MASTER:
            return False
        each = self.of[device.name]
        kind: Literal["isolated", "violation", "blocked"] = "violation"
        reason = first.refused
        if self.isolates:
            isolated = self._then.setdefault(each.index, copy.copy(each.isolation)).violate()
            kind, reason = ("isolated", reason) if isolated else ("blocked", dmarules.ISOLATED)
        elif not self.observes:
            return False
        table, number = device.windows.active[first.window], first.entry
        event = Event(
            kind=kind,
            pe=each.index,
            liobn=table.liobn,
            device=device.name,
            iova=first.iova,
            start=pieces[0].iova,
            size=sum(piece.size for piece in pieces),
            direction=direction,
            reason=reason,
            entry=_raw(table, number),
            neighbours=[raw for near in (number - 1, number + 1) if (raw := _raw(table, near)) is not None],
        )
        self.events.append(event)
        return kind == "isolated"

    def master(self, device: DeviceModel, value: int | None, *, on: bool) -> None:
        """Its driver lets it master the bus, or not any more."""
        each = self.of[device.name]
        device.master = on
        if not (on and each.isolation.dma):
            device.off_bus()
        if on and not each.isolation.dma and self.isolates:
            event = Event(kind="reapplied", pe=each.index, liobn=each.phb.liobn, device=device.name)
            self.events.append(event)  # until that was done, the register could read either way
        else:
            self.command(device, value)

    def command(self, device: DeviceModel, value: int | None) -> None:
        """The driver read a device's command register."""
        master = device.master and self.of[device.name].isolation.dma
        seen = None if value is None else value & (MEMORY | MASTER)
        self.show("command register", device.name, MEMORY | (MASTER if master else 0), seen, stopped=MEMORY)

    def identity(self, device: DeviceModel, value: int | None) -> None:
        """The driver read a device's identity."""
        mmio = self.of[device.name].isolation.mmio
        self.show("identity", device.name, device.identity if mmio else UNREACHED, value, stopped=UNREACHED)

    def call(self, op: Rtas, outcome: Outcome) -> None:
        """A firmware service was called."""
        each = self.of[op.device]
        then = copy.copy(each.isolation)
        answer = (
            then.call(op.call, op.option)
            if self.isolates
            else isolationrules.ServiceAnswer(isolationrules.PARAMETER_ERROR)
        )
        fields = dict(zip(isolationrules.OUTPUTS, answer.outputs, strict=False))
        self.show("answer", op.device, (answer.status, fields), (outcome.value, outcome.fields))
        mmio = each.isolation.mmio
        if outcome.value == answer.status:
            each.isolation = then
        elif outcome.value == isolationrules.SUCCESS:
            each.isolation.condition = _LEADS.get((op.call, op.option), each.isolation.condition)
        for device in each.devices:
            if outcome.value == isolationrules.SUCCESS and (op.call, op.option) in _LETS_GO:
                device.master = False
                device.off_bus()
            if each.isolation.mmio and not mmio:
                device.thawed()


MEMORY: Final = 0x2
MASTER: Final = 0x4
"""Bits of the command register."""
UNREACHED: Final = 0xFFFFFFFF


def _raw(table: TableModel, number: int) -> int | None:
    """A TCE, `UNKNOWN` where the agent did not tell its frame, `ANYTHING` where it may be empty as well; None outside
    the table.
    """
    entry = table.live.get(number)
    if not 0 <= number < table.entries:
        return None
    if number in table.untold:
        return ANYTHING
    return 0 if entry is None else UNKNOWN if entry.tce is None else entry.tce
