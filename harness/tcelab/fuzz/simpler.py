"""Simpler forms of operations. Each form has less of one thing in this list, and no more of anything before it:
processes, operations, files, structs in buffers, buffers, pages, bytes, bus addresses. So shrinking terminates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, Literal, TypeAlias

from msgspec.structs import replace

from tcelab.fuzz import simplerdma as dmaapi
from tcelab.fuzz import simplerhcalls as hcalls
from tcelab.fuzz.hazard import endless
from tcelab.papr.window import PAGE_SHIFT, PAGE_SIZE
from tcelab.program import (
    Buffer,
    Checkpoint,
    Close,
    Dma,
    DmaOp,
    Exit,
    Fill,
    Frames,
    Hcall,
    HcallBatch,
    Ioctl,
    Master,
    Op,
    Open,
    Page,
    Protect,
    Put,
    Repeat,
    Spawn,
    Tag,
    Word,
    is_guest,
)
from tcelab.program.topology import Topology

Change: TypeAlias = Callable[[Sequence[Op]], list[Op]]
Role: TypeAlias = Literal["iova", "size"]
"""The role of a field that holds a number of bytes, by the field's name."""

ROLES: Final[tuple[Role, ...]] = ("iova", "size")
NUMBERS: Final = ("iova", "size", "flags")
"""Fields whose value may be lowered. An argsz, and the flags of an UNMAP_DMA, are dropped instead."""


def smaller(number: int, least: int = 0) -> Iterator[int]:
    """Numbers from `least` up: `least` itself, then ever closer to the value. Whole pages stay whole pages if `least`
    is 0.
    """
    unit = PAGE_SIZE if least == 0 and number % PAGE_SIZE == 0 else 1
    step = (number - least) // unit
    if step <= 0:
        return
    yield number - step * unit
    while step := step // 2:
        yield number - step * unit


# -- one operation alone


def alone(op: Op) -> Iterator[Sequence[Op]]:
    """Simpler operations to try in its place."""
    if is_guest(op) and op.by:
        yield [replace(op, by="")]
    match op:
        case Spawn():
            yield from ([each] for each in _without(op, uid=None, memlock=None))
        case Buffer():
            yield from ([replace(op, pages=pages)] for pages in smaller(op.pages, 1))
            yield from ([each] for each in _without(op, seed=0))
        case Tag():
            yield from _less(op, "first", "ioba", "sequence")
            yield from ([replace(op, count=count)] for count in smaller(op.count, 1))
        case Fill():
            yield from _less(op, "offset", "size", "seed")
        case Dma():
            yield from _less(op, "iova", "offset")
            yield from ([replace(op, size=size)] for size in smaller(op.size, 1))
        case Put() | Ioctl():
            if isinstance(op, Ioctl) and isinstance(op.value, Page):
                yield [replace(op, value=None)]
            yield from ([replace(op, fields=fields)] for fields in _fields(op.fields))
        case Repeat():
            yield from _repeat(op)
        case Checkpoint():
            yield from ([each] for each in _without(op, stream=False))
        case _:
            yield from _elsewhere(op)


def _elsewhere(op: Op) -> Iterator[Sequence[Op]]:
    """Of kinds that have a module of their own."""
    if isinstance(op, Hcall | HcallBatch):
        yield from hcalls.alone(op, smaller)
    elif isinstance(op, DmaOp):
        yield from dmaapi.alone(op, smaller)


def _without(op: Op, **defaults: object) -> Iterator[Op]:
    for name, default in defaults.items():
        if getattr(op, name) != default:
            yield replace(op, **{name: default})


def _less(op: Op, *names: str) -> Iterator[Sequence[Op]]:
    for name in names:
        for number in smaller(getattr(op, name)):
            yield [replace(op, **{name: number})]


