"""Simpler forms of operations of the kernel's DMA API: see `tcelab.fuzz.simpler`.

Mappings keep their names, so an operation that uses one stays with the one that made it, or goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from msgspec.structs import replace

from tcelab.papr.window import PAGE_SIZE
from tcelab.program import (
    DmaAlloc,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaMove,
    DmaOp,
    DmaRepeat,
    DmaSync,
    Op,
    Page,
    Part,
)

Smaller: TypeAlias = Callable[[int, int], Iterator[int]]

USUAL: Final[dict[str, object]] = {
    "late": False,
    "which": "both",
    "direction": "both",
    "how": "single",
    "loop": "module",
    "segment": 0,
    "plus": 0,
    "offset": 0,
}
"""What a field has if nobody says anything."""
LEAST: Final[dict[type[Op], dict[str, int]]] = {
    DmaMap: {"size": 1},
    DmaAlloc: {"pages": 1},
    DmaRepeat: {"times": 1},
    DmaSync: {"offset": 0, "size": 0},
    DmaMove: {"size": 1, "segment": 0, "offset": 0},
}
"""Numbers that may be lowered, and how far."""


def alone(op: DmaOp, smaller: Smaller) -> Iterator[Sequence[Op]]:
    """Simpler operations to try in its place."""
    for name, usual in USUAL.items():
        if getattr(op, name, usual) != usual:
            yield [replace(op, **{name: usual})]
    for name, least in LEAST.get(type(op), {}).items():
        yield from ([replace(op, **{name: number})] for number in smaller(getattr(op, name), least))
    match op:
        case DmaMask(bits=bits) if bits != 32:  # noqa: PLR2004 - what a device has that nobody asked
            yield [replace(op, bits=32)]
        case DmaMap():
            yield from ([replace(op, page=page)] for page in _pages(op.page, smaller))
        case DmaMapSg():
            yield from ([each] for each in _list(op, smaller))
        case DmaRepeat():
            yield from ([replace(op, lists=lists)] for lists in _without_one(op.lists))
            shorter = len(op.lists[0]) // 2
            if shorter:
                yield [replace(op, lists=[parts[:shorter] for parts in op.lists])]
            for at, parts in enumerate(op.lists):
                simpler = (each for each in _parts(parts, smaller) if len(each) == len(parts))
                yield from ([replace(op, lists=[*op.lists[:at], each, *op.lists[at + 1 :]])] for each in simpler)


def _list(op: DmaMapSg, smaller: Smaller) -> Iterator[Op]:
    if len(op.parts) == 1:
        page, size = op.parts[0].page, op.parts[0].size
        yield DmaMap(device=op.device, name=op.name, page=page, size=size, direction=op.direction)
    yield from (replace(op, parts=parts) for parts in _parts(op.parts, smaller))


def _without_one(things: list[list[Part]]) -> Iterator[list[list[Part]]]:
    if len(things) > 1:
        yield from ([*things[:at], *things[at + 1 :]] for at in range(len(things)))


def _parts(parts: list[Part], smaller: Smaller) -> Iterator[list[Part]]:
    """With half as many parts, with one less, or with one that is simpler."""
    if len(parts) > 1:
        half = len(parts) // 2
        yield from (parts[:half], parts[half:])
        yield from ([*parts[:at], *parts[at + 1 :]] for at in range(len(parts)))
    for at, part in enumerate(parts):
        simpler = [Part(part.page, size) for size in smaller(part.size, 1)]
        simpler += [Part(page, part.size) for page in _pages(part.page, smaller)]
        yield from ([*parts[:at], each, *parts[at + 1 :]] for each in simpler)


def _pages(page: Page, smaller: Smaller) -> Iterator[Page]:
    yield from (replace(page, index=index) for index in smaller(page.index, 0))
    yield from (replace(page, plus=plus) for plus in smaller(page.plus, 0))


def placed(op: DmaOp, change: Callable[[Page], Page]) -> DmaOp:
    """With other places in buffers. Coherent memory is no such buffer: its name is a mapping's."""
    match op:
        case DmaMap():
            return replace(op, page=_moved(op.page, change))
        case DmaMapSg():
            return replace(op, parts=[Part(_moved(part.page, change), part.size) for part in op.parts])
        case DmaRepeat():
            lists = [[Part(_moved(part.page, change), part.size) for part in parts] for parts in op.lists]
            return replace(op, lists=lists)
    return op


def _moved(page: Page, change: Callable[[Page], Page]) -> Page:
    return change(Page(page.buffer, *divmod(page.index * PAGE_SIZE + page.plus, PAGE_SIZE)))
