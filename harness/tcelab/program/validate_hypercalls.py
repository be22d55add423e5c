"""The part of `tcelab.program.validate` about hypercalls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tcelab.papr import hcallnumbers, window
from tcelab.program.operations import Call, Hcall, HcallBatch, Tce

MOST_CALLS: Final = 1024
"""Calls of one batch: the module takes no more."""
MOST_ROUNDS: Final = 10_000_000
MOST_ARGS: Final = 4
_WORD: Final = 64

Place = Callable[[str, int], str]
"""Given a buffer and a page number in it, why the process cannot name that page; empty if it can."""


def problem(op: Hcall | HcallBatch, place: Place) -> str:
    """Why the hypercalls of an operation cannot be made; empty if they can."""
    if isinstance(op, Hcall):
        if op.problem_state and op.call.tces is not None:
            return "a hypercall of a process has no list page: that is the module's"
        return _call(op.call, place)
    if not 0 < len(op.calls) <= MOST_CALLS:
        return f"{len(op.calls)} calls; an HcallBatch does 1..{MOST_CALLS}"
    if not 0 < op.times <= MOST_ROUNDS:
        return f"{op.times} rounds; an HcallBatch does 1..{MOST_ROUNDS}"
    return next(filter(None, (_call(each, place) for each in op.calls)), "")


def _call(call: Call, place: Place) -> str:
    if isinstance(call.opcode, str) and call.opcode not in hcallnumbers.NAMES:
        return f"no hypercall {call.opcode!r}; there are: {', '.join(hcallnumbers.NAMES)}"
    if len(call.args) > MOST_ARGS:
        return f"{len(call.args)} arguments; a hypercall has at most {MOST_ARGS}"
    if call.tces is not None:
        if number(call.opcode) != hcallnumbers.H_PUT_TCE_INDIRECT:
            return "only H_PUT_TCE_INDIRECT has a list of TCEs"
        if not 0 < len(call.tces) <= hcallnumbers.LIST_MOST:
            return f"{len(call.tces)} TCEs; a list page holds 1..{hcallnumbers.LIST_MOST}"
    words = [call.opcode] if isinstance(call.opcode, int) else []
    return next(filter(None, (_word(each, place) for each in (*words, *call.args, *(call.tces or ())))), "")


def _word(word: int | Tce, place: Place) -> str:
    if isinstance(word, Tce):
        within = word.permissions >= 0 and word.plus >= 0 and word.permissions + word.plus < window.PAGE_SIZE
        return (
            place(word.buffer, word.index) if within else "a Tce leads to its own page: permissions and plus say less"
        )
    return "" if 0 <= word < 1 << _WORD else f"a register has {_WORD} bits, and {word} has not"


def number(opcode: str | int) -> int:
    """The number of an opcode."""
    return hcallnumbers.NAMES[opcode] if isinstance(opcode, str) else opcode
