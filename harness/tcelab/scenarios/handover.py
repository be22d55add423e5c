"""`handover`: a PE goes from a driver of the kernel's DMA API to VFIO and back, over and over, and nothing is lost.

Each of them maps, has the device move data both ways, and lets go, under masks with which the kernel makes a window of
64 bits and with others, and with containers of both types. Another PE keeps what is mapped for its driver all the time.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Final

from tcelab.errors import UsageError
from tcelab.papr import tce
from tcelab.program import (
    DmaAlloc,
    DmaBind,
    DmaFree,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaMove,
    DmaUnbind,
    DmaUnmap,
    Fill,
    Op,
    Page,
    Part,
)
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE, SPAPR_TCE, SPAPR_TCE_V2, Pe

TOPOLOGIES: Final = ("dma-api", "dma-api-default")
TURNS: Final = (
    (32, SPAPR_TCE),
    (64, SPAPR_TCE),
    (32, SPAPR_TCE_V2),
    (64, SPAPR_TCE_V2),
    (64, SPAPR_TCE),
    (32, SPAPR_TCE),
)
"""Bits of the driver's mask, and the type of the container that comes after it."""
PAGES: Final = 16
_MAPPED: Final = 8
"""Pages that VFIO maps."""
_LENGTH: Final = 64
_HIGH: Final = 16
"""Shift of the pages of a second window."""


def ops(topology: Topology, seed: int) -> list[Op]:
    """:raise UsageError: the topology has no two PEs with an edu alone."""
    alone = {phb.index for phb in topology.phbs if [each.model for each in phb.devices] == ["edu"]}  # also later
    pes = [pe for pe in b.pes(topology, "handover") if pe.phb.index in alone]
    if len(pes) < 2:  # noqa: PLR2004 - one that changes hands, and one that does not
        raise UsageError(f"scenario handover needs two PEs with an edu alone, and topology {topology.name} has not")
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    numbers = itertools.count(rng.randrange(1 << 20))
    one, other = pes[:2]
    out = [*b.vmlck(), *b.pins(), *b.checkpoint("handover: at first", stream=True)]
    out += [*b.buffer("handover", PAGES, next(numbers)), *b.buffer("kept", PAGES, next(numbers))]
    out += _kept(other, next(numbers))
    for turn, (bits, kind) in enumerate(TURNS):
        label = f"handover: turn {turn + 1} of {len(TURNS)}"
        out += _driver(one, bits, f"t{turn}", numbers, f"{label}, driver of {bits} bits")
        out += _container(Pe(one.phb, f"handover-{turn}"), kind, rng, numbers, f"{label}, container of type {kind}")
    out += _driver(one, 32, "last", numbers, "handover: the driver's at last")
    out += [DmaMove(name="kept", size=_LENGTH, to_memory=False, expect="passed")]
    out += [DmaUnmap(name="kept", expect="ok"), DmaUnbind(device=other.name, expect="ok")]
    return [*out, *b.vmlck(), *b.pins(), *b.checkpoint("handover: end", stream=True)]


def _kept(pe: Pe, sequence: int) -> list[Op]:
    """What stays mapped on another PE."""
    return [
        DmaBind(device=pe.name, expect="ok"),
        *b.tag(Page("kept"), PAGES, pe.liobn, 0, sequence),
        DmaMap(
            device=pe.name, name="kept", page=Page("kept", 1, 100), size=_LENGTH, direction="to-device", expect="ok"
        ),
    ]


def _driver(pe: Pe, bits: int, turn: str, numbers: Iterator[int], label: str) -> list[Op]:
    """The driver has it: what it maps is reached, and once it lets go nothing is left."""
    device, coherent = pe.name, f"{turn}-own"
    read, write, parts = f"{turn}-read", f"{turn}-write", f"{turn}-list"
    page = Page("handover", 2, 9)
    out: list[Op] = [DmaBind(device=device, expect="ok"), DmaMask(device=device, bits=bits, expect="ok")]
    out += [
        *b.tag(Page("handover"), PAGES, pe.liobn, 0, next(numbers)),
        DmaMap(device=device, name=read, page=page, size=_LENGTH, direction="to-device", expect="ok"),
        DmaMap(device=device, name=write, page=Page("handover", 3), size=PAGE, direction="from-device", expect="ok"),
        DmaMapSg(
            device=device, name=parts, parts=[Part(Page("handover", 4 + at, at), 99) for at in range(4)], expect="ok"
        ),
        DmaAlloc(device=device, buffer=coherent, pages=2, expect="ok"),
        Fill(buffer=coherent, offset=0, size=2 * PAGE, seed=next(numbers), expect="ok"),
        *b.checkpoint(f"{label}: mapped", stream=True),
        DmaMove(name=read, size=_LENGTH, to_memory=False, expect="passed"),
        DmaMove(name=write, size=_LENGTH, to_memory=True, plus=PAGE - _LENGTH, expect="passed"),
        *b.checkpoint(f"{label}: moved"),
        *(DmaUnmap(name=name, expect="ok") for name in (parts, read, write)),
        DmaFree(buffer=coherent, expect="ok"),
        DmaUnbind(device=device, expect="ok"),
    ]
    return [*out, *b.pins(), *b.checkpoint(f"{label}: let go", stream=True)]


def _container(pe: Pe, kind: int, rng: random.Random, numbers: Iterator[int], label: str) -> list[Op]:
    """VFIO has it, in a container of its own, and gives it back with something mapped."""
    entry = rng.randrange(1, pe.entries - _MAPPED)
    iova, page = pe.iova(entry), Page("handover")
    out = [*b.bind(pe), *b.open_container(pe, kind), *b.checkpoint(f"{label}: taken", stream=True)]
    if kind == SPAPR_TCE:
        out += b.enable(pe)
    else:
        out += b.ask(pe, "SPAPR_REGISTER_MEMORY", vaddr=page, size=PAGES * PAGE)
        out += b.ask(pe, "SPAPR_TCE_CREATE", page_shift=_HIGH, window_size=1 << 20, levels=1)
    out += b.tag(page, _MAPPED, pe.liobn, iova, next(numbers))
    out += [*b.map_dma(pe, page, iova, _MAPPED, tce.PERMISSIONS), *b.open_device(pe), *b.master(pe, on=True)]
    out += [*b.checkpoint(f"{label}: mapped", stream=True)]
    out += b.dma(pe, iova + PAGE, _LENGTH, to_memory=False)
    out += b.dma(pe, iova + 2 * PAGE - 7, _LENGTH, to_memory=True, offset=8)
    out += [*b.checkpoint(f"{label}: moved"), *b.close(pe.device, pe.group, pe.container)]
    return [*out, *b.vmlck(), *b.pins(), *b.checkpoint(f"{label}: given back", stream=True)]
