"""`migration`: what arrives when a guest is saved and loaded into a fresh QEMU, in each state in which it may be saved.

Windows, entries, containers, processes and devices must be as they were, and go on: after each load devices move data
through entries that were made before it, and are refused beside them. The fresh QEMU is given its devices in the same
order, then in another one; on topology `versioned` it is another version of QEMU.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from tcelab.errors import UsageError
from tcelab.papr import isolationrules, tce, window
from tcelab.program import Dma, Exit, Flight, Load, Look, Op, Page, Save, Spawn
from tcelab.program.operations import GuestOp
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.effects import ONES
from tcelab.scenarios.vocabulary import PAGE, Pe

TOPOLOGIES: Final = ("two-small", "versioned")
OTHER: Final = "qemu-10.0"
"""What takes a guest of a versioned machine in."""
PAGES: Final = 16
"""Of each buffer: a whole CPU page of any kernel."""
LENGTH: Final = 1024
"""Bytes of a transfer."""
_CHILD: Final = "migration-child"
_SHIFT: Final = 12
_SIZE: Final = 1 << 24
"""Page shift and bytes of the 64-bit window."""


@dataclass(slots=True)
class _Story:
    """One guest. `seeds` gives numbers that make names, seeds and sequences distinct; `aloft` is in flight when it is
    saved.
    """

    pes: list[Pe]
    rng: random.Random
    seeds: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    ops: list[Op] = field(default_factory=list)
    aloft: Flight | None = None

    def look(self, label: str) -> None:
        self.ops += [*b.vmlck(), *b.pins(), *b.checkpoint(f"migration: {label}", stream=True)]

    def move(self, order: Literal["same", "reversed"] = "same", qemu: str = "") -> None:
        """Save and load."""
        label = f"{order} order{f', {qemu}' if qemu else ''}"
        self.look(f"{label}: before")
        self.ops += [Save(expect="ok", flight=self.aloft), Load(order=order, qemu=qemu, expect="ok")]
        self.look(f"{label}: after")

    def container(self, pe: Pe, kind: int) -> tuple[Page, int]:
        """A container with entries in the default window, and its device: the first page, and where it is mapped."""
        turn = next(self.seeds)
        page = Page(f"migration-{turn}")
        iova = pe.iova(self.rng.randrange(1, pe.entries // PAGES - 1) * PAGES)
        self.ops += [*b.buffer(page.buffer, PAGES, turn), *b.open_container(pe, kind)]
        if kind == b.SPAPR_TCE:
            self.ops += b.enable(pe)
        else:
            self.ops += b.ask(pe, "SPAPR_REGISTER_MEMORY", vaddr=page, size=PAGES * PAGE)
        self.ops += b.tag(page, PAGES, pe.liobn, iova, turn)
        self.ops += [*b.map_dma(pe, page, iova, PAGES, tce.PERMISSIONS), *b.open_device(pe)]
        return page, iova

    def second(self, pe: Pe) -> tuple[Page, int]:
        """A 64-bit window beside the default one, with entries for a buffer of its own."""
        turn = next(self.seeds)
        page, iova = Page(f"migration-{turn}"), window.SECOND_START
        self.ops += b.buffer(page.buffer, PAGES, turn)
        self.ops += b.ask(pe, "SPAPR_REGISTER_MEMORY", vaddr=page, size=PAGES * PAGE)
        self.ops += b.ask(pe, "SPAPR_TCE_CREATE", page_shift=_SHIFT, window_size=_SIZE, levels=1)
        self.ops += b.tag(page, PAGES, pe.liobn | 1, iova, turn)
        self.ops += b.map_dma(pe, page, iova, PAGES, tce.PERMISSIONS)
        return page, iova

    def use(self, pe: Pe, iova: int, *, refused: bool = True) -> None:
        """The device reads a page and writes the next one; behind the entries it is refused."""
        self.ops += b.dma(pe, iova, LENGTH, to_memory=False)
        self.ops += b.dma(pe, iova + PAGE, LENGTH, to_memory=True)
        if refused:
            self.ops += [_beyond(pe, iova)]

    def by(self, process: str, first: int) -> None:
        """A process does the guest operations from number `first` on."""
        self.ops[first:] = [
            msgspec.structs.replace(op, by=process) if isinstance(op, GuestOp) else op for op in self.ops[first:]
        ]


_ORDERS: Final[tuple[Literal["same", "reversed"], ...]] = ("same", "reversed")


def _story(topology: Topology, seed: int) -> _Story:
    pes = b.pes(topology, "migration")
    if short := next((pe for pe in pes if pe.entries < 4 * PAGES), None):
        raise UsageError(
            f"scenario migration needs windows of at least {4 * PAGES} entries, {short.name} has {short.entries}"
        )
    story = _Story(pes, random.Random(seed))  # noqa: S311 - repeatable on purpose
    story.ops += [*b.vmlck(), *b.pins(), *(op for pe in pes for op in b.bind(pe))]
    return story


def _beyond(pe: Pe, iova: int) -> Op:
    return Dma(file=pe.device, iova=iova + PAGES * PAGE, size=LENGTH, to_memory=True, expect="refused")


def ops(topology: Topology, seed: int) -> list[Op]:
    """A v2 container with both windows; a v1 container of a child process, where there is a second PE."""
    story = _story(topology, seed)
    one, *others = story.pes
    story.ops += [Spawn(process=_CHILD, expect="ok")] if others else []
    used = [(one, story.container(one, b.SPAPR_TCE_V2)[1]), (one, story.second(one)[1])]
    story.aloft = b.aloft(*used[0])
    for other in others[:1]:
        first = len(story.ops)
        place = story.container(other, b.SPAPR_TCE)[1]
        story.use(other, place)
        story.by(_CHILD, first)
    for order in _ORDERS:
        story.move(order, OTHER if topology.machine_type else "")
        for pe, iova in used:
            story.use(pe, iova)
    for other in others[:1]:
        first = len(story.ops)
        story.use(other, place)
        story.ops += [*b.unmap_dma(other, place, PAGES), *b.let_go(other)]
        story.by(_CHILD, first)
    _leave(story, used, others)
    return story.ops


def _leave(story: _Story, used: Sequence[tuple[Pe, int]], others: Sequence[Pe]) -> None:
    """What was made before a load is undone after it."""
    for pe, iova in used:
        story.ops += b.unmap_dma(pe, iova, PAGES)
    story.look("unmapped")
    story.ops += b.ask(story.pes[0], "SPAPR_TCE_REMOVE", start_addr=window.SECOND_START)
    story.ops += [Exit(process=_CHILD, expect="ok")] if others else []
    story.ops += b.let_go(story.pes[0])
    story.look("closed")


def isolated(topology: Topology, seed: int) -> list[Op]:
    """A PE is isolated when the guest is saved, and so it is afterwards, until firmware's services bring it back; the
    others are not.
    """
    story = _story(topology, seed)
    one, *others = story.pes
    places = {pe.name: story.container(pe, b.SPAPR_TCE)[1] for pe in story.pes}
    place = places[one.name]
    story.ops += [_beyond(one, place)]
    story.aloft = b.aloft(one, place)
    for order in _ORDERS:
        story.move(order)
        story.ops += [Look(file=one.device, what="identity", expect=ONES), *b.states(story.pes)]
        story.ops += [Dma(file=one.device, iova=place, size=LENGTH, to_memory=True)]
        for other in others:
            story.use(other, places[other.name], refused=False)
    for option in (isolationrules.THAW_MMIO, isolationrules.THAW_DMA):
        story.ops += b.rtas(one.name, isolationrules.SET_OPTION, option, isolationrules.SUCCESS)
    story.ops += b.states(story.pes)
    story.use(one, place, refused=False)
    story.ops += [_beyond(one, place)]
    story.look("isolated again")
    story.ops += [op for pe in story.pes for op in b.let_go(pe)]
    story.look("closed")
    return story.ops
