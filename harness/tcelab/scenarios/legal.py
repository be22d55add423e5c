"""Legal transfers by the thousand, by the fast engine: none of them isolates anything, and the data of each is
judged.
"""

from __future__ import annotations

import itertools
import random
from typing import Final

from tcelab.papr import tce
from tcelab.program import Burst, Op, Page, Transfer, diskcontent
from tcelab.program.topology import EDUS, Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.endpoint import Endpoint, endpoints
from tcelab.scenarios.stories import Story
from tcelab.scenarios.violations import SECTOR
from tcelab.scenarios.vocabulary import PAGE

TRANSFERS: Final = 100_000
PARTS: Final = 2
"""Number of guests that share the transfers."""
PAGES: Final = 512
"""Of memory that is mapped for them: 2 MiB."""
TURN: Final = 800
"""Transfers between two looks: half of them write most of the disk."""

_MOST: Final = PAGE // SECTOR


def parts(topology: Topology, seed: int, transfers: int | None = None) -> list[list[Op]]:
    """Each on a guest of its own; none without a fast engine.

    :param transfers: of all of them together; by default `TRANSFERS`.
    """
    transfers = TRANSFERS if transfers is None else transfers
    if all(device.model in EDUS for device in topology.devices):
        return []
    return [_part(topology, seed + number, transfers // PARTS) for number in range(PARTS)]


def _part(topology: Topology, seed: int, transfers: int) -> list[Op]:
    chosen = [pe for pe in b.pes(topology, "isolation") if any(each.model not in EDUS for each in pe.phb.devices)]
    pe = endpoints(chosen, seed)[0]
    name = pe.disks[0].name
    # The pages of the PE's story are in the one half of the window, these are in the other.
    low = pe.base >= pe.pe.start + pe.pe.phb.window_size // 2
    data, iova = f"legal-{name}", pe.pe.iova(1 if low else pe.pe.entries - 1 - PAGES)
    out = [*b.vmlck(), *b.pins(), *pe.allocate(), *b.buffer(data, PAGES, seed % (1 << 30))]
    out += [*b.fill(Page(data), PAGES * PAGE, next(pe.seeds)), *pe.open(), *pe.map_all()]
    out += b.map_dma(pe.pe, Page(data), iova, PAGES, tce.READ | tce.WRITE)
    out += [*pe.start_disks(), *pe.shows("normal")]
    done = 0
    while done < transfers:
        burst = turn(pe.rng, iova, min(TURN, transfers - done))
        done += len(burst)
        out += [
            Burst(file=pe.file(name), transfers=burst, expect=0),
            *b.checkpoint("isolation: legal transfers so far"),
        ]
    out += [*pe.shows("normal"), *b.checkpoint(str(Story("legal transfers", name)))]
    return [*out, *_end(pe)]


def _end(pe: Endpoint) -> list[Op]:
    return [*pe.close_all(), *b.vmlck(), *b.pins(), *b.checkpoint("isolation: end", stream=True)]


def turn(rng: random.Random, iova: int, count: int) -> list[Transfer]:
    """At most `count` transfers of random sizes between random places, half of them in each direction, in random order.
    No place is written twice, on disk or in memory, so the result of each transfer is still visible at the end.

    :param iova: bus address of the memory.
    """
    half = count // 2
    out = []
    for size, place in _apart(rng, [SECTOR * rng.randint(1, _MOST) for _ in range(count - half)], PAGES * PAGE, 1):
        out.append(Transfer(iova + place, size, to_memory=True, offset=_anywhere(rng, diskcontent.SIZE, size, SECTOR)))
    for size, place in _apart(rng, [SECTOR * rng.randint(1, _MOST) for _ in range(half)], diskcontent.SIZE, SECTOR):
        out.append(Transfer(iova + _anywhere(rng, PAGES * PAGE, size, 1), size, to_memory=False, offset=place))
    rng.shuffle(out)
    return out


def _apart(rng: random.Random, sizes: list[int], room: int, step: int) -> list[tuple[int, int]]:
    """Sizes, as many of them as there is room for, each with a place of its own: a multiple of `step`."""
    while sum(sizes) > room:
        sizes.pop()
    spare = (room - sum(sizes)) // step
    gaps = sorted(rng.randint(0, spare) * step for _ in sizes)
    before = itertools.accumulate(sizes, initial=0)
    return [(size, gap + start) for size, gap, start in zip(sizes, gaps, before, strict=False)]


def _anywhere(rng: random.Random, room: int, size: int, step: int) -> int:
    return rng.randrange((room - size) // step + 1) * step
