"""`flow`: what a user of VFIO does from bind to close, once per PE, with a checkpoint after every step."""

from __future__ import annotations

from tcelab.papr import tce
from tcelab.program import Op, Page
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import Pe

PAGES = 256
"""1 MiB, the example of Documentation/driver-api/vfio.rst."""


def ops(topology: Topology, seed: int) -> list[Op]:
    pes = b.pes(topology, "flow")
    out = [*b.vmlck(), *b.pins(), *b.buffer("flow", PAGES, seed)]
    for sequence, pe in enumerate(pes):
        out += _one(pe, sequence)
    return [*out, *b.checkpoint("flow: end", stream=True)]


def _one(pe: Pe, sequence: int) -> list[Op]:
    pages = min(PAGES, pe.entries)
    page = Page("flow")
    steps: list[tuple[str, list[Op]]] = [
        ("bind", b.bind(pe)),
        ("container", b.open_container(pe)),
        ("get info", b.get_info(pe)),
        ("enable", b.enable(pe)),
        (
            "map",
            [
                *b.tag(page, pages, pe.liobn, pe.start, sequence),
                *b.map_dma(pe, page, pe.start, pages, tce.READ | tce.WRITE),
            ],
        ),
        ("unmap", b.unmap_dma(pe, pe.start, pages)),
        ("disable", b.disable(pe)),
        ("close group", b.close(pe.group)),
        ("close container", b.close(pe.container)),
    ]
    out: list[Op] = []
    for label, step in steps:
        out += [*step, *b.vmlck(), *b.pins()]
        out += b.checkpoint(f"flow: {pe.name}: {label}", stream=label in {"map", "close group"})
    return out
