"""`windows-isolation`: a PE with a window of 64 bits is isolated as a whole, whichever of its windows is violated.

Each PE has a container of type v2 with a default window and one above 2^59, with pages mapped in both. A device
violates one of them: beside what is mapped, in the wrong direction, at its edges, after an unmap, after the window is
removed. Its PE is isolated, and no other, whose devices use both their windows meanwhile; firmware brings it back, and
what was mapped carries data again, in both windows. Windows that firmware alone made are violated as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tcelab.errors import UsageError
from tcelab.papr import tce, window
from tcelab.program import Buffer, Dma, Fresh, Op, Page
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.effects import WAYS
from tcelab.scenarios.endpoint import Endpoint
from tcelab.scenarios.isolation import LEAST_ENTRIES
from tcelab.scenarios.isolationstory import IsolationStory
from tcelab.scenarios.violations import HOLE, ONLY_READ, ONLY_WRITE, OWN, STRIDE
from tcelab.scenarios.vocabulary import PAGE, SPAPR_TCE_V2, Pe

TOPOLOGIES: Final = ("two-small", "pair")
SHIFTS: Final = (12, 16, 21)
"""Of the pages of the windows above, one for each part."""
HIGH: Final = window.SECOND_START
SIZE: Final = 1 << 28
"""Bytes of each of them."""
HUGE: Final = 1024
"""Pages of a PE's buffer for them: two huge pages."""
APART: Final = 32 << 20
"""Where its pages lie in the window above, beyond all offsets in default windows: QEMU tells of a refused access its
offset alone, so no two transfers at the same time may have one in common.
"""
LENGTH: Final = 512
"""Bytes of a transfer."""
SMALL: Final = 8
FIRMWARE_SHIFT: Final = 16