def _fields(fields: Mapping[str, Word]) -> Iterator[dict[str, Word]]:
    for needless in ("argsz",) if "vaddr" in fields else ("argsz", "flags"):
        if needless in fields:
            yield {name: word for name, word in fields.items() if name != needless}
    for name, word in fields.items():
        if isinstance(word, Page):
            yield from ({**fields, name: replace(word, index=index)} for index in smaller(word.index))
            yield from ({**fields, name: replace(word, plus=plus)} for plus in smaller(word.plus))
        elif isinstance(word, int) and name in NUMBERS:
            yield from ({**fields, name: number} for number in smaller(word))
    iova, size = fields.get("iova"), fields.get("size")
    if isinstance(iova, int) and isinstance(size, int):
        # Keep the end, because it may be the end that matters.
        yield from ({**fields, "iova": iova + size - less, "size": less} for less in smaller(size))


def _repeat(op: Repeat) -> Iterator[Sequence[Op]]:
    """Its calls as single operations; fewer rounds, fewer calls, simpler calls."""
    yield [replace(call, by=op.by) for call in op.ops]
    yield from ([replace(op, times=times)] for times in smaller(op.times, 1))
    yield from ([each] for each in _without(op, loop="c"))
    for at, call in enumerate(op.ops):
        rest = (op.ops[:at], op.ops[at + 1 :])
        if len(op.ops) > 1:
            yield [replace(op, ops=[*rest[0], *rest[1]])]
        yield from ([replace(op, ops=[*rest[0], replace(call, fields=f), *rest[1]])] for f in _fields(call.fields))


# -- operations that share something, together


def merged(ops: Sequence[Op]) -> Iterator[Change]:
    """A child's operations moved to the agent; one buffer or file in place of two; a struct in a buffer passed
    directly.
    """
    first: dict[tuple[str, str], str] = {}
    for number, op in enumerate(ops):
        match op:
            case Spawn():
                yield partial(_by_the_agent, op.process)
            case Buffer():
                if (kept := first.setdefault((op.by, ""), op.name)) != op.name:
                    yield partial(_in_buffer, op.name, kept)
            case Open():
                if (kept := first.setdefault((op.by, op.path), op.file)) != op.file:
                    yield partial(_with_file, op.file, kept)
            case Ioctl(value=Page()) if put := _put_before(ops[:number], op):
                yield partial(_instead, op, replace(op, fields=put.fields, value=None))


def _by_the_agent(child: str, ops: Sequence[Op]) -> list[Op]:
    rest = [op for op in ops if not (isinstance(op, Spawn | Exit) and op.process == child)]
    return [replace(op, by="") if is_guest(op) and op.by == child else op for op in rest]


def _in_buffer(old: str, new: str, ops: Sequence[Op]) -> list[Op]:
    rest = [op for op in ops if not (isinstance(op, Buffer) and op.name == old)]
    return [_placed(op, lambda place: replace(place, buffer=new) if place.buffer == old else place) for op in rest]


def _with_file(old: str, new: str, ops: Sequence[Op]) -> list[Op]:
    rest = [op for op in ops if not (isinstance(op, Open) and op.file == old)]
    return [_refiled(op, old, new) for op in rest]


def _refiled(op: Op, old: str, new: str) -> Op:
    if isinstance(op, Ioctl | Put):
        op = replace(op, fields={name: new if word == old else word for name, word in op.fields.items()})
    if isinstance(op, Repeat):
        op = replace(op, ops=_calls(_refiled(call, old, new) for call in op.ops))
    return replace(op, file=new) if isinstance(op, Close | Ioctl | Master | Dma) and op.file == old else op


def _put_before(ops: Sequence[Op], op: Ioctl) -> Put | None:
    """The operation that wrote the struct that an ioctl passes by address."""
    puts = (put for put in reversed(ops) if isinstance(put, Put) and put.request == op.request)
    return next((put for put in puts if _place(put.buffer, put.offset) == op.value), None)


def _instead(old: Op, new: Op, ops: Sequence[Op]) -> list[Op]:
    return [new if op is old else op for op in ops]


def buffers(ops: Sequence[Op]) -> list[Buffer]:
    return [op for op in ops if isinstance(op, Buffer)]


