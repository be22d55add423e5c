"""`memory`: memory is plugged in and pulled, while a program has windows of its own.

One PE belongs to the kernel's own driver, with a window in which the kernel maps all RAM: the entries of memory that
comes or goes, and no others, come and go. On another one, a v2 container has pages mapped in two windows, and its
device uses them after each event: nothing changes there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tcelab.errors import UsageError
from tcelab.papr import tce, window
from tcelab.program import MemoryAdd, MemoryRemove, Op, Page, Read
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE, Pe

TOPOLOGIES: Final = ("memory",)
SIZE: Final = 1 << 24
"""Bytes of the program's own window above 2^59."""
PAGES: Final = 16
"""Of the buffer: the first two are mapped low, the third one high."""
LENGTH: Final = 1024
"""Bytes of a transfer."""
LEAST_SLOTS: Final = 3
LEAST_GROWTH: Final = 1024
"""MiB that are plugged in at the same time."""


@dataclass(slots=True)
class _Story:
    pe: Pe
    seeds: Iterator[int]
    entry: int
    """Of the page that is mapped for reading in the low window; the next one is for writing."""
    high: int
    """Bus address of the page in the high window."""
    ops: list[Op] = field(default_factory=list)

    @property
    def buffer(self) -> str:
        return f"memory-{self.pe.name}"

    def look(self, label: str) -> None:
        self.ops += [Read(what="memory", expect=None), *b.vmlck(), *b.pins()]
        self.ops += b.checkpoint(f"memory: {label}", stream=True)

    def use(self) -> None:
        """The device reads a page of each window and writes it to the one beside; what is not mapped refuses it."""
        pe, source, sink = self.pe, self.pe.iova(self.entry), self.pe.iova(self.entry + 1)
        self.ops += b.fill(Page(self.buffer, 1), PAGE, next(self.seeds))
        self.ops += [*b.dma(pe, source, LENGTH, to_memory=False), *b.dma(pe, sink, LENGTH, to_memory=True)]
        self.ops += [*b.dma(pe, source, LENGTH, to_memory=True), *b.dma(pe, self.high, LENGTH, to_memory=False)]
        self.ops += [*b.dma(pe, sink, LENGTH, to_memory=True), *b.dma(pe, self.high + PAGE, LENGTH, to_memory=True)]

    def event(self, op: MemoryAdd | MemoryRemove, label: str) -> None:
        """An event; all is looked at before and after the device moves anything."""
        self.ops.append(op)
        self.look(label)
        self.use()
        self.look(f"{label}, used")


def ops(topology: Topology, seed: int) -> list[Op]:
    """:raise UsageError: the RAM of the topology does not grow, or not by that much."""
    if topology.slots < LEAST_SLOTS or topology.maxmem < LEAST_GROWTH:
        raise UsageError(
            f"scenario memory needs {LEAST_SLOTS} slots for {LEAST_GROWTH} MiB, and topology {topology.name} has"
            f" {topology.slots} and a maxmem of {topology.maxmem} MiB"
        )
    pe = next(iter(b.pes(topology, "memory")), None)
    if pe is None or not topology.mapped:
        raise UsageError(
            f"scenario memory needs a PE that programs drive and one with a direct window, and topology {topology.name}"
            " has not both"
        )
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    seeds = itertools.count(rng.randrange(1 << 30))
    place = window.SECOND_START + rng.randrange(SIZE // PAGE - 2) * PAGE
    story = _Story(pe, seeds, rng.randrange(pe.entries - 2), place)
    story.look("at first")
    _set_up(story)
    story.use()
    story.look("mapped")
    story.event(MemoryAdd(dimm="one", mib=512, expect="ok"), "512 MiB more")
    story.event(MemoryAdd(dimm="two", mib=256, expect="ok"), "256 MiB more")
    story.event(MemoryRemove(dimm="one", expect="ok"), "the lower of them gone")
    story.event(MemoryAdd(dimm="three", mib=256, expect="ok"), "others in their place")
    _end(story)
    return story.ops


def _set_up(story: _Story) -> None:
    pe, buffer = story.pe, story.buffer
    first = pe.iova(story.entry)
    story.ops += [*b.buffer(buffer, PAGES, 1), *b.bind(pe), *b.open_container(pe, b.SPAPR_TCE_V2)]
    story.ops += b.ask(pe, "SPAPR_REGISTER_MEMORY", vaddr=Page(buffer), size=PAGES * PAGE)
    story.ops += b.ask(pe, "SPAPR_TCE_CREATE", page_shift=window.PAGE_SHIFT, window_size=SIZE, levels=1)
    places = (pe.liobn, first, tce.READ), (pe.liobn, first + PAGE, tce.WRITE), (pe.liobn | 1, story.high, tce.READ)
    for number, (liobn, iova, permissions) in enumerate(places):
        story.ops += b.tag(Page(buffer, number), 1, liobn, iova, next(story.seeds))
        story.ops += b.map_dma(pe, Page(buffer, number), iova, 1, permissions)
    story.ops += b.open_device(pe)


def _end(story: _Story) -> None:
    """Memory goes while nothing is mapped, and what was refused stays refused."""
    pe = story.pe
    story.ops += b.unmap_dma(pe, pe.iova(story.entry), 2)
    story.ops += b.dma(pe, pe.iova(story.entry + 1), LENGTH, to_memory=True)
    story.ops.append(MemoryRemove(dimm="two", expect="ok"))
    story.look("unmapped, and memory gone")
    story.ops += b.let_go(pe)
    story.ops.append(MemoryRemove(dimm="three", expect="ok"))
    story.look("end")
