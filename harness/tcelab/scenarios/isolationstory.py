"""What is done on one guest of the scenario `isolation`: a PE that violates its table, is isolated and brought back,
while all others go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tcelab.program import Dma, Op, Page
from tcelab.program.topology import EDUS, Topology
from tcelab.scenarios import stories
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.effects import (
    FUNDAMENTAL,
    HOT,
    NOTHING,
    OK,
    REFUSALS,
    REFUSED,
    RESETS,
    TEMPORARY,
    WAYS,
)
from tcelab.scenarios.endpoint import Endpoint, endpoints
from tcelab.scenarios.violations import KINDS, LARGEST, Direction, ViolationKind, size_of

CANARIES: Final = 2048
"""Unmapped pages, in addition to those between the mapped pages: 8 MiB."""

_FOREIGN: Final = 1 << 40
"""A nonce-like LIOBN for the canaries: no table has it."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One violation: which device of which PE, which kind, and how its PE is brought back."""

    pe: int
    device: str
    kind: ViolationKind
    direction: Direction
    size: str
    way: str
    number: int


class IsolationStory:
    """What is done on one guest."""

    def __init__(self, topology: Topology, seed: int) -> None:
        self.pes = endpoints(b.pes(topology, "isolation"), seed)
        self.ops: list[Op] = []
        self._rng = self.pes[0].rng

    def set_up(self) -> None:
        """Every PE of the topology, and the canaries."""
        self.ops += [*b.vmlck(), *b.pins(), *b.buffer("isolation-canaries", CANARIES, self._rng.randrange(1 << 30))]
        self.ops += b.tag(Page("isolation-canaries"), CANARIES, _FOREIGN, 0, 0)
        for each in self.pes:
            self.ops += [*each.allocate(), *each.open(), *each.map_all(), *each.start_disks(), *each.looks("normal")]
        self.look("mapped")

    def end(self) -> None:
        """Leave everything."""
        for each in self.pes:
            self.ops += each.close_all()
        self.ops += [*b.vmlck(), *b.pins(), *b.checkpoint("isolation: end", stream=True)]

    def look(self, label: str) -> None:
        """Somewhere in a story."""
        self.ops += b.checkpoint(f"isolation: {label}")

    def done(self, kind: str, who: str, direction: str = "", size: int = 0) -> None:
        """The end of a story."""
        self.ops += b.checkpoint(str(stories.Story(kind, who, direction, size)))

    def others(self, *bad: Endpoint) -> list[Endpoint]:
        """The PEs that have done nothing."""
        return [each for each in self.pes if each not in bad]

    def carry(self, pes: Iterable[Endpoint], *, to_memory: bool) -> None:
        """All devices of some PEs carry fresh data, edus at the same time."""
        chosen = list(pes)
        self.ops += [op for each in chosen for op in each.fresh(to_memory=to_memory)]
        transfers = [transfer for each in chosen for transfer in each.whole(to_memory=to_memory)]
        if transfers:
            self.ops += chosen[0].alone_or_together(transfers)
        self.ops += [op for each in chosen for op in each.disks_carry(to_memory=to_memory)]

    def prepare(self, violation: Violation) -> None:
        """Set up the violation. The violating transfer comes right after this, with no other translation in between."""
        pe = self.pes[violation.pe]
        if violation.kind.name == "after unmap":
            self.ops += pe.live_and_gone()
        elif violation.kind.name == "stale entry":
            self.ops += pe.stale()

    def violate(self, violation: Violation) -> None:
        """The whole story of one violation."""
        pe, way = self.pes[violation.pe], violation.way
        size = size_of(violation.size, violation.kind.least, pe.model(violation.device), self._rng)
        during = violation.number // 2 % 2 == 0
        self.carry(self.pes, to_memory=False)
        self.prepare(violation)
        self.commit(violation.pe, violation.kind.name, violation.direction, size, violation.device, others_write=during)
        self.look("violated")
        self.isolated(pe)
        self.carry(self.others(pe), to_memory=not during)
        self.recover(pe, way)
        self.carry(self.pes, to_memory=True)
        self.done(violation.kind.name, violation.device, violation.direction, size)

    def commit(
        self, number: int, kind: str, direction: Direction, size: int, device: str = "", *, others_write: bool
    ) -> None:
        """A device of PE number `number`, by default its first edu, violates its table while all others transfer."""
        pe = self.pes[number]
        others = self.others(pe)
        bad = self.bad(pe, kind, direction, size, device)
        if device and pe.model(device) not in EDUS:
            self.ops += pe.alone(bad)
            self.carry(others, to_memory=others_write)
            return
        self.ops += [op for each in others for op in each.fresh(to_memory=others_write)]
        self.ops += pe.alone_or_together([bad, *(t for each in others for t in each.whole(to_memory=others_write))])

    def bad(self, pe: Endpoint, kind: str, direction: Direction, size: int, device: str = "") -> Dma:
        """A transfer that is a violation."""
        at = KINDS[kind].where(pe.place, size, self._rng)
        do = pe.write if direction == "write" else pe.read
        name = device or pe.edus[0].name
        inside = self._rng.randrange(LARGEST - size + 1) if pe.model(name) in EDUS else pe.sectors(size)
        return do(name, at, size, inside)

    def isolated(self, pe: Endpoint) -> None:
        """Check that the whole PE is isolated and reports it, that services out of order are refused, and that firmware
        reports the error once.
        """
        self.ops += [*pe.shows("stopped"), *pe.unreachable()]
        self.ops += [*pe.ask(*TEMPORARY, OK), *pe.ask(*TEMPORARY, NOTHING)]

    def recover(self, pe: Endpoint, way: str) -> None:
        """Bring a PE back, and check it at each step."""
        condition = "stopped"
        for service, then in WAYS[way]:
            for early in REFUSALS[condition]:
                self.ops += pe.ask(*early, REFUSED)
            self.ops += pe.ask(*service, OK)
            if service in {HOT, FUNDAMENTAL}:
                pe.was_reset()
            if then == condition:
                continue
            condition = then
            self.ops += pe.shows(condition)
            self.ops += pe.blocked() if condition == "MMIO thawed" else []
            self.ops += pe.unreachable() if condition in {"reset asserted", "not configured"} else []
        if way in RESETS:
            self.ops += pe.blocked()[:1]
            self.ops += [*pe.master_all(), *pe.shows("normal")]
        self.ops += pe.start_disks()
