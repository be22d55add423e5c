"""Splits a program: where it asks for a fresh guest, and at host operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tcelab.program.hostops import Fresh
from tcelab.program.kinds import is_host
from tcelab.program.operations import GuestOp, HostOp, Op
from tcelab.program.program import Program


def stretches(ops: Sequence[Op]) -> Iterator[tuple[int, list[GuestOp] | HostOp]]:
    """Split at host operations: (number of the first operation, guest operations or one host operation)."""
    pending: list[GuestOp] = []
    for number, op in enumerate(ops):
        if is_host(op):
            if pending:
                yield number - len(pending), pending
                pending = []
            yield number, op
        else:
            pending.append(op)  # type: ignore[arg-type]
    if pending:
        yield len(ops) - len(pending), pending


@dataclass(frozen=True, slots=True)
class Part:
    """The operations of a program that share a guest: `first` is the number of the first of them."""

    number: int
    first: int
    ops: Sequence[Op]


def parts(program: Program) -> list[Part]:
    """Split a program where it asks for a fresh guest."""
    bounds = [-1, *(i for i, op in enumerate(program.ops) if isinstance(op, Fresh)), len(program.ops)]
    return [Part(i, begin + 1, program.ops[begin + 1 : end]) for i, (begin, end) in enumerate(pairwise(bounds))]
