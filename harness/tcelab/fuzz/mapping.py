"""Random maps and unmaps that should work."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Final, TypeAlias

from tcelab.fuzz.madethings import MadeContainer, MadeProcess
from tcelab.fuzz.world import BATCH, LARGE, World
from tcelab.papr import tce
from tcelab.papr.window import PAGE_SHIFT
from tcelab.program import Ioctl, Page, Repeat, Tag, Word

SIZES: Final = range(1, BATCH + 1)
SIZE_WEIGHTS: Final = list(accumulate([12, *[1] * (BATCH - 2), 5]))
"""The sizes that users map most: one page and a full batch."""

LARGE_SIZES: Final = (*range(64, 96), *range(96, LARGE + 1, 16), LARGE)
ALL_OF_IT: Final = 8192
"""Entries of a window that may be unmapped in one call: each costs two hypercalls."""

FRESH: Final = 0.9
"""The share of maps of pages that were unused for long: a page that is mapped again gets another tag and no longer
proves where its first entry leads.
"""

TAGGED: Final = 0.9
PLACES: Final[tuple[Callable[[int], tuple[int, int]], ...]] = (
    lambda _room: (0, 128),
    lambda _room: (0, 128),
    lambda room: (room // 2, room // 2 + 128),
    lambda room: (max(room - 24, 0), room),
    lambda room: (0, room),
)
"""Ranges of entries at which a map may begin: often small, so that maps overlap."""

Fields: TypeAlias = dict[str, Word]


# -- places


def some_pages(w: World) -> int:
    return w.rng.choices(SIZES, cum_weights=SIZE_WEIGHTS)[0]


def some_entry(w: World, container: MadeContainer, pages: int) -> int:
    """A random first entry for that many pages, within the window if they fit."""
    room = (w.window_of(container) >> PAGE_SHIFT) - pages + 1
    if room <= 1:
        return 0
    first, end = w.pick(PLACES)(room)
    return first + w.below(min(end, room) - first)


def ioba(w: World, container: MadeContainer, entry: int) -> int:
    """Bus address of an entry of its window."""
    return w.bounds_of(container)[0] + (entry << PAGE_SHIFT)


def number(fields: Fields, name: str) -> int:
    """A field that is given as a number."""
    word = fields[name]
    assert isinstance(word, int)
    return word


def tag(w: World, by: MadeProcess, container: MadeContainer, fields: Fields) -> None:
    """Tag the pages for the mapping that follows."""
    page, count = fields["vaddr"], number(fields, "size") >> PAGE_SHIFT
    assert isinstance(page, Page)
    if not container.groups or not count or w.random() > TAGGED:
        return
    mark(w, by, page, count, container.groups[0].phb.liobn, number(fields, "iova"))


def mark(w: World, by: MadeProcess, page: Page, count: int, liobn: int, ioba: int) -> None:  # noqa: PLR0917  whose pages, and as what
    """Tag pages of a buffer for the mapping that follows."""
    sequence = w.below(1 << 30)
    w.ops.append(
        Tag(
            by=by.name,
            buffer=page.buffer,
            first=page.index,
            count=count,
            liobn=liobn,
            ioba=ioba,
            sequence=sequence,
        )
    )


def map_fields(w: World, by: MadeProcess, container: MadeContainer, pages: int) -> Fields:
    window = w.window_of(container) >> PAGE_SHIFT
    memory = w.some_memory(by, pages)
    pages = min(pages, memory.pages, window)
    page = Page(memory.name, memory.take(pages) if w.chance(FRESH) else w.below(memory.pages - pages + 1))
    iova = ioba(w, container, some_entry(w, container, pages))
    return {"flags": 1 + w.below(tce.PERMISSIONS), "vaddr": page, "iova": iova, "size": pages << PAGE_SHIFT}


def unmap_fields(w: World, container: MadeContainer) -> Fields:
    """The fields for an unmap of mapped entries, or of any entries."""
    if container.live and w.chance(0.6):
        iova, pages = w.pick(container.live)
    else:
        pages = min(some_pages(w), w.window_of(container) >> PAGE_SHIFT)
        iova = ioba(w, container, some_entry(w, container, pages))
    return {"iova": iova, "size": pages << PAGE_SHIFT}


# -- maps and unmaps that should work


def map_at(w: World, pages: int, entry: Callable[[World, MadeContainer, int], int]) -> bool:
    if not (working := w.working):
        return False
    file, container, by = w.pick(working)
    fields = map_fields(w, by, container, pages)
    pages = number(fields, "size") >> PAGE_SHIFT
    iova = fields["iova"] = ioba(w, container, entry(w, container, pages))
    tag(w, by, container, fields)
    w.struct(by, file, "MAP_DMA", fields)
    container.mapped(iova, pages)
    return True


def map_pages(w: World) -> bool:
    return map_at(w, some_pages(w), some_entry)


def map_large(w: World) -> bool:
    """From a buffer that is large enough, if the agent may use it; else as much as there is."""
    return map_at(w, w.pick(LARGE_SIZES), some_entry)


def map_nothing(w: World) -> bool:
    return map_at(w, 0, some_entry)


def overwrite(w: World) -> bool:
    """Map over something that is mapped: the same entries, some of them, or more."""

    def meeting(w: World, container: MadeContainer, pages: int) -> int:
        if not container.live:
            return some_entry(w, container, pages)
        iova, mapped = w.pick(container.live)
        last = max((w.window_of(container) >> PAGE_SHIFT) - pages, 0)
        first = (iova - w.bounds_of(container)[0]) >> PAGE_SHIFT
        return min(max(first - pages + 1 + w.below(pages + mapped), 0), last)

    return map_at(w, some_pages(w), meeting)


def unmap_live(w: World) -> bool:
    """Exactly what was mapped."""
    mapped = [each for each in w.working if each[1].live]
    if not mapped:
        return False
    file, container, by = w.pick(mapped)
    iova, pages = container.live.pop(w.below(len(container.live)))
    return w.unmap(by, file, {"iova": iova, "size": pages << PAGE_SHIFT})


def unmap_some(w: World) -> bool:
    """A part of a map, or entries that may be empty."""
    if not (working := w.working):
        return False
    file, container, by = w.pick(working)
    fields = unmap_fields(w, container)
    iova, pages = number(fields, "iova"), number(fields, "size") >> PAGE_SHIFT
    first = w.below(pages)
    fields["iova"], fields["size"] = iova + (first << PAGE_SHIFT), w.below(pages - first + 1) << PAGE_SHIFT
    return w.unmap(by, file, fields)


def unmap_all(w: World) -> bool:
    small = [each for each in w.working if w.window_of(each[1]) >> PAGE_SHIFT <= ALL_OF_IT]
    if not small:
        return False
    file, container, by = w.pick(small)
    container.live.clear()
    return w.unmap(by, file, {"iova": w.bounds_of(container)[0], "size": w.window_of(container)})


def repeat(w: World) -> bool:
    """A few rounds of a map and its unmap, by the agent."""
    own = [each for each in w.working if each[2] is w.agent]
    if not own:
        return False
    file, container, by = w.pick(own)
    fields = map_fields(w, by, container, 1 + w.below(8))
    unmap: Fields = {"iova": fields["iova"], "size": fields["size"]}
    calls = [
        Ioctl(file=file.name, request="MAP_DMA", fields=fields),
        Ioctl(file=file.name, request="UNMAP_DMA", fields=unmap),
    ]
    tag(w, by, container, fields)
    w.ops.append(Repeat(ops=calls, times=1 + w.below(4), loop="c" if w.chance(0.7) else "python"))
    return True
