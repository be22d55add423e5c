"""`batches`: maps of 1 to 32 pages in every permission and place, partial unmaps and remaps, with a checkpoint after
each.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tcelab.errors import UsageError
from tcelab.papr import tce
from tcelab.program import Op, Page
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import Pe

SIZES: Final = range(1, 33)
LARGEST: Final = SIZES[-1]
BUFFER_PAGES: Final = 2 * LARGEST
LEAST_ENTRIES: Final = 8 * LARGEST
"""Room for the three places of the largest batch without overlap."""

ALL_PERMISSIONS: Final = (tce.READ, tce.WRITE, tce.READ | tce.WRITE)
PLACES: Final = ("start", "random", "end")


@dataclass(slots=True)
class BatchStory:
    """The operations so far, with the state of random choices and sequence numbers."""

    pe: Pe
    random: random.Random
    ops: list[Op] = field(default_factory=list)
    sequence: int = 0
    size: int = 0

    def map(self, buffer: str, entry: int, permissions: int, *, across: bool = False) -> None:
        """Map a batch of freshly tagged pages, from a random place in a buffer, at an entry.

        :param across: the batch crosses the middle of the buffer. Within one CPU page, neighbouring pages have
            neighbouring frames, so a driver that looks up only the first frame would go unnoticed.
        """
        self.sequence += 1
        first = self.random.randrange(BUFFER_PAGES - self.size + 1)
        if across and self.size > 1:
            first = BUFFER_PAGES // 2 - self.random.randrange(1, self.size)
        page = Page(buffer, first)
        iova = self.pe.iova(entry)
        self.ops += b.tag(page, self.size, self.pe.liobn, iova, self.sequence)
        self.ops += b.map_dma(self.pe, page, iova, self.size, permissions)

    def unmap(self, entry: int, pages: int) -> None:
        self.ops += b.unmap_dma(self.pe, self.pe.iova(entry), pages)

    def look(self, label: str, *, stream: bool = False) -> None:
        self.ops += b.pins()
        label = f"batches: {self.size}: {label}"
        self.ops += b.checkpoint(label, stream=stream, batch=self.size)


def ops(topology: Topology, seed: int, sizes: Sequence[int] = SIZES) -> list[Op]:
    """:param sizes: batch sizes, in pages.
    :raise UsageError: the first PE's window has fewer than `LEAST_ENTRIES` entries.
    """
    pes = b.pes(topology, "batches")
    pe = pes[0]
    small = next((each for each in pes[:2] if each.entries < LEAST_ENTRIES), None)
    if small:
        raise UsageError(
            f"scenario batches needs windows of at least {LEAST_ENTRIES} entries, {small.name} has {small.entries}"
        )
    story = BatchStory(pe, random.Random(seed))  # noqa: S311 - repeatable on purpose
    standing = pes[1:2]
    story.ops += [*b.vmlck(), *b.pins()]
    for place in (*PLACES, "remap"):
        story.ops += b.buffer(f"batches-{place}", BUFFER_PAGES, story.random.randrange(1 << 30))
    for other in standing:
        story.ops += _stand(other, story.random)
    story.ops += [*b.bind(pe), *b.open_container(pe), *b.enable(pe), *b.vmlck()]
    story.ops += b.checkpoint("batches: ready")
    for size in sizes:
        story.size = size
        for permissions in ALL_PERMISSIONS:
            _batch(story, permissions, last=permissions == ALL_PERMISSIONS[-1])
    story.ops += [*b.vmlck(), *b.disable(pe), *b.close(pe.group, pe.container)]
    for other in standing:
        story.ops += b.close(other.group, other.container)
    return [*story.ops, *b.vmlck(), *b.pins(), *b.checkpoint("batches: end", stream=True)]


def _stand(pe: Pe, rng: random.Random) -> list[Op]:
    """A mapping on another PE that must stay unchanged throughout."""
    iova = pe.iova(rng.randrange(pe.entries - LARGEST))
    page = Page("batches-standing")
    return [
        *b.buffer("batches-standing", LARGEST, rng.randrange(1 << 30)),
        *b.bind(pe),
        *b.open_container(pe),
        *b.enable(pe),
        *b.tag(page, LARGEST, pe.liobn, iova, 0),
        *b.map_dma(pe, page, iova, LARGEST, tce.READ | tce.WRITE),
    ]


def _batch(story: BatchStory, permissions: int, *, last: bool) -> None:
    """The operations for one batch size and permission. `last`: the stream judges its final checkpoint too."""
    size, entries = story.size, story.pe.entries
    kind = tce.PERMISSION_NAMES[permissions]
    middle = story.random.randrange(size, entries - 2 * size + 1)
    where = {"start": 0, "random": middle, "end": entries - size}
    for place, entry in where.items():
        story.map(f"batches-{place}", entry, permissions, across=place == "random")
        story.look(f"map {kind} at {place}")
    if size > 1:
        count = story.random.randrange(1, size)
        story.unmap(middle + story.random.randrange(size - count + 1), count)
        story.look(f"unmap {count} of {size} {kind} pages")
    others = [each for each in ALL_PERMISSIONS if each != permissions]
    story.map("batches-remap", 0, story.random.choice(others))
    story.look(f"remap over live {kind} pages")
    for place, entry in where.items():
        story.unmap(entry, size)
        story.look(f"unmap {kind} at {place}", stream=last and place == PLACES[-1])
