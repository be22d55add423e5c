"""Entries of a table that expose any fault of its address decoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

CHUNK: Final = 1024
"""Entries of 4 MiB of a window whose pages have 4 KiB; their TCEs fill two pages of memory."""


def codes(entries: int) -> list[tuple[int, int]]:
    """Pairs of entry numbers, one the complement of the other. If any single bit is lost, stuck, inverted or swapped
    with another, some number becomes another one of the set: number b has the bits whose position, counted from 1, has
    bit b set.

    :param entries: of the table: a power of two.
    """
    bits = (entries - 1).bit_length()
    numbers = (sum(1 << k for k in range(bits) if k + 1 >> b & 1) for b in range(bits.bit_length()))
    return [(number, number ^ (1 << bits) - 1) for number in numbers]


def everywhere(entries: int) -> list[int]:
    """Numbers of entries all over a table, ascending: those of `codes`, each 2^k with its neighbour and its complement,
    the first and the last one, and the first and the last one of each `CHUNK`.

    :param entries: of the table: a power of two.
    """
    return sorted({0, entries - 1, *_powers(entries), *_edges(entries), *(n for pair in codes(entries) for n in pair)})


def _powers(entries: int) -> Iterator[int]:
    for bit in range((entries - 1).bit_length()):
        yield from (1 << bit, (1 << bit) - 1, entries - 1 ^ 1 << bit)


def _edges(entries: int) -> Iterator[int]:
    for number in range(CHUNK, entries, CHUNK):
        yield from (number - 1, number)
