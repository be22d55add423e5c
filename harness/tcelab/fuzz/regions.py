"""Random steps with a v2 container: memory is registered, windows are created and removed, and maps use both.

Every map lies within its window, or begins outside (see `tcelab.fuzz.hazard`), and every window is one that firmware
has room for, so none beside a high one in the place of the low one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from tcelab.fuzz.faults import NOWHERE, TOP
from tcelab.fuzz.madethings import V2, MadeContainer, MadeFile, MadeMemory, MadeProcess, MadeRegion, MadeWindow
from tcelab.fuzz.mapping import Fields, mark, some_pages
from tcelab.fuzz.world import World
from tcelab.papr import tce
from tcelab.papr.window import PAGE_SHIFT, PAGE_SIZE, SECOND_START
from tcelab.program import Ddw, Page

HUGE: Final = 512
"""Pages of the buffer in huge pages: one of them."""
HUGE_SHIFT: Final = 21
"""Of a huge page."""
SHIFTS: Final = (12, 12, 16, 16, 21, 24)
ENTRIES: Final = (1, 16, 64, 256, 4096)
ODD_WINDOWS: Final[tuple[Fields, ...]] = (
    {"page_shift": 13},
    {"page_shift": 0},
    {"window_size": 0},
    {"window_size": PAGE_SIZE // 2},
    {"window_size": 3 * PAGE_SIZE},
    {"levels": 2},
    {"flags": 1},
    {"argsz": 39},
)
UNLIKELY: Final = 0.05
"""The share of windows that firmware must refuse because it has none left; the PE then gets no other for the rest of
the program.
"""

Ready: TypeAlias = tuple[MadeFile, MadeContainer, V2, MadeProcess]


def ready(w: World, *, mapping: bool = False) -> list[Ready]:
    """Containers that a process without a memory limit may use.

    :param mapping: only those with memory.
    """
    return [
        (file, it, it.v2, by)
        for file, it in w.containers
        if it.v2 is not None and it.groups and (it.v2.regions or not mapping)
        for by in file.holders
        if by.limit is None and it.owner in {None, by}
    ]


def _ask(w: World, chosen: Ready, request: str, fields: Fields) -> None:
    """A request that binds the container."""
    file, container, _, by = chosen
    container.owner = by
    w.ioctl(by, file, request, fields)


def _may_make(container: MadeContainer) -> None:
    """A request is made that makes the default window."""
    if container.v2 is not None and not container.shared and container.v2.low:
        container.v2.made = True


# -- memory


def register(w: World) -> bool:
    if not (found := ready(w)):
        return False
    chosen = w.pick(found)
    _, _, v2, by = chosen
    huge = v2.high is not None and v2.high.shift == HUGE_SHIFT
    memory = _memory(w, by, likely=0.8 if huge else 0.3)
    pages = memory.pages if huge or w.chance(0.6) else 1 + w.below(memory.pages)
    region = MadeRegion(memory, w.below(memory.pages - pages + 1), pages)
    _ask(w, chosen, "SPAPR_REGISTER_MEMORY", _fields(region))
    if not any(region.meets(each) for each in _all_regions(w, by)):
        v2.regions.append(region)
    return True


def _memory(w: World, by: MadeProcess, *, likely: float = 0.3) -> MadeMemory:
    """:param likely: how likely it is in huge pages."""
    if w.huge and w.chance(likely) and not any(each.huge for each in by.memory) and w.room(by, HUGE):
        return w.allocate(by, HUGE, huge=True)
    huge = [each for each in by.writable if each.huge]
    return w.pick(huge) if huge and w.chance(likely) else w.some_memory(by, some_pages(w))


def _fields(region: MadeRegion) -> Fields:
    return {"vaddr": Page(region.memory.name, region.first), "size": region.pages * PAGE_SIZE}


def _all_regions(w: World, by: MadeProcess) -> Iterator[MadeRegion]:
    """A region belongs to its process, whichever container it was registered with."""
    for _, container in w.containers:
        if container.v2 is not None and container.owner is by:
            yield from container.v2.regions


def unregister(w: World) -> bool:
    """Unregister, mostly memory without a map: mapped memory stays registered for good."""
    if not (found := ready(w, mapping=True)):
        return False
    chosen = w.pick(found)
    file, _, v2, by = chosen
    free = [each for each in v2.regions if not each.mapped]
    region = w.pick(free if free and w.chance(0.9) else v2.regions)
    w.ioctl(by, file, "SPAPR_UNREGISTER_MEMORY", _fields(region))
    v2.regions.remove(region)
    return True


def odd_memory(w: World) -> bool:
    """What cannot be registered, or was not."""
    if not (found := ready(w)):
        return False
    chosen = w.pick(found)
    file, _, _, by = chosen
    memory = _memory(w, by)
    fields = _fields(MadeRegion(memory, 0, memory.pages))
    wrong = w.below(6)
    if wrong == 0:
        fields["argsz"] = w.pick((0, 8, 23))
    elif wrong == 1:
        fields["flags"] = 1 << w.below(32)
    elif wrong == 2:  # noqa: PLR2004 - one of six
        fields["vaddr"] = Page(memory.name, 0, 1 + w.below(PAGE_SIZE - 1))
    elif wrong == 3:  # noqa: PLR2004 - one of six
        fields["size"] = w.pick((0, 1, PAGE_SIZE - 1, TOP - PAGE_SIZE))
    elif wrong == 4:  # noqa: PLR2004 - one of six
        fields |= {"vaddr": w.pick(NOWHERE), "size": (1 + w.below(8)) * PAGE_SIZE}
    else:
        fields["size"] = (memory.pages + 1 + w.below(8)) * PAGE_SIZE
    if w.chance(0.6):
        _ask(w, chosen, "SPAPR_REGISTER_MEMORY", fields)
    else:
        w.ioctl(by, file, "SPAPR_UNREGISTER_MEMORY", fields)
    return True


# -- windows


def create(w: World) -> bool:
    """A high window, or the low one anew."""
    possible = [each for each in ready(w) if each[2].low or each[2].high is None]
    if not possible:
        return False
    chosen = w.pick(possible)
    _, container, v2, _ = chosen
    group = container.groups[0]
    if container.shared or (not v2.low and w.chance(0.3)):
        v2.high = _in_its_place(w, chosen)
        return True
    if not v2.low:
        size = group.phb.window_size
        _ask(w, chosen, "SPAPR_TCE_CREATE", {"page_shift": PAGE_SHIFT, "window_size": size, "levels": 1})
        v2.low = v2.made = not size & size - 1
        return True
    shift = w.pick(SHIFTS)
    fields: Fields = {"page_shift": shift, "window_size": w.pick(ENTRIES) << shift, "levels": w.below(2)}
    if v2.high is None and w.chance(UNLIKELY):
        _without_room(w, chosen, fields)
        group.refused = True
        return True
    if v2.high is None and not group.refused:
        v2.high = MadeWindow(SECOND_START, shift, int(fields["window_size"]) >> shift)  # type: ignore[arg-type]
    _may_make(container)
    _ask(w, chosen, "SPAPR_TCE_CREATE", fields)
    return True


def _in_its_place(w: World, chosen: Ready) -> MadeWindow | None:
    """A window that is no default one, of a container without the low one, or of several groups, which get none."""
    _, container, v2, _ = chosen
    shift, entries = w.pick(SHIFTS[2:]), w.pick(ENTRIES[1:])
    _ask(w, chosen, "SPAPR_TCE_CREATE", {"page_shift": shift, "window_size": entries << shift, "levels": 1})
    if container.shared or container.groups[0].refused:
        return None
    v2.made = True
    return MadeWindow(SECOND_START, shift, entries)


def _without_room(w: World, chosen: Ready, fields: Fields) -> None:
    """Request a window while another PE has the last one, which is then given back."""
    phb = chosen[1].groups[0].phb
    # A refused window creates the default window, which would remove what firmware has created before.
    _ask(w, chosen, "SPAPR_TCE_CREATE", {"page_shift": 13, "window_size": 1 << 20, "levels": 1})
    device = phb.devices[0].name
    w.ops.append(Ddw(call="create", device=device, page_shift=16, window_shift=24))
    _ask(w, chosen, "SPAPR_TCE_CREATE", fields)
    w.ops.append(Ddw(call="remove", device=device, liobn=phb.liobn | 1))


def remove(w: World) -> bool:
    """Remove a window by any address in it: mostly the high one, so that the low one is seldom missing."""
    if not (found := ready(w)):
        return False
    chosen = w.pick(found)
    _, container, v2, _ = chosen
    high = v2.high
    if high is not None and w.chance(0.8):
        v2.gone(high.start)
        _ask(w, chosen, "SPAPR_TCE_REMOVE", {"start_addr": high.start + w.below(high.entries << high.shift)})
    elif w.chance(0.4):
        _ask(w, chosen, "SPAPR_TCE_REMOVE", {"start_addr": container.groups[0].phb.window_start})
        v2.gone(container.groups[0].phb.window_start)
    else:
        _ask(w, chosen, "SPAPR_TCE_REMOVE", {"start_addr": w.pick((1 << 40, SECOND_START - PAGE_SIZE, TOP - 1))})
    return True


def odd_window(w: World) -> bool:
    """A window that cannot be created, or removed."""
    possible = [each for each in ready(w) if each[2].low]
    if not possible:
        return False
    chosen = w.pick(possible)
    if w.chance(0.3):
        _ask(w, chosen, "SPAPR_TCE_REMOVE", {"start_addr": 0, **w.pick(({"argsz": 15}, {"flags": 1}))})
    else:
        fields: Fields = {"page_shift": 12, "window_size": 1 << 20, "levels": 1}
        _may_make(chosen[1])
        _ask(w, chosen, "SPAPR_TCE_CREATE", fields | w.pick(ODD_WINDOWS))
    return True


# -- maps


def _shape(container: MadeContainer, v2: V2, *, high: bool) -> MadeWindow | None:
    if high:
        return v2.high
    phb = container.groups[0].phb
    return MadeWindow(phb.window_start, PAGE_SHIFT, phb.entries) if v2.low else None


def map_registered(w: World) -> bool:
    if not (found := ready(w, mapping=True)):
        return False
    file, container, v2, by = w.pick(found)
    shape = _shape(container, v2, high=v2.high is not None and w.chance(0.6)) or v2.high
    if shape is None:
        return False
    huge = [each for each in v2.regions if each.memory.huge]
    region = w.pick(huge if huge and shape.shift > PAGE_SHIFT and w.chance(0.7) else v2.regions)
    unit = 1 << shape.shift - PAGE_SHIFT
    units = max(min(some_pages(w), region.pages // unit, shape.entries), 1)
    offset = w.below(max(region.pages - units * unit, 0) + 1)
    if region.memory.huge:
        offset -= (region.first + offset) % unit  # aligned as the window requires, if the region is
    entry = w.below(min(shape.entries - units, 128) + 1) if w.chance(0.8) else shape.entries - units
    page = Page(region.memory.name, max(region.first + offset, 0))
    iova = shape.start + (entry << shape.shift)
    if w.chance(0.03):
        iova += 1 + w.below(PAGE_SIZE - 1)
    fields: Fields = {"flags": 1 + w.below(tce.PERMISSIONS), "vaddr": page, "iova": iova, "size": units << shape.shift}
    fits = page.index + units * unit <= region.memory.pages and not iova % PAGE_SIZE
    if fits and region.memory.access == "write" and w.chance(0.8):
        liobn = container.groups[0].phb.liobn | (shape.start == SECOND_START)
        mark(w, by, page, units * unit, liobn, iova)
    w.ioctl(by, file, "MAP_DMA", fields)
    _may_make(container)
    if container.shared:
        return True
    region.mapped += units
    v2.live.append((shape, entry, units, region))
    del v2.live[:-64]
    return True


def unmap_registered(w: World) -> bool:
    """Unmap a map, a part of one, or entries that may be empty; now and then a few pages past the window's end."""
    live = [each for each in ready(w, mapping=True) if each[2].live]
    if not live:
        return False
    file, container, v2, by = w.pick(live)
    _may_make(container)
    at = w.below(len(v2.live))
    shape, entry, units, region = v2.live[at]
    if w.chance(0.7):
        del v2.live[at]
        region.mapped -= units
    elif w.chance(0.7):
        units = 1 + w.below(units)
    else:
        entry, units = shape.entries - 1, 1 + w.below(32)
    w.ioctl(
        by,
        file,
        "UNMAP_DMA",
        {"iova": shape.start + (entry << shape.shift), "size": units << shape.shift},
    )
    return True


