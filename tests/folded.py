"""A device with a narrow mask says addresses that are folded into its window: legal transfers to another page."""

from tcelab.papr import tce
from tcelab.program import Page, Program
from tcelab.program.topology import topology
from tcelab.scenarios import vocabulary as b

TOPOLOGY = topology("narrow-mask")
FOLDS = (1 << 28, 1 << 40, 1 << 63, (1 << 64) - (1 << 28))
"""What is added to an address and is not there any more once it was ANDed with 28 bits."""
SIZE = 512
SOURCE, SINK, APART, PAGES = 1, 3, 5, 7
"""Pages of the buffer: the device reads one and writes the other; the third is mapped where nobody folds to."""


def ops():
    """Data goes from page to page by folded addresses; what is refused once folded stays refused."""
    pe = b.pes(TOPOLOGY, "folded")[0]

    def at(page):
        return pe.iova(page)

    out = [*b.pins(), *b.buffer("b", PAGES, 1), *b.bind(pe), *b.open_container(pe), *b.enable(pe), *b.open_device(pe)]
    for page in (SOURCE, SINK, APART):
        out += b.fill(Page("b", page), 4096, page)
        out += b.map_dma(pe, Page("b", page), at(page), 1, tce.PERMISSIONS)
    out += b.tag(Page("b"), 1, pe.liobn, at(0), 1)
    out += [*b.map_dma(pe, Page("b"), at(0), 1, tce.READ), *b.checkpoint("folded: mapped", stream=True)]
    for turn, fold in enumerate(FOLDS):
        plus = turn * SIZE
        out += b.dma(pe, fold + at(SOURCE) + plus, SIZE, to_memory=False)
        out += b.dma(pe, fold + at(SINK) + plus, SIZE, to_memory=True)
        out += b.checkpoint(f"folded: {fold:#x}")
    out += b.dma(pe, FOLDS[0] + at(PAGES), SIZE, to_memory=True)
    out += b.dma(pe, FOLDS[1] + pe.end, SIZE, to_memory=False)
    out += [*b.checkpoint("folded: refused"), *b.close(pe.device), *b.disable(pe), *b.close(pe.group, pe.container)]
    return [*out, *b.pins(), *b.checkpoint("folded: end", stream=True)]


def program():
    return Program(name="folded", topology=TOPOLOGY, ops=ops())
