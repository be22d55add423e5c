"""Random processes: their use of each other's containers, their memory, and the DMA of devices."""

from __future__ import annotations

from typing import Final

from tceagent import edu, virtio
from tcelab.fuzz.lifecycle import INFOS, attached, files, open_device, renew
from tcelab.fuzz.madethings import MadeContainer, MadeDevice, MadeFile, MadeGroup, MadeProcess
from tcelab.fuzz.mapping import map_fields, some_pages, tag, unmap_fields
from tcelab.fuzz.world import TCE_SIZE, World
from tcelab.papr.window import PAGE_SHIFT, PAGE_SIZE
from tcelab.program import Dma, Fill, diskcontent

MOST_CHILDREN: Final = 2
NOBODY: Final = 65534

OPS_PER_DMA: Final = 400
"""A transfer takes 0.1 s."""
LONGEST: Final = 1024
"""Bytes of a transfer; of a refused one QEMU tells every word."""
_SECTORS: Final = (diskcontent.SIZE - virtio.LONGEST) // virtio.SECTOR


# -- processes


def spawn_some(w: World) -> MadeProcess:
    """A child with its parent's limits, or of another user, or with a limit near what containers charge."""
    window = w.pick(w.groups).phb.window_size
    table = (window >> PAGE_SHIFT) * TCE_SIZE
    uid = NOBODY if w.chance(0.6) else None
    limits = (None, 0, 1 << 16, window - PAGE_SIZE, window, window + table - PAGE_SIZE, window + table, 4 * window)
    return w.spawn(uid, w.pick(limits))


def spawn(w: World) -> bool:
    if len(w.children) >= MOST_CHILDREN:
        return False
    spawn_some(w)
    return True


def exit_child(w: World) -> bool:
    if not w.children:
        return False
    w.exit(w.pick(w.children))
    return True


def hand_over(w: World) -> bool:
    """Set up a container and let a child enable it, whose limit may be too low."""
    ready = [(file, it) for file, it in w.containers if it.typed and it.owner is None]
    if not ready:
        if not (groups := attached(w, free=True)):
            return False
        renew(w, *w.pick(groups))
        ready = [(file, it) for file, it in w.containers if it.typed and it.owner is None]
        if not ready:
            return True
    file, container = w.pick(ready)
    heirs = [child for child in w.children if child in file.holders]
    if not heirs and len(w.children) < MOST_CHILDREN and file in w.agent.files:
        heirs = [spawn_some(w)]
    if heirs:
        heir = w.pick(heirs)
        w.enable(heir, file)
        others = [by for by in file.holders if by is not heir]
        if not container.enabled and others:
            # Which process owns it now?
            return _ask(w, w.pick(("ENABLE", "ENABLE", "DISABLE", *INFOS)), w.pick(others), file, container)
    return True


def foreign(w: World) -> bool:
    """A process makes a request on a container that is bound to another process."""
    strangers = [
        (by, file, it) for file, it in w.containers if it.owner is not None for by in file.holders if by is not it.owner
    ]
    if not strangers:
        bound = [it for file, it in w.containers if it.owner is w.agent and file in w.agent.files]
        return bool(bound) and spawn(w)
    return _ask(w, w.pick(("MAP_DMA", "MAP_DMA", "UNMAP_DMA", "ENABLE", "DISABLE", *INFOS)), *w.pick(strangers))


def _ask(w: World, request: str, by: MadeProcess, file: MadeFile, container: MadeContainer) -> bool:
    match request:
        case "MAP_DMA":
            fields = map_fields(w, by, container, some_pages(w))
            tag(w, by, container, fields)
            w.struct(by, file, request, fields)
        case "UNMAP_DMA":
            return w.unmap(by, file, unmap_fields(w, container))
        case "ENABLE":
            w.enable(by, file)
        case "DISABLE":
            w.disable(by, file)
        case _:
            w.ioctl(by, file, request)
    return True


def premature(w: World) -> bool:
    """Map or unmap with a container that is not ready for it, or not any more."""
    ready = {it for _, it, _ in w.working}
    early = [(file, it) for file, it in w.containers if it not in ready]
    if not early:
        return False
    file, container = w.pick(early)
    return _ask(w, w.pick(("MAP_DMA", "UNMAP_DMA")), w.pick(file.holders), file, container)


# -- memory


def new_buffer(w: World) -> bool:
    by, pages = w.pick(w.processes), 8 + w.below(57)
    if not w.room(by, pages):
        return False
    w.allocate(by, pages)
    return True


def fill(w: World) -> bool:
    by = w.pick(w.processes)
    if not (writable := by.writable):
        return False
    memory, size = w.pick(writable), 1 + w.below(PAGE_SIZE)
    offset = w.below(memory.pages * PAGE_SIZE - size + 1)
    w.ops.append(Fill(by=by.name, buffer=memory.name, offset=offset, size=size, seed=w.below(1 << 30)))
    return True


def unprotect(w: World) -> bool:
    closed = [(by, memory) for by in w.processes for memory in by.memory if memory.access != "write"]
    if not closed:
        return False
    w.protect(*w.pick(closed), "write")
    return True


# -- devices


def master(w: World) -> bool:
    if not (devices := files(w, MadeDevice)):
        return False
    by, file = w.pick(devices)
    w.master(by, file, on=w.chance(0.6))
    return True


def odd_master(w: World) -> bool:
    """Bus mastering of a file that is no device: it has no command register."""
    if not (others := files(w, MadeContainer, MadeGroup, type(None))):
        return False
    w.master(*w.pick(others), on=True)
    return True


def dma(w: World) -> bool:
    """A transfer within what is mapped, over its end, over the window's end or outside."""
    if w.dmas * OPS_PER_DMA > len(w.ops):
        return False
    if not files(w, MadeDevice):
        open_device(w)
    if not (devices := files(w, MadeDevice)):
        return False
    by, file = w.pick(devices)
    device = file.what
    assert isinstance(device, MadeDevice)
    if not device.master and w.chance(0.9):
        w.master(by, file, on=True)
    size, offset = some_part(w, device)
    w.ops.append(
        Dma(
            by=by.name,
            file=file.name,
            iova=some_target(w, device.group, size),
            size=size,
            to_memory=w.chance(0.5),
            offset=offset,
        )
    )
    w.dmas += 1
    return True


def some_part(w: World, device: MadeDevice) -> tuple[int, int]:
    """Size and offset of a transfer that the device can do. A disk does none, because it is never set up."""
    if device.model.model == "virtio-blk":
        return virtio.SECTOR * (1 + w.below(virtio.LONGEST // virtio.SECTOR)), virtio.SECTOR * w.below(_SECTORS)
    size = 1 + w.below(LONGEST)
    return size, w.below(edu.LONGEST - size + 1)


def some_target(w: World, group: MadeGroup, size: int) -> int:
    start, end = group.phb.window_start, group.phb.window_end
    if group.container is not None and group.container.live and w.chance(0.6):
        iova, pages = w.pick(group.container.live)
        return iova + w.below(pages * PAGE_SIZE)
    return w.pick((end - w.below(size), end + w.below(16 * PAGE_SIZE), start + w.below(end - start)))