def odd_map(w: World) -> bool:
    """A map of unregistered memory, outside every window, or with wrong fields."""
    if not (found := ready(w, mapping=True)):
        return False
    file, container, v2, by = w.pick(found)
    shape = _shape(container, v2, high=w.chance(0.5)) or _shape(container, v2, high=False) or v2.high
    region = w.pick(v2.regions)
    if shape is None:
        return False
    page = Page(region.memory.name, region.first)
    fields: Fields = {"flags": 3, "vaddr": page, "iova": shape.start, "size": 1 << shape.shift}
    faults: tuple[Callable[[], Fields], ...] = (
        lambda: {"iova": shape.start + (shape.entries << shape.shift)},
        lambda: {"iova": SECOND_START + (1 << 58)},
        lambda: {"flags": w.pick((0, 4, 7))},
        lambda: {"argsz": w.pick((0, 16, 31))},
        lambda: {"size": PAGE_SIZE // 2},
        lambda: {"vaddr": Page(page.buffer, page.index, 8)},
        lambda: {"vaddr": w.pick(NOWHERE)},
        lambda: {"vaddr": Page(w.some_memory(by, 1).name)},
        lambda: {"size": 0},
    )
    _may_make(container)
    w.ioctl(by, file, "MAP_DMA", fields | w.pick(faults)())
    return True


def stranger(w: World) -> bool:
    """A process makes a request on a container that is bound to another."""
    found = [
        (file, it, by)
        for file, it in w.containers
        if it.v2 is not None and it.owner is not None
        for by in file.holders
        if by is not it.owner
    ]
    if not found:
        return False
    file, _, by = w.pick(found)
    request, fields = w.pick(
        (
            ("SPAPR_REGISTER_MEMORY", {"vaddr": PAGE_SIZE, "size": PAGE_SIZE}),
            ("SPAPR_UNREGISTER_MEMORY", {"vaddr": PAGE_SIZE, "size": PAGE_SIZE}),
            ("SPAPR_TCE_CREATE", {"page_shift": 12, "window_size": 1 << 20, "levels": 1}),
            ("SPAPR_TCE_REMOVE", {"start_addr": SECOND_START}),
        )
    )
    w.ioctl(by, file, request, {**fields})
    return True
