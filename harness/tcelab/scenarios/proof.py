"""`proof`: the minimum for a pass: one tagged page, mapped and seen by every view. It follows a small failing program,
on a guest of its own, so that the whole can pass once the defect is fixed.
"""

from __future__ import annotations

from tcelab.papr import tce
from tcelab.program import Fresh, Op, Page
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b

_ENTRY = 1


def ops(topology: Topology) -> list[Op]:
    """The operations, for a fresh guest; the topology has a PE with a device."""
    pe = b.pes(topology, "proof")[0]
    return [Fresh(), *b.bind(pe), *entry(pe)]


def entry(pe: b.Pe) -> list[Op]:
    """The same without the guest, for a PE that is bound to the driver and whose window is empty; all is left open."""
    page, iova = Page("proof"), pe.iova(_ENTRY)
    return [
        *b.buffer("proof", 1, 1),
        *b.open_container(pe),
        *b.enable(pe),
        *b.tag(page, 1, pe.liobn, iova, 1),
        *b.map_dma(pe, page, iova, 1, tce.READ | tce.WRITE),
        *b.checkpoint("proof", stream=True),
    ]
