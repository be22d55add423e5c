"""`races`: maps, partial unmaps, remaps and unmaps on a PE whose probes reach for each page between any two hypercalls.

The topology has them do so, see `Topology.raced`; the program gives them occasions.
"""

from __future__ import annotations

import random
from typing import Final

from tcelab.papr import tce
from tcelab.program import Ioctl, Op, Page
from tcelab.program.topology import RACES, Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import Pe

TOPOLOGIES: Final = RACES
SIZES: Final = (1, 2, 5, 8)
"""Pages of a map, with each of the permissions."""
LARGEST: Final = 32
"""Pages of one more, with all permissions."""

_ALL: Final = (tce.READ, tce.WRITE, tce.READ | tce.WRITE)


def ops(topology: Topology, seed: int) -> list[Op]:
    """See the module."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    pe, *others = b.pes(topology, "races")
    out = [*b.vmlck(), *b.pins(), *b.buffer("races", 2 * LARGEST, rng.randrange(1 << 30))]
    for other in others[:1]:
        out += _stand(other, rng)
    out += [*b.bind(pe), *b.open_container(pe), *b.enable(pe), *_open_devices(pe)]
    number = 0
    for size in SIZES:
        for permissions in _ALL:
            number += 1
            out += _round(pe, size, permissions, number, rng)
        out += b.checkpoint(f"races: {size}: end", stream=True, batch=size)
    out += _round(pe, LARGEST, tce.READ | tce.WRITE, number + 1, rng)
    out += b.checkpoint(f"races: {LARGEST}: end", stream=True, batch=LARGEST)
    out += _at_edges(pe, number + 2)
    files = [pe.file_of(device.name) for device in pe.phb.devices]
    out += [*b.vmlck(), *b.disable(pe), *b.close(*files, pe.group, pe.container)]
    for other in others[:1]:
        out += b.close(other.group, other.container)
    return [*out, *b.vmlck(), *b.pins(), *b.checkpoint("races: end", stream=True)]


def _stand(pe: Pe, rng: random.Random) -> list[Op]:
    """A mapping on another PE, at the same bus addresses, that must stay unchanged throughout."""
    page = Page("races-standing")
    return [
        *b.buffer("races-standing", LARGEST, rng.randrange(1 << 30)),
        *b.bind(pe),
        *b.open_container(pe),
        *b.enable(pe),
        *b.tag(page, LARGEST, pe.liobn, pe.start, 0),
        *b.map_dma(pe, page, pe.start, LARGEST, tce.READ | tce.WRITE),
    ]


def _open_devices(pe: Pe) -> list[Op]:
    out: list[Op] = []
    for device in pe.phb.devices:
        fields: dict[str, int | str | Page] = {"name": device.name}
        file = pe.file_of(device.name)
        out += [
            Ioctl(file=pe.group, request="GROUP_GET_DEVICE_FD", fields=fields, into=file, expect="ok"),
            *b.master_of(file, on=True),
        ]
    return out


def _round(pe: Pe, size: int, permissions: int, number: int, rng: random.Random) -> list[Op]:
    """Map, unmap a part, map over what is left with other permissions, and unmap all."""
    iova = pe.iova(rng.randrange(1, pe.entries - size - 1))
    first = rng.randrange(2 * LARGEST - size + 1)
    other = rng.choice([each for each in _ALL if each != permissions])
    count = rng.randrange(1, size + 1)
    begin = rng.randrange(size - count + 1)
    again = rng.randrange(2 * LARGEST - size + 1)
    label = f"races: {size} {tce.PERMISSION_NAMES[permissions]}"
    return [
        *b.tag(Page("races", first), size, pe.liobn, iova, number),
        *b.map_dma(pe, Page("races", first), iova, size, permissions),
        *b.checkpoint(f"{label}: mapped", batch=size),
        *b.unmap_dma(pe, iova + begin * b.PAGE, count),
        *b.checkpoint(f"{label}: {count} unmapped", batch=size),
        *b.tag(Page("races", again), size, pe.liobn, iova, number + 100),
        *b.map_dma(pe, Page("races", again), iova, size, other),
        *b.checkpoint(f"{label}: mapped over", batch=size),
        *b.unmap_dma(pe, iova, size),
        *b.pins(),
        *b.checkpoint(f"{label}: unmapped", batch=size),
    ]


def _at_edges(pe: Pe, number: int) -> list[Op]:
    """The first and the last pages of the window: beside them, there is nothing."""
    out: list[Op] = []
    for name, iova in (("first", pe.start), ("last", pe.end - 2 * b.PAGE)):
        out += [
            *b.tag(Page("races"), 2, pe.liobn, iova, number),
            *b.map_dma(pe, Page("races"), iova, 2, tce.READ | tce.WRITE),
            *b.checkpoint(f"races: {name} pages mapped"),
            *b.unmap_dma(pe, iova, 2),
            *b.checkpoint(f"races: {name} pages unmapped"),
        ]
    return out
