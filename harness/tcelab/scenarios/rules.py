"""`rules`: what the driver must do and must refuse, once each on one PE: the neighbours of unmapped entries stay, a map
that fails half way leaves nothing, and the last close removes all entries, pins and charges.

Sources: drivers/vfio/vfio_iommu_spapr_tce.c (tce_iommu_ioctl, tce_iommu_build, tce_iommu_clear,
tce_iommu_release_ownership), Documentation/driver-api/vfio.rst.
"""

from __future__ import annotations

import random
from typing import Final

from tcelab.errors import UsageError
from tcelab.papr import tce
from tcelab.program import Ioctl, Op, Page
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE, Pe

BATCH: Final = 8
"""Pages of a map."""
PAGES: Final = 4 * BATCH
LEAST_ENTRIES: Final = 16 * BATCH
BUFFER: Final = "rules"
READ_WRITE: Final = tce.READ | tce.WRITE


def ops(topology: Topology, seed: int) -> list[Op]:
    """:raise UsageError: the first PE's window has fewer than `LEAST_ENTRIES` entries."""
    pe = b.pes(topology, "rules")[0]
    if pe.entries < LEAST_ENTRIES:
        raise UsageError(
            f"scenario rules needs a window of at least {LEAST_ENTRIES} entries, {pe.name} has {pe.entries}"
        )
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    entry = rng.randrange(BATCH, pe.entries - 8 * BATCH)
    return [
        *b.vmlck(),
        *b.pins(),
        *b.buffer(BUFFER, PAGES, rng.randrange(1 << 30)),
        *b.bind(pe),
        *b.open_container(pe),
        *b.get_info(pe),
        *_map(pe, 0, entry, BATCH, expect="EPERM"),
        *b.enable(pe),
        *_look("enabled"),
        *_maps(pe, entry),
        *_unmaps(pe, entry),
        *_refusals(pe, entry + 4 * BATCH),
        *_ending(pe, entry),
    ]


def _look(label: str, *, stream: bool = False) -> list[Op]:
    return [*b.vmlck(), *b.pins(), *b.checkpoint(f"rules: {label}", stream=stream)]


def _map(pe: Pe, page: int, entry: int, pages: int, flags: int = READ_WRITE, *, expect: str = "ok") -> list[Op]:
    """Map pages of the buffer, tagged for their entries, if it is to succeed."""
    tags = b.tag(Page(BUFFER, page), pages, pe.liobn, pe.iova(entry), page) if expect == "ok" else []
    fields: dict[str, int | str | Page] = {
        "flags": flags,
        "vaddr": Page(BUFFER, page),
        "iova": pe.iova(entry),
        "size": pages * PAGE,
    }
    return [*tags, _ioctl(pe, "MAP_DMA", fields, expect)]


def _ioctl(pe: Pe, request: str, fields: dict[str, int | str | Page], expect: str) -> Ioctl:
    return Ioctl(file=pe.container, request=request, fields=fields, expect=expect)


def _maps(pe: Pe, entry: int) -> list[Op]:
    """Two adjacent batches, one of them in every permission, and a map over live entries."""
    half = BATCH // 2
    return [
        *_map(pe, 0, entry, BATCH),
        *_look("map for reading and writing", stream=True),
        *_map(pe, BATCH, entry + BATCH, half, tce.READ),
        *_map(pe, BATCH + half, entry + BATCH + half, half, tce.WRITE),
        *_look("maps for one of both, side by side"),
        *_map(pe, 2 * BATCH, entry + 1, 2),
        *_look("map over live entries"),
    ]


def _unmaps(pe: Pe, entry: int) -> list[Op]:
    """Out of the middle of a batch; and the same once more, where nothing is left."""
    middle = entry + BATCH // 2
    return [
        *b.unmap_dma(pe, pe.iova(middle), 2),
        *_look("unmap between live neighbours"),
        *b.unmap_dma(pe, pe.iova(middle), 2),
        *_look("unmap of what is not mapped"),
    ]


def _refusals(pe: Pe, entry: int) -> list[Op]:
    """What is wrong is refused and changes nothing.

    :param entry: the first of some that are empty.
    """
    good: dict[str, int | str | Page] = {
        "flags": READ_WRITE,
        "vaddr": Page(BUFFER),
        "iova": pe.iova(entry),
        "size": PAGE,
    }
    wrong_maps: tuple[tuple[dict[str, int | str | Page], str], ...] = (
        ({"size": PAGE + PAGE // 2}, "EINVAL"),
        ({"vaddr": Page(BUFFER, 0, PAGE // 2)}, "EINVAL"),
        ({"flags": 0}, "EINVAL"),
        ({"flags": 1 << 2 | READ_WRITE}, "EINVAL"),
        ({"iova": pe.end}, "ENXIO"),
    )
    wrong_unmaps: tuple[tuple[dict[str, int | str | Page], str], ...] = (
        ({"size": PAGE // 2}, "EINVAL"),
        ({"flags": 1}, "EINVAL"),
        ({"iova": pe.end}, "ENXIO"),
    )
    place = {name: good[name] for name in ("iova", "size")}
    return [
        *(_ioctl(pe, "MAP_DMA", good | wrong, errno) for wrong, errno in wrong_maps),
        *(_ioctl(pe, "UNMAP_DMA", place | wrong, errno) for wrong, errno in wrong_unmaps),
        *_look("refused maps and unmaps"),
        # Its first pages exist; then the buffer ends, and so does the memory.
        *_map(pe, PAGES - 3, entry, 2 * BATCH, expect="EFAULT"),
        *_look("map that fails half way", stream=True),
    ]


def _ending(pe: Pe, entry: int) -> list[Op]:
    """DISABLE refunds the charge and forbids maps; entries that are still live go with the group, and their page pins
    too.
    """
    return [
        *b.disable(pe),
        *_look("disabled"),
        *_map(pe, 0, entry, BATCH, expect="EPERM"),
        *b.close(pe.group),
        *_look("group closed", stream=True),
        *b.close(pe.container),
        *_look("end", stream=True),
    ]
