"""`lifecycle`: what a reset and a reboot leave of tables, windows and PEs, in each state in which they may find them.

Before each event, one PE has what the state says: entries of a v1 container, a 64-bit window of a v2 container beside
the default one, or a PE that is isolated; and its device is in flight when the event comes. Afterwards everything must
be as at the machine's start, and the same is done again, so that what an event spoilt shows.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from tcelab.papr import tce, window
from tcelab.program import Dma, Flight, Fresh, Op, Page, Reboot, Reset
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE, Pe

TOPOLOGIES: Final = ("two-small",)
PAGES: Final = 16
"""Of each buffer: a whole CPU page of any kernel."""
_SHIFT: Final = 12
_SIZE: Final = 1 << 24
"""Page shift and bytes of the 64-bit window."""
_LENGTH: Final = 64
EVENTS: Final[dict[str, Callable[[Flight | None], Op]]] = {
    "reset": lambda flight: Reset(expect="ok", flight=flight),
    "reboot": lambda flight: Reboot(expect="ok", flight=flight),
}


class _Story(NamedTuple):
    """One guest. `turn` gives numbers that make names, seeds and sequences distinct."""

    pes: list[Pe]
    rng: random.Random
    turn: Iterator[int]


def ops(topology: Topology, seed: int) -> list[Op]:
    """Each event on a guest of its own."""
    out: list[Op] = []
    for name, event in EVENTS.items():
        story = _Story(b.pes(topology, "lifecycle"), random.Random(seed), itertools.count(1))  # noqa: S311 - repeatable
        out += [Fresh()] if out else []
        mapped, first = _mapped(story, b.SPAPR_TCE, f"{name}: before")
        out += [*mapped, event(b.aloft(story.pes[0], first))]
        out += b.checkpoint(f"lifecycle: {name} of a v1 container", stream=True)
        mapped, _ = _mapped(story, b.SPAPR_TCE_V2, f"{name}: between")
        out += [*mapped, event(b.aloft(story.pes[0], window.SECOND_START))]
        out += b.checkpoint(f"lifecycle: {name} of a v2 container", stream=True)
        out += _mapped(story, b.SPAPR_TCE, f"{name}: after")[0]
        out += _closed(story.pes[0], name)
    return out


def isolated(topology: Topology, seed: int) -> list[Op]:
    """The same with a PE that is isolated when the event comes: it is not, afterwards, and nobody else was."""
    out: list[Op] = []
    for name, event in EVENTS.items():
        story = _Story(b.pes(topology, "lifecycle"), random.Random(seed), itertools.count(1))  # noqa: S311 - repeatable
        pe = story.pes[0]
        out += [Fresh()] if out else []
        mapped, first = _mapped(story, b.SPAPR_TCE, f"{name}: before")
        out += [*mapped, Dma(file=pe.device, iova=pe.end, size=_LENGTH, to_memory=True, expect="refused")]
        out += [*b.states(story.pes), *b.checkpoint(f"lifecycle: {name}: isolated", stream=True)]
        out += [event(b.aloft(pe, first)), *b.states(story.pes)]
        out += b.checkpoint(f"lifecycle: {name} of an isolated PE", stream=True)
        out += [*_mapped(story, b.SPAPR_TCE, f"{name}: after")[0], *_closed(pe, name)]
    return out


def _mapped(story: _Story, kind: int, label: str) -> tuple[list[Op], int]:
    """The first PE has a container with entries in the window that its type has, from a bus address on, and its device
    uses them.
    """
    pe, turn = story.pes[0], next(story.turn)
    name = f"life-{turn}"
    page, number = Page(name), story.rng.randrange(1, pe.entries - PAGES) // PAGES * PAGES
    out = [*b.vmlck(), *b.pins(), *b.buffer(name, PAGES, turn), *b.bind(pe), *b.open_container(pe, kind)]
    if kind == b.SPAPR_TCE:
        out += b.enable(pe)
    else:
        out += b.ask(pe, "SPAPR_REGISTER_MEMORY", vaddr=page, size=PAGES * PAGE)
    out += [*b.tag(page, PAGES, pe.liobn, pe.iova(number), turn)]
    out += [*b.map_dma(pe, page, pe.iova(number), PAGES, tce.PERMISSIONS), *b.open_device(pe)]
    if kind == b.SPAPR_TCE_V2:
        out += _second(pe, page, turn)
    out += b.dma(pe, pe.iova(number), _LENGTH, to_memory=False)
    return [*out, *b.vmlck(), *b.pins(), *b.checkpoint(f"lifecycle: {label}", stream=True)], pe.iova(number)


def _second(pe: Pe, page: Page, turn: int) -> list[Op]:
    """A 64-bit window beside the default one, with an entry."""
    return [
        *b.ask(pe, "SPAPR_TCE_CREATE", page_shift=_SHIFT, window_size=_SIZE, levels=1),
        *b.tag(page, PAGES, pe.liobn | 1, window.SECOND_START, turn),
        *b.ask(pe, "MAP_DMA", flags=tce.PERMISSIONS, vaddr=page, iova=window.SECOND_START, size=PAGES * PAGE),
    ]


def _closed(pe: Pe, name: str) -> list[Op]:
    """Its last user lets go of it."""
    return [*b.let_go(pe), *b.checkpoint(f"lifecycle: {name}: closed", stream=True)]
