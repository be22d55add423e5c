"""The ways in which a map or an unmap may be wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from tcelab.fuzz.hazard import MOST_BEYOND
from tcelab.fuzz.madethings import MadeContainer, MadeFile, MadeProcess
from tcelab.fuzz.mapping import Fields, map_fields, number, some_pages, tag, unmap_fields
from tcelab.fuzz.world import World
from tcelab.papr import tce
from tcelab.papr.window import PAGE_SHIFT, PAGE_SIZE
from tcelab.program import Page

Fault: TypeAlias = Callable[[World, MadeContainer, MadeProcess, Fields], None]
"""Makes the fields of a request wrong in one way."""

TOP: Final = 1 << 64
NOWHERE: Final = (0, PAGE_SIZE, 1 << 52, 0xC000000000000000, TOP - PAGE_SIZE)
"""Addresses where no process has memory: below mmap_min_addr, above TASK_SIZE, in the kernel."""

HUGE: Final = (1 << 32, 1 << 40, TOP - PAGE_SIZE)
TWICE: Final = 0.2
"""The share of wrong requests that are wrong in two ways: which error is returned is a rule as well."""

MARKED: Final = 0.3


def no_permission(_w: World, _container: MadeContainer, _by: MadeProcess, fields: Fields) -> None:
    fields["flags"] = 0


def unknown_flags(w: World, _container: MadeContainer, _by: MadeProcess, fields: Fields) -> None:
    fields["flags"] = w.pick((4, 7, 8, 1 << 31, (1 << 32) - 1)) if "vaddr" in fields else w.pick((1, 2, 4, 1 << 31))


def short_argsz(w: World, _container: MadeContainer, _by: MadeProcess, fields: Fields) -> None:
    fields["argsz"] = w.pick((0, 8, 16, 24, 31)) if "vaddr" in fields else w.pick((0, 8, 16, 23))


def long_argsz(w: World, _container: MadeContainer, _by: MadeProcess, fields: Fields) -> None:
    """No fault: a kernel takes a struct that is longer than the one it knows."""
    fields["argsz"] = w.pick((33, 40, PAGE_SIZE, (1 << 32) - 1))


def misaligned(name: str) -> Fault:
    def fault(w: World, _container: MadeContainer, _by: MadeProcess, fields: Fields) -> None:
        word, more = fields[name], w.pick((1, 8, 512, PAGE_SIZE // 2, PAGE_SIZE - 1))
        if isinstance(word, Page):
            fields[name] = Page(word.buffer, word.index, more)
        elif isinstance(word, int):
            fields[name] = (word + more) % TOP

    return fault


def empty(_w: World, _container: MadeContainer, _by: MadeProcess, fields: Fields) -> None:
    fields["size"] = 0


def at_the_end(w: World, container: MadeContainer, _by: MadeProcess, fields: Fields) -> None:
    fields["iova"] = w.bounds_of(container)[1]


def over_the_end(w: World, container: MadeContainer, _by: MadeProcess, fields: Fields) -> None:
    """Begin within the window and end beyond."""
    start, end = w.bounds_of(container)
    entries = (end - start) >> PAGE_SHIFT
    if "vaddr" in fields:
        pages = number(fields, "size") >> PAGE_SHIFT
        fields["iova"] = end - min(w.below(pages), entries) * PAGE_SIZE
    else:
        within = 1 + w.below(min(MOST_BEYOND, entries))
        fields["iova"] = end - within * PAGE_SIZE
        fields["size"] = (within + 1 + w.below(MOST_BEYOND)) * PAGE_SIZE


def beyond(w: World, container: MadeContainer, _by: MadeProcess, fields: Fields) -> None:
    """Beyond the end, or below the start of a window that does not start at 0."""
    start, end = w.bounds_of(container)
    below = [start - (1 + w.below(1000)) * PAGE_SIZE] if start else []
    fields["iova"] = w.pick((end + (1 + w.below(1000)) * PAGE_SIZE, *below, 1 << 32, 1 << 40, 1 << 59, 1 << 63))


def at_the_top(w: World, _container: MadeContainer, _by: MadeProcess, fields: Fields) -> None:
    """Bus addresses so close to 2^64 that the range may wrap."""
    fields["iova"] = TOP - (1 + w.below(4)) * PAGE_SIZE


def nowhere(w: World, _container: MadeContainer, _by: MadeProcess, fields: Fields) -> None:
    fields["vaddr"] = w.pick(NOWHERE)


def huge(w: World, container: MadeContainer, by: MadeProcess, fields: Fields) -> None:
    nowhere(w, container, by, fields)
    fields["size"] = w.pick(HUGE)


def off_the_buffer(w: World, container: MadeContainer, by: MadeProcess, fields: Fields) -> None:
    """Begin in the last pages of a buffer and end past it, on entries that may be live."""
    memory = w.pick(by.memory)
    within = 1 + w.below(min(4, memory.pages))
    if container.live and w.chance(0.5):
        fields["iova"] = w.pick(container.live)[0]
    fields["vaddr"] = Page(memory.name, memory.pages - within)
    fields["size"] = (within + 1 + w.below(8)) * PAGE_SIZE


def protected(w: World, _container: MadeContainer, by: MadeProcess, fields: Fields) -> None:
    """Memory that the process may not write, or not even read."""
    closed = [each for each in by.memory if each.access != "write"]
    if closed and w.chance(0.7):
        memory = w.pick(closed)
    else:
        few = 1 + w.below(8)
        memory = w.pick(by.memory) if closed or not w.room(by, few) else w.allocate(by, few)
        w.protect(by, memory, "read" if w.chance(0.5) else "none")
    if memory.access == "read" and w.chance(0.5):
        fields["flags"] = tce.READ
    pages = 1 + w.below(min(memory.pages, 8))
    fields["vaddr"] = Page(memory.name, w.below(memory.pages - pages + 1))
    fields["size"] = pages * PAGE_SIZE


OF_BOTH: Final[tuple[Fault, ...]] = (
    unknown_flags,
    short_argsz,
    long_argsz,
    misaligned("iova"),
    misaligned("size"),
    empty,
    at_the_end,
    beyond,
    at_the_top,
)
OF_A_MAP: Final[tuple[Fault, ...]] = (*OF_BOTH, no_permission, misaligned("vaddr"), nowhere)
"""Faults that may be combined with another."""


def somewhere(w: World) -> tuple[MadeFile, MadeContainer, MadeProcess] | None:
    """A working container if there is one, else any, and a process that may probably use it."""
    if working := w.working:
        return w.pick(working)
    # A v2 container might have memory where the range goes, and a map across its window's end succeeds in part.
    if not (containers := [each for each in w.containers if each[1].v2 is None]):
        return None
    file, container = w.pick(containers)
    return file, container, w.pick(file.holders)


def bad_map(fault: Fault) -> Callable[[World], bool]:
    def make(w: World) -> bool:
        if not (found := somewhere(w)):
            return False
        file, container, by = found
        fields = map_fields(w, by, container, some_pages(w))
        if w.chance(MARKED):
            tag(w, by, container, fields)
        fault(w, container, by, fields)
        if w.chance(TWICE):
            w.pick(OF_A_MAP)(w, container, by, fields)
        w.struct(by, file, "MAP_DMA", fields)
        return True

    return make


def bad_unmap(fault: Fault) -> Callable[[World], bool]:
    def make(w: World) -> bool:
        if not (found := somewhere(w)):
            return False
        file, container, by = found
        fields = unmap_fields(w, container)
        fault(w, container, by, fields)
        if w.chance(TWICE):
            w.pick(OF_BOTH)(w, container, by, fields)
        return w.unmap(by, file, fields)

    return make


def unreadable(request: str) -> Callable[[World], bool]:
    """A struct at an address without memory, or with memory that the process may not read or write."""

    def make(w: World) -> bool:
        if not (found := somewhere(w)):
            return False
        file, _, by = found
        shut = [each for each in by.memory if each.access == "none"]
        place = Page(w.pick(shut).name) if shut and w.chance(0.5) else w.pick(NOWHERE)
        w.ioctl(by, file, request, value=place)
        return True

    return make
