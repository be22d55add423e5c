"""A hypercall by a process itself, from problem state: machine code, for a 64-bit PowerPC.

Source: Power ISA, book I, 3.3 (addis, ori, oris, rldicr) and 2.4 (bclr), book III, 4.3.1 (sc with LEV 1).
"""

from __future__ import annotations

from struct import pack

_FIRST = 3
"""Register of the opcode, and afterwards of the status; the arguments follow."""
SC_1 = 0x44000022
"""The instruction that is a hypercall."""
_BLR = 0x4E800020


def code(opcode: int, args: list[int]) -> bytes:
    """A function without arguments that makes the hypercall and returns its status, in native byte order."""
    words: list[int] = []
    for register, value in enumerate([opcode, *args], _FIRST):
        words += _load(register, value)
    words += [SC_1, _BLR]
    return pack(f"={len(words)}I", *words)


def _load(register: int, value: int) -> list[int]:
    """lis, ori, a shift left by 32 (rldicr), oris, ori."""
    target = register << 21
    same = target | register << 16
    high, middle, low, last = (value >> shift & 0xFFFF for shift in (48, 32, 16, 0))
    return [
        0x3C000000 | target | high,
        0x60000000 | same | middle,
        0x780007C6 | same,
        0x64000000 | same | low,
        0x60000000 | same | last,
    ]
