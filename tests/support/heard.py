"""An ideal session whose probes are told each change of their table, and lies about what they are told."""

from dataclasses import replace

from ideal import Ideal
from msgspec import structs

from tcelab.papr import tce
from tcelab.program import Ioctl, Page, Program
from tcelab.program.topology import TOPOLOGIES
from tcelab.run.record import Run, Told
from tcelab.scenarios import vocabulary as b

PROBE = TOPOLOGIES["probe"]
PE, OTHER = b.pes(PROBE, "heard")
PROBES = ("pe1", "pe1b")
AT = 0x10000


def program():
    ops = [
        *b.buffer("a", 8, 1),
        *b.bind(PE),
        *b.open_container(PE),
        *b.enable(PE),
        *b.tag(Page("a", 0), 4, PE.liobn, AT, 1),
        *b.map_dma(PE, Page("a", 0), AT, 4, tce.READ | tce.WRITE),
        *b.map_dma(PE, Page("a", 4), AT + 0x10000, 1, tce.WRITE),
        *b.map_dma(PE, Page("a", 5), AT + 0x20000, 1, tce.READ),
        *b.fill(Page("a", 6), 4096, 5),
        *b.checkpoint("mapped"),
        *b.unmap_dma(PE, AT + 0x1000, 2),
        *b.vmlck(),
        *b.checkpoint("unmapped", stream=True),
        *b.close(PE.group, PE.container),
        *b.checkpoint("closed", stream=True),
    ]
    return Program(name="heard", topology=PROBE, ops=ops, seed=1)


def nth(request, number=0):
    """Number of an operation, by its request or its kind."""
    names = [getattr(op, "request", "") or type(op).__name__ for op in program().ops]
    return [i for i, name in enumerate(names) if name == request][number]


class Heard(Ideal):
    """`during(number, device, runs)` and `live(label, device, mappings)` give what is told instead."""

    def __init__(
        self, *, during=lambda _n, _d, runs: runs, live=lambda _l, _d, mappings: mappings, missing="", apart=None
    ):
        super().__init__(program())
        self.facts = replace(self.facts, views=("live", "stream", "messages"))
        self._during, self._live, self._missing = during, live, missing
        self._emptied, self._apart = False, apart or (lambda _n, _d: [])

    def perform(self, ops):
        return [self._heard(op) for op in ops]

    def _heard(self, op):
        (outcome,) = super().perform([op])
        runs = []
        if isinstance(op, Ioctl) and op.request in {"MAP_DMA", "UNMAP_DMA"}:
            if not self._emptied:  # the first call makes the window, and empties it
                runs = [
                    Run(maps=False, address=0, size=1 << 24, count=1),
                    Run(maps=False, address=0, size=4096, count=4096),
                ]
                self._emptied = True
            iova, size = int(op.fields["iova"]), int(op.fields["size"])
            runs.append(Run(op.request == "MAP_DMA", iova, 4096, size // 4096))
        told = {each: self._during(self.number, each, runs) for each in PROBES}
        return structs.replace(outcome, told=told, apart={each: self._apart(self.number, each) for each in PROBES})

    def intervene(self, op, frames):
        snapshot = super().intervene(op, frames)
        table = self.pes["pe1"].table
        live = {at << 12: (word & ~4095, word & 3 | 1, 4096) for at, word in table.items() if word}
        told = tuple(Told(each, 1, self._live(op.label, each, dict(live)), 0) for each in PROBES)
        if self._missing:
            return replace(snapshot, missing={**snapshot.missing, "messages": self._missing})
        return replace(snapshot, told=told)
