"""Basic blocks and conditional branches of a function, decoded from its instructions (Power ISA, Book I, 2.4).

Only branches are told apart: what makes blocks is where a branch, a call or a system call ends one, and where a branch
within the function leads. Little-endian code alone.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import msgspec

_B, _BC, _SC, _XL = 18, 16, 17, 19
_BCLR, _BCCTR, _BCTAR = 16, 528, 560
_ALWAYS: Final = 0x14
"""Bits of BO: whatever the condition, whatever the counter."""
_FILL: Final = {0, 0x60000000, 0x60420000}
"""Zeros, `nop`, and the `nop` that aligns: ori 0,0,0; ori 2,2,0."""

TRACED: Final = frozenset({"_mcount", "ftrace_caller", "ftrace_regs_caller"})
"""Calls that ftrace makes a nop of before anything is run (arch/powerpc/kernel/trace/ftrace.c)."""
GUARD: Final = "__stack_chk_fail"
"""A way that leads here is no way of the function's own: its stack was overwritten."""


class Block(msgspec.Struct, frozen=True):
    """Offsets in the function, in bytes.

    :ivar end: behind its last instruction.
    :ivar branch: its last instruction is a conditional branch.
    :ivar target: where that leads, if to an address in its own function; None: elsewhere.
    """

    start: int
    end: int
    branch: bool = False
    target: int | None = None

    @property
    def last(self) -> int:
        return self.end - 4


class _Branch(msgspec.Struct, frozen=True):
    """:ivar conditional: may be not taken; `call`: comes back; `target`: relative to itself, None: in a register."""

    conditional: bool
    call: bool
    target: int | None


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def _branch(word: int) -> _Branch | None:
    opcode, call = word >> 26, bool(word & 1)
    sometimes = (word >> 21 & _ALWAYS) != _ALWAYS
    if opcode == _SC:
        return _Branch(conditional=False, call=True, target=None)
    if opcode == _B:
        return _Branch(conditional=False, call=call, target=_signed(word & 0x03FFFFFC, 26))
    if opcode == _BC:
        return _Branch(conditional=sometimes, call=call, target=_signed(word & 0xFFFC, 16))
    if opcode == _XL and (word >> 1 & 0x3FF) in {_BCLR, _BCCTR, _BCTAR}:
        return _Branch(conditional=sometimes, call=call, target=None)
    return None


def blocks(code: bytes, calls: Mapping[int, str]) -> list[Block]:
    """The blocks of one function, in order.

    :param code: its instructions.
    :param calls: by offset, names of other functions that a branch there leads to.
    """
    words = struct.unpack(f"<{len(code) // 4}I", code[: len(code) // 4 * 4])
    leaders, targets, ends, branches = _leaders(words, calls)
    order = sorted(leaders)
    found: list[Block] = []
    for start, end in zip(order, [*order[1:], len(words)], strict=True):
        filled = all(word in _FILL for word in words[start:end])
        if filled and (start - 1 in ends or start == 0) and start not in targets:
            continue  # nothing leads there
        while end - 1 > start and words[end - 1] == 0:
            end -= 1  # noqa: PLW2901 - what follows the last function's end
        last = end - 1
        target = branches.get(last)
        own = target * 4 if target is not None and 0 <= target < len(words) else None
        found.append(Block(start * 4, end * 4, branch=last in branches, target=own))
    return _without_guard(found, words, calls, ends)


def _leaders(
    words: tuple[int, ...], calls: Mapping[int, str]
) -> tuple[set[int], set[int], set[int], dict[int, int | None]]:
    """By index of instruction: where blocks begin, what branches lead to, what nothing follows, and the conditional
    branches with their targets.
    """
    leaders, targets, ends = {0}, set(), set()
    branches: dict[int, int | None] = {}
    for index, word in enumerate(words):
        found = _branch(word)
        name = calls.get(index * 4, "")
        if found is None or name in TRACED:
            continue
        leaders.add(index + 1)
        target = None if found.target is None or name else index + found.target // 4
        if target is not None and not found.call and 0 <= target < len(words):
            targets.add(target)
        if found.conditional and not found.call:
            branches[index] = target
        elif not found.call or name == GUARD:
            ends.add(index)
    leaders = {each for each in leaders | targets if each < len(words)}
    return leaders, targets, ends, branches


def _without_guard(found: list[Block], words: tuple[int, ...], calls: Mapping[int, str], ends: set[int]) -> list[Block]:
    """Without the blocks that only lead to the stack guard, and with their branches as if they were none."""
    guard: set[int] = {block.start for block in found if calls.get(block.last) == GUARD}
    before = -1
    while len(guard) > before:
        before = len(guard)
        for block in reversed(found):
            if block.branch or block.start in guard:
                continue
            index = block.last // 4
            follows: int | None = block.end
            if index in ends:
                jump = _branch(words[index])
                to = None if jump is None or jump.target is None or calls.get(block.last) else block.last + jump.target
                follows = to
            elif _branch(words[index]) is not None and calls.get(block.last, "") not in TRACED:
                continue  # a call
            if follows in guard:
                guard.add(block.start)
    kept = [block for block in found if block.start not in guard]
    return [
        msgspec.structs.replace(block, branch=False, target=None)
        if block.branch and (block.target in guard or block.end in guard)
        else block
        for block in kept
    ]
