"""The part of `tcelab.program.validate` about the kernel's own DMA API.

What a driver must not do is refused here, for the kernel does not check it: other sizes and directions at the end than
at the beginning, masks that change under a mapping, and, where all RAM is mapped, transfers beside a mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from tceagent import dmadriver, edu, testdev
from tceagent.huge import HUGE_PAGE
from tcelab.papr import window
from tcelab.program import validate_hotplug
from tcelab.program.dmaops import (
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
    Part,
)
from tcelab.program.drivenpes import Drivers, Mapped, shut_out, unexpected
from tcelab.program.guestop import Page
from tcelab.program.plugged import Plugged
from tcelab.program.topology import Topology
from tcelab.program.validate_doorbell import BellRules
from tcelab.program.validate_life import Life
from tcelab.program.validated import BufferState, who

MASKS: Final = range(24, 65)
MOST_COHERENT: Final = 512
"""IOMMU pages of one allocation: 2 MiB, as many as the kernel maps with one hypercall."""
FAR: Final = 1 << 24
"""Bytes by which a transfer may miss a mapping."""
WIDE: Final = 64
"""Bits of a mask with which the kernel may map all RAM."""
REACHES: Final = 60
"""Bits of a mask that reaches the window in which it does."""
Memory = Callable[[Page, int], tuple[str, bool]]
"""Given a place and a size: why a process cannot map it, empty if it can; and whether it lies in huge pages."""


CHILDS: Final = (DmaMap, DmaMapSg, DmaRepeat, DmaUnmap)
"""What a child process may do with a device that the agent has bound."""
NOT_CHILD: Final = "only the agent itself does that with a driver of the DMA API"
NOT_ROOT: Final = "the driver of the DMA API serves root alone"
GUARDED: Final = "whoever isolates PEs knows the entries that VFIO makes, and no others"


def bind(drivers: Drivers, plugged: Plugged, op: DmaBind, used: Collection[str] = ()) -> str:
    """Why a device cannot be bound; empty if it can, and then it is.

    :param used: devices whose files, or whose groups', are open.
    """
    index = drivers.phb(op.device)
    if index < 0:
        return f"the topology has no device {op.device!r}"
    if drivers.model(op.device) not in {"edu", "testdev"}:
        return f"{op.device} is no edu and no testdev, and of others nobody knows what they do"
    if op.device in drivers.bound:
        return f"{op.device} is bound already"
    if problem := drivers.take_back(op.device, used) or unexpected(drivers, op.device):
        return problem
    drivers.bound.add(op.device)
    drivers.pes.add(index)
    return validate_hotplug.absent(plugged, op.device)


def _usable(drivers: Drivers, device: str) -> str:
    """Why nothing can be mapped for it; empty if something can."""
    if device in drivers.stale and device in drivers.bound:
        return f"{device} went around the tables before VFIO had it, and the kernel has not noticed: set a mask before"
    return _bound(drivers, device)


def _bound(drivers: Drivers, device: str) -> str:
    if device in drivers.bound:
        return ""
    return f'{device!r} was not bound before: add a `dmabind` with "device": "{device}"'


def _able(drivers: Drivers, device: str) -> str:
    """Why the driver can do nothing with a device; empty if it can."""
    return _usable(drivers, device) or shut_out(drivers, device)


def _live(drivers: Drivers, name: str, *, coherent: bool) -> str:
    """Why nothing of that name is mapped; empty if it is."""
    mapped = drivers.maps.get(name)
    if mapped is None or mapped.coherent != coherent:
        what = "coherent memory" if coherent else "mapping"
        return f"there is no {what} {name!r}"
    return "" if mapped.live else f"{name!r} is unmapped already"


def _unbind(drivers: Drivers, _memory: Memory, op: DmaUnbind) -> str:
    if problem := _bound(drivers, op.device):
        return problem
    drivers.bound.discard(op.device)
    for each in drivers.maps.values():
        each.live = each.live and (each.device != op.device or op.late)
    return ""


def _mask(drivers: Drivers, _memory: Memory, op: DmaMask) -> str:
    if problem := _bound(drivers, op.device) or shut_out(drivers, op.device):
        return problem
    if op.bits not in MASKS:
        return f"a mask has {MASKS.start}..{MASKS.stop - 1} bits here, not {op.bits}"
    live = next((name for name, each in drivers.maps.items() if each.live and each.device == op.device), "")
    if live:
        return f"{live!r} is mapped: it would be unmapped in the way of the new mask"
    drivers.stale.discard(op.device)
    index = drivers.phb(op.device)
    if op.bits >= WIDE:
        drivers.wide.add(op.device)
        used = any(each.live and drivers.phb(each.device) == index for each in drivers.maps.values())
        if index in drivers.beside and not used:
            drivers.removed_for.setdefault(index, op.device)
    if op.which != "streaming":
        drivers.coherent[op.device] = op.bits
    return ""


def _alloc(drivers: Drivers, _memory: Memory, op: DmaAlloc) -> str:
    if problem := _able(drivers, op.device):
        return problem
    if op.buffer in drivers.maps:
        return f"there is a mapping {op.buffer!r} already"
    if not 0 < op.pages <= MOST_COHERENT:
        return f"coherent memory has 1..{MOST_COHERENT} pages, not {op.pages}"
    if drivers.phb(op.device) in drivers.removed_for and drivers.coherent.get(op.device, 0) < REACHES:
        return f"the coherent mask of {op.device} reaches no window that is sure to be there: it needs {REACHES} bits"
    drivers.maps[op.buffer] = Mapped(op.device, [op.pages * window.PAGE_SIZE], coherent=True)
    return ""


def _free(drivers: Drivers, _memory: Memory, op: DmaFree) -> str:
    if problem := _live(drivers, op.buffer, coherent=True):
        return problem
    drivers.maps[op.buffer].live = False
    return ""


def _map(drivers: Drivers, memory: Memory, op: DmaMap) -> str:
    return _parts(drivers, memory, op, [Part(op.page, op.size)])


def _map_sg(drivers: Drivers, memory: Memory, op: DmaMapSg) -> str:
    if not 0 < len(op.parts) <= dmadriver.PARTS:
        return f"{len(op.parts)} parts; a list has 1..{dmadriver.PARTS}"
    return _parts(drivers, memory, op, op.parts)


def _parts(drivers: Drivers, memory: Memory, op: DmaMap | DmaMapSg, parts: Sequence[Part]) -> str:
    device, name = op.device, op.name
    if problem := _able(drivers, device):
        return problem
    if not name or name in drivers.maps:
        return f"there is a mapping {name!r} already" if name else "a mapping has a name"
    if problem := _contiguous(memory, parts):
        return problem
    fails = isinstance(op.expect, str) and op.expect != "ok"
    drivers.maps[name] = Mapped(device, [part.size for part in parts], live=not fails)
    return ""


def _repeat(drivers: Drivers, memory: Memory, op: DmaRepeat) -> str:
    if problem := _able(drivers, op.device):
        return problem
    if len({len(parts) for parts in op.lists}) != 1 or not op.lists[0]:
        return "at least one list, and all with as many parts"
    parts = [part for each in op.lists for part in each]
    if len(op.lists[0]) > dmadriver.PARTS or len(parts) > dmadriver.HELD:
        return f"{len(parts)} parts; a list has at most {dmadriver.PARTS}, and all of them {dmadriver.HELD}"
    if not 0 < op.times <= dmadriver.ROUNDS:
        return f"{op.times} rounds; a DmaRepeat does 1..{dmadriver.ROUNDS}"
    return _contiguous(memory, parts)


def _contiguous(memory: Memory, parts: Sequence[Part]) -> str:
    """Why parts cannot be mapped; empty if each is contiguous in RAM."""
    for part in parts:
        if part.size <= 0:
            return f"{part.size} bytes cannot be mapped"
        problem, huge = memory(part.page, part.size)
        if problem:
            return problem
        unit = HUGE_PAGE if huge else window.PAGE_SIZE
        first = part.page.index * window.PAGE_SIZE + part.page.plus
        if first // unit != (first + part.size - 1) // unit:
            return f"{part.size} bytes at {first:#x} of {part.page.buffer!r} need not be contiguous in RAM"
    return ""


def _sync(drivers: Drivers, _memory: Memory, op: DmaSync) -> str:
    if problem := _live(drivers, op.name, coherent=False):
        return problem
    sizes = drivers.maps[op.name].sizes
    whole = not op.offset and not op.size
    if len(sizes) > 1 and not whole:
        return "a list is handed over as a whole"
    inside = 0 <= op.offset < sum(sizes) and 0 <= op.size <= sum(sizes) - op.offset
    return "" if inside else f"outside the {sum(sizes)} bytes of {op.name!r}"


def _unmap(drivers: Drivers, _memory: Memory, op: DmaUnmap) -> str:
    if problem := _live(drivers, op.name, coherent=False):
        return problem
    drivers.maps[op.name].live = False
    return ""


def _move(drivers: Drivers, _memory: Memory, op: DmaMove) -> str:
    mapped = drivers.maps.get(op.name)
    if mapped is None:
        return f"there is no mapping {op.name!r}"
    if problem := _bound(drivers, mapped.device):
        return problem
    if not 0 <= op.segment < len(mapped.sizes):
        return f"{op.name!r} has at most {len(mapped.sizes)} segments"
    try:
        if drivers.model(mapped.device) == "testdev":
            testdev.check(op.size)
            if not op.to_memory or op.offset:
                return "an iommu-testdev writes to memory alone, and has no buffer"
        else:
            edu.check(op.size, op.offset)
    except ValueError as error:
        return str(error)
    return _beside(drivers, mapped, op)


def _beside(drivers: Drivers, mapped: Mapped, op: DmaMove) -> str:
    """A transfer may miss its mapping only where a table stands in its way."""
    inside = op.plus >= 0 and op.plus + op.size <= min(mapped.sizes[op.segment :])
    if not inside and mapped.device in drivers.wide:
        return f"outside {op.name!r}, and {mapped.device} may reach all RAM there"
    if not mapped.live and mapped.coherent and mapped.device in drivers.wide:
        return f"the memory of {op.name!r} is the kernel's again, and {mapped.device} may reach all RAM"
    return "" if abs(op.plus) <= FAR else f"more than {FAR} bytes beside {op.name!r}"


RULES: Final[Mapping[type, Callable[[Drivers, Memory, Any], str]]] = {
    DmaUnbind: _unbind,
    DmaMask: _mask,
    DmaAlloc: _alloc,
    DmaFree: _free,
    DmaMap: _map,
    DmaMapSg: _map_sg,
    DmaRepeat: _repeat,
    DmaSync: _sync,
    DmaUnmap: _unmap,
    DmaMove: _move,
}


def problem(drivers: Drivers, memory: Memory, op: DmaOp) -> str:
    """Why an operation other than a `dmabind` cannot be done; empty if it can, and then it counts as done."""
    return RULES[type(op)](drivers, memory, op)


class DriverRules(BellRules):
    """The rules, by what the operations before have made."""

    _topology: Topology
    _life: Life
    _guarded: bool

    def _begin(self) -> None:
        super()._begin()
        self._drivers = Drivers(self._topology)

    def _dmaapi(self, op: DmaOp) -> str:
        if not_its := self._whose(op):
            return not_its
        if isinstance(op, DmaBind):
            wrong = bind(self._drivers, self._life.plugged, op, self._used())
            for process in self._processes.values():
                process.bound.discard(op.device)
            return wrong
        if isinstance(op, DmaAlloc) and op.buffer in self._buffers:
            return f"there is a buffer {op.buffer!r} already"
        wrong = problem(self._drivers, self._mappable, op)
        if isinstance(op, DmaMap | DmaMapSg) and not wrong:
            self._drivers.maps[op.name].by = self._by
        if isinstance(op, DmaAlloc):
            self._buffers[op.buffer] = BufferState(op.pages, self._by, coherent=True)
        for name in [name for name, each in self._drivers.maps.items() if each.coherent and not each.live]:
            self._buffers.pop(name, None)
        return wrong

    def _whose(self, op: DmaOp) -> str:
        """Why the process cannot do that; empty if it can."""
        if self._guarded:
            return GUARDED
        if self._by and not isinstance(op, CHILDS):
            return NOT_CHILD
        if not self._own.root:
            return NOT_ROOT
        if isinstance(op, DmaUnmap | DmaSync | DmaMove) and op.name in self._drivers.maps:
            by = self._drivers.maps[op.name].by
            return "" if by == self._by else f"mapping {op.name!r} belongs to {who(by)}, not to {who(self._by)}"
        return ""

    def _used(self) -> set[str]:
        """Devices whose files, or whose groups', are open."""
        files = {name for each in self._processes.values() for name in each.files}
        return {of[name] for of in (self._device_of, self._group_of) for name in files & of.keys()}

    def _mappable(self, page: Page, size: int) -> tuple[str, bool]:
        problem = self._written(page.buffer, page.index * window.PAGE_SIZE + page.plus, size)
        if problem:
            return problem, False
        buffer = self._buffers[page.buffer]
        return ("coherent memory is mapped already" if buffer.coherent else ""), buffer.huge
