"""Random steps of a driver of the kernel's own DMA API, on a PE of its own: masks, mappings, and what its device moves.

What a driver must not do is the validator's to say (`tcelab.program.validate_dma`): no step is made that it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, get_args

from tceagent import edu, testdev
from tcelab.fuzz.madethings import MadeMemory
from tcelab.fuzz.processes import OPS_PER_DMA
from tcelab.fuzz.world import World
from tcelab.papr.window import PAGE_SIZE
from tcelab.program import (
    DmaAlloc,
    DmaBind,
    DmaFree,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaMove,
    DmaOp,
    DmaRepeat,
    DmaSync,
    DmaUnbind,
    DmaUnmap,
    Fill,
    Page,
    Part,
    Tag,
    validate_dma,
)
from tcelab.program.dmaops import Direction

MASKS: Final = (32, 32, 33, 40, 47, 63, 24)
"""Bits. 64, with which the kernel may map all RAM, are for machines on which the emulator can follow that."""
WIDE: Final = (64, 64, 64)
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)
REMEMBERED: Final = 48
"""Names that may be used, the last ones."""
PARTS: Final = (1, 2, 2, 3, 5, 8, 16, 32, 64)
LARGE: Final = 256
"""Pages of the largest allocation; `MANY` of them fill a window of 16 MiB."""
MANY: Final = 17
FULL: Final = 2
"""How often a program fills its window."""


# -- asking


def _memory(w: World) -> validate_dma.Memory:
    def memory(page: Page, size: int) -> tuple[str, bool]:
        found = next((each for each in w.agent.writable if each.name == page.buffer), None)
        if found is None or page.index * PAGE_SIZE + page.plus + size > found.pages * PAGE_SIZE:
            return "it cannot be mapped", False
        return "", found.huge

    return memory


def _ask(w: World, op: DmaOp) -> bool:
    """Add an operation, unless the validator refuses it."""
    assert w.drivers is not None
    if validate_dma.problem(w.drivers.rules, _memory(w), op):
        return False
    w.ops.append(op)
    return True


def _bound(w: World) -> str:
    """A device that the driver has; empty: none."""
    made = w.drivers
    assert made is not None
    bound = [each.name for each in made.models if each.name in made.rules.bound]
    return w.pick(bound) if bound else ""


def _new(w: World, kind: str) -> str:
    assert w.drivers is not None
    name = w.name(kind)
    w.drivers.names.append(name)
    del w.drivers.names[:-REMEMBERED]
    return name


# -- devices and masks


def bind(w: World) -> bool:
    made = w.drivers
    assert made is not None
    free = [each.name for each in made.models if each.name not in made.rules.bound]
    if not free:
        return False
    device = w.pick(free)
    made.rules.bound.add(device)
    made.rules.pes.add(made.phb.index)
    w.ops.append(DmaBind(device=device))
    return True


def unbind(w: World) -> bool:
    """Let go of a device, now and then with something mapped."""
    device = _bound(w)
    return bool(device) and _ask(w, DmaUnbind(device=device, late=w.chance(0.5)))


def mask(w: World) -> bool:
    """Set a mask, in any order. What is mapped is unmapped before."""
    made = w.drivers
    assert made is not None
    if not (device := _bound(w)):
        return False
    for name in made.live(device):
        _end(w, name)
    which: Literal["streaming", "coherent", "both"] = w.pick(("both", "both", "streaming", "coherent"))
    return _ask(w, DmaMask(device=device, bits=w.pick(MASKS + WIDE * made.wide), which=which))


# -- memory


def _place(w: World, pages: int = 1) -> tuple[Page, int]:
    """Some bytes of a page, or of a huge one: all of it, its last byte, or whatever."""
    memory = w.some_memory(w.agent, pages)
    huge: list[MadeMemory] = [each for each in w.agent.writable if each.huge]
    if huge and w.chance(0.3):
        most = w.pick((1, 2, 16, 64, 512)) * PAGE_SIZE
        start = w.below(huge[0].pages * PAGE_SIZE - most + 1) if w.chance(0.5) else 0
        return Page(huge[0].name, *divmod(start, PAGE_SIZE)), 1 + w.below(most)
    start = w.pick((0, 0, w.below(PAGE_SIZE), PAGE_SIZE - 1))
    return Page(memory.name, w.below(memory.pages), start), w.pick((1 + w.below(PAGE_SIZE - start), PAGE_SIZE - start))


def _tag(w: World, page: Page, size: int) -> None:
    """Tag the pages before they are mapped; nobody knows yet where."""
    made = w.drivers
    assert made is not None
    if w.chance(0.4):
        return
    count = (page.plus + size + PAGE_SIZE - 1) // PAGE_SIZE
    w.ops.append(
        Tag(
            buffer=page.buffer,
            first=page.index,
            count=count,
            liobn=made.phb.liobn,
            sequence=w.below(1 << 30),
        )
    )


def map_one(w: World) -> bool:
    """dma_map_single or dma_map_page."""
    if not (device := _bound(w)):
        return False
    page, size = _place(w)
    _tag(w, page, size)
    how: Literal["single", "page"] = w.pick(("single", "page"))
    made = DmaMap(device=device, name=_new(w, "m"), page=page, size=size, direction=w.pick(DIRECTIONS), how=how)
    return _ask(w, made)


def _parts(w: World, count: int) -> list[Part]:
    return [Part(*_place(w)) for _ in range(count)]


def map_list(w: World) -> bool:
    """dma_map_sgtable, of parts with odd starts and lengths."""
    if not (device := _bound(w)):
        return False
    parts = _parts(w, w.pick(PARTS))
    for part in parts[:2]:
        _tag(w, part.page, part.size)
    return _ask(w, DmaMapSg(device=device, name=_new(w, "l"), parts=parts, direction=w.pick(DIRECTIONS)))


def repeat(w: World) -> bool:
    """Lists that are mapped and unmapped a few times."""
    if not (device := _bound(w)):
        return False
    count = w.pick((1, 2, 8))
    lists = [_parts(w, count) for _ in range(1 + w.below(3))]
    loop: Literal["module", "agent"] = w.pick(("module", "agent"))
    return _ask(w, DmaRepeat(device=device, lists=lists, times=1 + w.below(4), direction=w.pick(DIRECTIONS), loop=loop))


def allocate(w: World) -> bool:
    """Coherent memory, mostly with something in it."""
    if not (device := _bound(w)):
        return False
    assert w.drivers is not None
    name, pages, sure = _new(w, "k"), w.pick((1, 1, 2, 3, 8, 16)), w.drivers.roomy
    if not _ask(w, DmaAlloc(device=device, buffer=name, pages=pages)):
        return False
    # Memory that was refused is no buffer: the agent could not write to it.
    if sure:
        w.drivers.sure.add(name)
    if sure and w.chance(0.6):
        w.ops.append(Fill(buffer=name, offset=0, size=pages * PAGE_SIZE, seed=w.below(1 << 30)))
    return True


def fill_window(w: World) -> bool:
    """More than a small window has room for: the last allocations are refused, and nothing of that stays.

    Allocations that are so large lie side by side: who frees an entry too many takes it from the next one, so half of
    them is freed later, one by one.
    """
    made = w.drivers
    assert made is not None
    device = _bound(w)
    if not device or made.filled >= FULL:
        return False
    made.filled += 1
    names = [_new(w, "k") for _ in range(MANY)]
    for name in names:
        _ask(w, DmaAlloc(device=device, buffer=name, pages=LARGE))
    w.rng.shuffle(names)
    for name in names[: len(names) // 2]:
        _ask(w, DmaFree(buffer=name))
    return True


# -- use, and the end


def sync(w: World) -> bool:
    made = w.drivers
    assert made is not None
    live = [name for name in made.live(coherent=False) if name in made.names]
    if not live:
        return False
    name, whom = w.pick(live), w.pick(("cpu", "device"))
    sizes = made.rules.maps[name].sizes
    if len(sizes) > 1 or w.chance(0.5):
        return _ask(w, DmaSync(name=name, whom=whom))  # type: ignore[arg-type]
    offset = w.below(sizes[0])
    return _ask(w, DmaSync(name=name, whom=whom, offset=offset, size=1 + w.below(sizes[0] - offset)))  # type: ignore[arg-type]


def _end(w: World, name: str) -> bool:
    assert w.drivers is not None
    coherent = w.drivers.rules.maps[name].coherent
    return _ask(w, DmaFree(buffer=name) if coherent else DmaUnmap(name=name))


def unmap(w: World) -> bool:
    """Any of what is mapped, also once its driver is gone."""
    assert w.drivers is not None
    live = w.drivers.live()
    return bool(live) and _end(w, w.pick(live))


def move(w: World) -> bool:
    """The device transfers, within a mapping, beside it, or where one was."""
    made = w.drivers
    assert made is not None
    usable = [
        name for name in made.names if made.rules.maps.get(name) and made.rules.maps[name].device in made.rules.bound
    ]
    if not usable:
        return False
    name = w.pick(usable)
    mapped = made.rules.maps[name]
    only_writes = made.rules.model(mapped.device) == "testdev"
    if not only_writes and w.dmas * OPS_PER_DMA > len(w.ops):
        return False
    segment = w.below(len(mapped.sizes)) if w.chance(0.5) else 0
    most = min(mapped.sizes[segment:])
    longest = min(most, testdev.LONGEST if only_writes else edu.LONGEST)
    size = 1 + w.below(longest)
    plus = w.below(most - size + 1)
    if w.chance(0.2):
        plus = w.pick((-1, -PAGE_SIZE, most - size + 1, most, PAGE_SIZE, 1 << 20))
    offset = 0 if only_writes else w.below(edu.LONGEST - size + 1)
    to_memory = only_writes or w.chance(0.5)
    done = _ask(w, DmaMove(name=name, size=size, to_memory=to_memory, segment=segment, plus=plus, offset=offset))
    w.dmas += done and not only_writes
    return done


def rewrite(w: World) -> bool:
    """The CPU writes to coherent memory that is mapped."""
    made = w.drivers
    assert made is not None
    live = [name for name in made.live(coherent=True) if name in made.sure]
    if not live:
        return False
    name = w.pick(live)
    whole = made.rules.maps[name].sizes[0]
    offset = w.below(whole)
    w.ops.append(
        Fill(buffer=name, offset=offset, size=1 + w.below(min(whole - offset, PAGE_SIZE)), seed=w.below(1 << 30))
    )
    return True


def end(w: World) -> None:
    """At the end of a program all is released, in any order; or something is left to be released with the driver, or
    with the file by which it was asked.
    """
    made = w.drivers
    assert made is not None
    if w.chance(0.5):
        names = made.live()
        w.rng.shuffle(names)
        for name in names:
            _end(w, name)
    if w.chance(0.5):
        for device in sorted(made.rules.bound):
            _ask(w, DmaUnbind(device=device, late=w.chance(0.5)))


IN_ORDER: Final[tuple[tuple[int, Callable[[World], bool]], ...]] = (
    (25, bind),
    (10, unbind),
    (18, mask),
    (130, map_one),
    (80, map_list),
    (8, repeat),
    (40, allocate),
    (3, fill_window),
    (30, sync),
    (190, unmap),
    (20, rewrite),
)
"""Steps by their weight."""
MOVES: Final = ((110, move),)
"""Half of which are refused."""
