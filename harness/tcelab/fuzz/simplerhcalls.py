"""Simpler forms of raw hypercalls: fewer of them, fewer pages and TCEs, lower bus addresses and pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias, TypeVar

from msgspec.structs import replace

from tcelab.program import Call, Hcall, HcallBatch, Op, Page, Tce

Smaller: TypeAlias = Callable[[int, int], Iterator[int]]
"""Numbers from a least one on, below another."""
T = TypeVar("T")
_IOBA: Final = 1
_NPAGES: Final = 3
"""Which argument it is."""


def alone(op: Hcall | HcallBatch, smaller: Smaller) -> Iterator[Sequence[Op]]:
    """What may stand in the place of one operation."""
    if isinstance(op, Hcall):
        if op.problem_state:
            yield [replace(op, problem_state=False)]
        yield from ([replace(op, call=call)] for call in _calls(op.call, smaller))
        return
    yield [Hcall(by=op.by, call=call) for call in op.calls]
    yield from ([replace(op, times=times)] for times in smaller(op.times, 1))
    for at, call in enumerate(op.calls):
        rest = (op.calls[:at], op.calls[at + 1 :])
        if len(op.calls) > 1:
            yield [replace(op, calls=[*rest[0], *rest[1]])]
        yield from ([replace(op, calls=[*rest[0], each, *rest[1]])] for each in _calls(call, smaller))


def _calls(call: Call, smaller: Smaller) -> Iterator[Call]:
    """Simpler forms of one hypercall."""
    args, tces = call.args, call.tces
    npages = args[_NPAGES] if len(args) > _NPAGES else None
    if isinstance(npages, int):
        for less in smaller(npages, 0):
            # A list of as many as are asked for stays one.
            shorter = tces[: max(less, 1)] if tces is not None and len(tces) == npages else tces
            yield replace(call, args=_with(args, _NPAGES, less), tces=shorter)
    for at, word in enumerate(args[: _NPAGES if npages is not None else None]):
        yield from (replace(call, args=_with(args, at, each)) for each in _words(word, smaller) if at)
    for at, word in enumerate(tces or ()):
        yield from (replace(call, tces=_with(tces or [], at, each)) for each in _words(word, smaller))


def _with(words: Sequence[T], at: int, new: T) -> list[T]:
    return [*words[:at], new, *words[at + 1 :]]


def _words(word: int | Tce, smaller: Smaller) -> Iterator[int | Tce]:
    if isinstance(word, int):
        yield from smaller(word, 0)
        return
    yield 0
    yield from (replace(word, plus=plus) for plus in smaller(word.plus, 0))
    yield from (replace(word, index=index) for index in smaller(word.index, 0))


def changed(op: Hcall | HcallBatch, change: Callable[[int], int]) -> Hcall | HcallBatch:
    """With other bus addresses."""

    def made(call: Call) -> Call:
        ioba = call.args[_IOBA] if len(call.args) > _IOBA else None
        return replace(call, args=_with(call.args, _IOBA, change(ioba))) if isinstance(ioba, int) else call

    return _each(op, made)


def placed(op: Hcall | HcallBatch, change: Callable[[Page], Page]) -> Hcall | HcallBatch:
    """With other places in buffers."""

    def word(old: int | Tce) -> int | Tce:
        if isinstance(old, int):
            return old
        place = change(Page(old.buffer, old.index))
        return replace(old, buffer=place.buffer, index=place.index)

    def made(call: Call) -> Call:
        tces = None if call.tces is None else list(map(word, call.tces))
        return replace(call, args=list(map(word, call.args)), tces=tces)

    return _each(op, made)


def _each(op: Hcall | HcallBatch, made: Callable[[Call], Call]) -> Hcall | HcallBatch:
    if isinstance(op, Hcall):
        return replace(op, call=made(op.call))
    return replace(op, calls=list(map(made, op.calls)))