@dataclass(slots=True)
class WindowedEndpoint(Endpoint):
    """A PE with a second window.

    :ivar number: its number among the PEs. `shift`: of the pages of its window above.
    """

    number: int = 0
    shift: int = window.PAGE_SHIFT

    @property
    def high(self) -> str:
        """Its buffer for the window above."""
        return f"{self.buffer}-high"

    @property
    def unit(self) -> int:
        return 1 << self.shift

    def above(self, page: int) -> int:
        """Bus address of a page in the window above: 0 the device reads, 2 it writes; nothing else is mapped there."""
        return HIGH + APART + (8 * self.number + page) * self.unit

    @property
    def pages(self) -> int:
        """Of its other buffer: whole pages of any kernel, all of which are registered."""
        return 2 * OWN + STRIDE * 2 * (len(self.devices) - 1) + 2

    def allocate(self) -> list[Op]:
        huge = Buffer(name=self.high, pages=HUGE, seed=1, huge=True, expect="ok")
        whole = b.fill(Page(self.high), HUGE * PAGE, next(self.seeds))
        return [huge, *whole, *Endpoint.allocate(self)]

    def open(self) -> list[Op]:
        self.opened += 1
        self.pe = Pe(self.pe.phb, f"isolation-{self.opened}")
        memory = ((self.buffer, self.pages), (self.high, HUGE))
        registered = [
            op
            for name, pages in memory
            for op in b.ask(self.pe, "SPAPR_REGISTER_MEMORY", vaddr=Page(name), size=pages * PAGE)
        ]
        return [*b.open_container(self.pe, SPAPR_TCE_V2), *registered, *self.open_devices()]

    def map_all(self) -> list[Op]:
        return [*Endpoint.map_all(self), *self.map_above()]

    def map_above(self) -> list[Op]:
        """The window above, and what is mapped there."""
        made = {"page_shift": self.shift, "window_size": SIZE, "levels": 1}
        return [
            *b.ask(self.pe, "SPAPR_TCE_CREATE", **made),
            *self.map_one(0, tce.READ),
            *self.map_one(2, tce.WRITE),
        ]

    def map_one(self, page: int, permissions: int) -> list[Op]:
        first = Page(self.high, page * HUGE // 4)
        return b.ask(self.pe, "MAP_DMA", flags=permissions, vaddr=first, iova=self.above(page), size=self.unit)

    def unmap_above(self, page: int) -> list[Op]:
        return b.ask(self.pe, "UNMAP_DMA", iova=self.above(page), size=self.unit)

    def remove_above(self) -> list[Op]:
        return b.ask(self.pe, "SPAPR_TCE_REMOVE", start_addr=HIGH)

    def carries(self) -> list[Op]:
        """Each device reads and writes in the window above, fresh data."""
        out: list[Op] = []
        for device in self.edus:
            out += b.fill(Page(self.high), LENGTH, next(self.seeds))
            out += self.alone(self.read(device.name, self.above(0), LENGTH))
            out += b.fill(Page(self.high, HUGE // 2), LENGTH, next(self.seeds))
            out += self.alone(self.write(device.name, self.above(2) + self.unit - LENGTH, LENGTH))
        return out


_Where = Callable[[WindowedEndpoint], int]


def _nothing(_pe: WindowedEndpoint) -> list[Op]:
    return []


@dataclass(frozen=True, slots=True)
class WindowViolation:
    """:ivar where: bus address of the access; `writes`: the device writes memory.

    :ivar before: what the driver does right before; `after`: once the PE is back.
    """

    name: str
    where: _Where
    writes: bool = True
    size: int = SMALL
    before: Callable[[WindowedEndpoint], list[Op]] = field(default=_nothing)
    after: Callable[[WindowedEndpoint], list[Op]] = field(default=_nothing)


VIOLATIONS: Final = (
    WindowViolation("hole above", lambda pe: pe.above(1) + 64),
    WindowViolation("read of a hole above", lambda pe: pe.above(3), writes=False),
    WindowViolation("write of read-only above", lambda pe: pe.above(0), size=LENGTH),
    WindowViolation("read of write-only above", lambda pe: pe.above(2), writes=False),
    WindowViolation("over the end of a page above", lambda pe: pe.above(3) - SMALL // 2),
    WindowViolation("over the start of a page above", lambda pe: pe.above(2) - SMALL // 2),
    WindowViolation("first page of the window above", lambda _: HIGH),
    WindowViolation("over the start of the window above", lambda _: HIGH - SMALL // 2),
    WindowViolation("below the window above", lambda pe: HIGH - (pe.number + 1) * PAGE, writes=False),
    WindowViolation("over the end of the window above", lambda _: HIGH + SIZE - SMALL // 2),
    WindowViolation("beyond the window above", lambda pe: HIGH + SIZE + pe.number * PAGE),
    WindowViolation(
        "unmapped above",
        lambda pe: pe.above(2),
        before=lambda pe: pe.unmap_above(2),
        after=lambda pe: pe.map_one(2, tce.WRITE),
    ),
    WindowViolation(
        "window above removed",
        lambda pe: pe.above(2),
        before=lambda pe: pe.remove_above(),
        after=lambda pe: pe.map_above(),
    ),
    WindowViolation("hole below", lambda pe: pe.iova(HOLE)),
    WindowViolation("write of read-only below", lambda pe: pe.iova(ONLY_READ)),
    WindowViolation("read of write-only below", lambda pe: pe.iova(ONLY_WRITE), writes=False),
    WindowViolation("over the end of the window below", lambda pe: pe.pe.end - SMALL // 2),
)


class WindowsStory(IsolationStory):
    """What is done on one guest."""

    def __init__(self, topology: Topology, seed: int, shift: int) -> None:
        super().__init__(topology, seed)
        self.windowed = [
            WindowedEndpoint(each.pe, each.base, each.rng, each.seeds, each.far, number=number, shift=shift)
            for number, each in enumerate(self.pes)
        ]
        self.pes = [*self.windowed]

    def both(self) -> None:
        """All devices carry data in both windows, and nothing is refused."""
        self.carry(self.pes, to_memory=False)
        self.carry(self.pes, to_memory=True)
        for pe in self.windowed:
            self.ops += pe.carries()

    def story(self, pe: WindowedEndpoint, violation: WindowViolation, way: str) -> None:
        """One violation, and the way back."""
        self.ops += violation.before(pe)
        bad = self.access(pe, violation)
        others = [each for each in self.windowed if each is not pe]
        self.ops += [op for each in others for op in each.fresh(to_memory=True)]
        self.ops += pe.alone_or_together([bad, *(t for each in others for t in each.whole(to_memory=True))])
        self.look(f"{violation.name} of {pe.pe.name}")
        self.isolated(pe)
        for each in others:
            self.ops += each.carries()
        self.recover(pe, way)
        self.ops += violation.after(pe)
        self.carry([pe], to_memory=True)
        self.ops += pe.carries()
        self.look(f"{violation.name} of {pe.pe.name}: back")

    def access(self, pe: WindowedEndpoint, violation: WindowViolation) -> Dma:
        do = pe.write if violation.writes else pe.read
        device = pe.edus[next(pe.far) % len(pe.edus)]
        return do(device.name, violation.where(pe), violation.size)

    def left(self, pe: WindowedEndpoint, way: str) -> None:
        """The driver leaves while its PE is isolated: its window goes, and the PE stays isolated for who comes next."""
        self.ops += pe.alone(pe.write(pe.edus[0].name, pe.above(1), SMALL))
        self.ops += [*pe.shows("stopped"), *pe.close_all()]
        self.look("closed while isolated")
        self.ops += [*pe.open(), *pe.map_all(), *pe.shows("stopped"), *pe.unreachable()]
        self.recover(pe, way)
        self.ops += pe.carries()
        self.look("another driver")

    def firmware(self, pe: WindowedEndpoint, way: str) -> None:
        """A window above that firmware made, of which the kernel knows nothing, and its removal."""
        self.ops += pe.remove_above()
        self.ops += b.ddw(pe.pe, "create", page_shift=FIRMWARE_SHIFT, window_shift=SIZE.bit_length() - 1)
        for last in (False, True):
            self.ops += pe.alone(pe.write(pe.edus[-1].name, pe.above(2), SMALL))
            self.look("firmware's window" + (", removed" if last else ""))
            self.isolated(pe)
            self.recover(pe, way)
            self.ops += [] if last else b.ddw(pe.pe, "remove", liobn=pe.pe.liobn | 1)
        self.ops += [*pe.map_above(), *pe.carries()]


def ops(topology: Topology, seed: int) -> list[Op]:
    """In parts, one for each size of pages.

    :raise UsageError: a window has fewer than `LEAST_ENTRIES` entries for each PE, or a PE has no edu.
    """
    pes = b.pes(topology, "isolation")
    if any(pe.entries < LEAST_ENTRIES * len(pes) for pe in pes) or topology.models - {"edu"}:
        raise UsageError(
            f"scenario windows-isolation needs edus, and windows of at least {LEAST_ENTRIES * len(pes)} entries"
        )
    out: list[Op] = []
    ways = itertools.cycle(WAYS)
    for part, shift in enumerate(SHIFTS):
        story = WindowsStory(topology, seed + part, shift)
        story.set_up()
        story.both()
        for number, violation in enumerate(VIOLATIONS):
            story.story(story.windowed[(number + part) % len(pes)], violation, next(ways))
        story.left(story.windowed[part % len(pes)], next(ways))
        story.firmware(story.windowed[-1], next(ways))
        story.both()
        story.end()
        out += [*([Fresh()] if part else []), *story.ops]
    return out
