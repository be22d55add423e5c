"""Transfers all over a window, by a device that does thousands of them in the time of one edu transfer."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tcelab.papr import tce
from tcelab.program import Burst, Engine, Ioctl, Op, Page, Transfer, diskcontent
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.places import everywhere
from tcelab.scenarios.violations import SECTOR
from tcelab.scenarios.vocabulary import PAGE, Pe

BESIDE: Final = tuple(itertools.permutations((tce.READ, tce.WRITE, tce.READ | tce.WRITE), 2))
"""Permissions of two entries side by side."""
REFUSED: Final = 48
"""Most transfers that the table forbids: QEMU logs some sixty lines for each."""
RING_PAGES: Final = 2
_NEEDS: Final = {False: tce.READ, True: tce.WRITE}
"""The permission that a transfer takes, by whether it is to memory."""


@dataclass(frozen=True, slots=True)
class _SweepEntry:
    """An entry, its permissions, and the page of the buffer that it leads to."""

    entry: int
    permissions: int
    page: int


def ops(pe: Pe, taken: Collection[int], rng: random.Random) -> list[Op]:
    """Nothing where a PE has no such device. Its container is open, and stays so.

    :param taken: numbers of entries that others use.
    """
    device = next((each.name for each in pe.phb.devices if each.model == "virtio-blk"), "")
    if not device:
        return []
    file, buffer = pe.file_of(device), f"sweep-{pe.name}"
    runs = _runs([number for number in everywhere(pe.entries) if number not in taken])
    spots = [spot for run in runs for spot in run]
    ring = len(spots)
    entry = _free(pe.entries, {*taken, *(spot.entry for spot in spots)}, rng)
    out = b.buffer(buffer, ring + RING_PAGES, rng.randrange(1 << 30))
    for run in runs:
        out += b.tag(Page(buffer, run[0].page), len(run), pe.liobn, pe.iova(run[0].entry), run[0].page)
    for spot in spots:
        out += b.map_dma(pe, Page(buffer, spot.page), pe.iova(spot.entry), 1, spot.permissions)
    out += b.map_dma(pe, Page(buffer, ring), pe.iova(entry), RING_PAGES, tce.READ | tce.WRITE)
    fields: dict[str, int | str | Page] = {"name": device}
    out += [Ioctl(file=pe.group, request="GROUP_GET_DEVICE_FD", fields=fields, into=file, expect="ok")]
    out += [*b.master_of(file, on=True)]
    out += [Engine(file=file, ring=Page(buffer, ring), iova=pe.iova(entry), expect=0)]
    places = iter(rng.sample(range(diskcontent.SIZE // SECTOR), diskcontent.SIZE // SECTOR))
    allowed = [each for run in runs for each in _allowed(pe, run, rng, places)]
    rng.shuffle(allowed)
    out += [Burst(file=file, transfers=allowed, expect=0), *b.checkpoint(f"sweep: {pe.name}: all over the window")]
    refused = [each for run in runs for each in _refused(pe, run, rng, places)]
    out += [Burst(file=file, transfers=rng.sample(refused, min(REFUSED, len(refused))), expect=0)]
    return [*out, *b.checkpoint(f"sweep: {pe.name}: what entries beside them allow"), *b.close(file)]


def _runs(numbers: Sequence[int]) -> list[list[_SweepEntry]]:
    """Runs of consecutive entries, each with permissions that differ from its neighbours'."""
    out: list[list[_SweepEntry]] = []
    for page, number in enumerate(numbers):
        if not out or out[-1][-1].entry + 1 < number:
            out.append([])
        run = out[-1]
        run.append(_SweepEntry(number, BESIDE[(len(out) - 1) % len(BESIDE)][len(run) % 2], page))
    return out


def _free(entries: int, taken: Collection[int], rng: random.Random) -> int:
    """The first of some entries that are empty, with an empty one on either side."""
    while True:
        entry = rng.randrange(1, entries - RING_PAGES)
        if all(number not in taken for number in range(entry - 1, entry + RING_PAGES + 1)):
            return entry


def _transfer(pe: Pe, spot: _SweepEntry, rng: random.Random, places: Iterator[int], *, to_memory: bool) -> Transfer:
    """One sector, anywhere in a page."""
    iova = pe.iova(spot.entry) + SECTOR * rng.randrange(PAGE // SECTOR)
    return Transfer(iova, SECTOR, to_memory=to_memory, offset=SECTOR * next(places))


def _allowed(pe: Pe, run: Sequence[_SweepEntry], rng: random.Random, places: Iterator[int]) -> Iterator[Transfer]:
    """Each entry is used in each direction that it allows."""
    for spot in run:
        for to_memory, needed in _NEEDS.items():
            if spot.permissions & needed:
                yield _transfer(pe, spot, rng, places, to_memory=to_memory)


def _refused(pe: Pe, run: Sequence[_SweepEntry], rng: random.Random, places: Iterator[int]) -> Iterator[Transfer]:
    """Transfers that an entry forbids and its neighbour allows."""
    for number, spot in enumerate(run):
        beside = [each.permissions for each in run[max(number - 1, 0) : number + 2]]
        for to_memory, needed in _NEEDS.items():
            if not spot.permissions & needed and any(each & needed for each in beside):
                yield _transfer(pe, spot, rng, places, to_memory=to_memory)