def cut(ops: Sequence[Op], buffer: Buffer, pages: int) -> list[Op]:
    """The operations with fewer pages in a buffer: the first ones are removed, the others move to the front."""
    gone = buffer.pages - pages

    def place(at: Page) -> Page:
        return replace(at, index=max(at.index - gone, 0)) if at.buffer == buffer.name else at

    return [replace(op, pages=pages) if op == buffer else _placed(op, place) for op in ops]


def numbers(ops: Sequence[Op], role: Role) -> list[int]:
    """All numbers in a role, the largest first."""
    found: set[int] = set()

    def note(number: int) -> int:
        found.add(number)
        return number

    for op in ops:
        _changed(op, role, note)
    return sorted(found, reverse=True)


def with_number(ops: Sequence[Op], role: Role, old: int, new: int) -> list[Op]:
    """The operations with another number wherever that one has the role."""
    return [_changed(op, role, lambda number: new if number == old else number) for op in ops]


def shifted(ops: Sequence[Op], role: Role) -> list[Op]:
    """The operations with all numbers in the role lowered by the least one."""
    least = min(numbers(ops, role), default=0)
    return [_changed(op, role, lambda number: number - least) for op in ops] if least else list(ops)


def _changed(op: Op, role: Role, change: Callable[[int], int]) -> Op:
    """With other numbers in a role."""
    match op:
        case Tag() if role == "iova":
            return replace(op, ioba=change(op.ioba))
        case Tag():
            return replace(op, count=max(change(op.count << PAGE_SHIFT) >> PAGE_SHIFT, 1))
        case Dma() if role == "iova":
            return replace(op, iova=change(op.iova))
        case Put() | Ioctl():
            word = op.fields.get(role)
            return replace(op, fields={**op.fields, role: change(word)}) if isinstance(word, int) else op
        case Repeat():
            return replace(op, ops=_calls(_changed(call, role, change) for call in op.ops))
        case Hcall() | HcallBatch() if role == "iova":
            op = hcalls.changed(op, change)
    return op


def _placed(op: Op, change: Callable[[Page], Page]) -> Op:
    """With other places in buffers."""
    match op:
        case Hcall() | HcallBatch():
            return hcalls.placed(op, change)
        case _ if isinstance(op, DmaOp):
            return dmaapi.placed(op, change)
        case Frames() | Protect():
            return replace(op, buffer=change(Page(op.buffer)).buffer)
        case Tag():
            place = change(Page(op.buffer, op.first))
            return replace(op, buffer=place.buffer, first=place.index)
        case Fill() | Put():
            place = change(_place(op.buffer, op.offset))
            op = replace(op, buffer=place.buffer, offset=place.index * PAGE_SIZE + place.plus)
    if isinstance(op, Put | Ioctl):
        fields = {name: change(word) if isinstance(word, Page) else word for name, word in op.fields.items()}
        op = replace(op, fields=fields)
    if isinstance(op, Ioctl) and isinstance(op.value, Page):
        op = replace(op, value=change(op.value))
    if isinstance(op, Repeat):
        op = replace(op, ops=_calls(_placed(call, change) for call in op.ops))
    return op


def _place(buffer: str, offset: int) -> Page:
    return Page(buffer, *divmod(offset, PAGE_SIZE))


def _calls(ops: Iterable[Op]) -> list[Ioctl]:
    return [op for op in ops if isinstance(op, Ioctl)]


# -- what must not result


def endless_unmaps(ops: Sequence[Op], topology: Topology) -> int:
    """How many unmaps would hang a kernel."""
    windows = [(phb.window_start, phb.window_end) for phb in topology.phbs]
    calls = [call for op in ops for call in (op.ops if isinstance(op, Repeat) else (op,))]
    fields = [call.fields for call in calls if isinstance(call, Ioctl | Put) and call.request == "UNMAP_DMA"]
    ranges = [(each.get("iova", 0), each.get("size", 0)) for each in fields]
    return sum(
        isinstance(iova, int) and isinstance(size, int) and endless(windows, iova, size) for iova, size in ranges
    )
