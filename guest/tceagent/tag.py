"""Marks in guest memory: tags that name a page of a mapping, and unique data for devices' transfers."""

from __future__ import annotations

import struct

MAGIC = b"TCELABTG"
SIZE = 64
FIELDS = struct.Struct("<8s16sQQQ")
_MASK = 0xFFFFFFFFFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15
_known = [b""]
"""The longest row so far."""


def tag(nonce: bytes, liobn: int, ioba: int, sequence: int) -> bytes:
    """64 bytes: magic, nonce (16 bytes), LIOBN, IOBA and sequence (u64, little-endian), zeros."""
    return FIELDS.pack(MAGIC, nonce, liobn, ioba, sequence).ljust(SIZE, b"\0")


def data(nonce: bytes, seed: int, size: int) -> bytes:
    """Bytes that differ in every 8-byte word, between seeds and between nonces; none of them is zero."""
    # One row of multiples of an odd number for all, and one mixed word (splitmix64) for each call: integers as long as
    # the data, so that no code runs word by word in a guest, and no hash module is loaded.
    words = -(-size // 8)
    word = ((int.from_bytes(nonce[:8], "little") ^ (seed * _GOLDEN)) + _GOLDEN) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    word ^= word >> 31
    row = int.from_bytes(_multiples(words), "little") ^ int.from_bytes(word.to_bytes(8, "little") * words, "little")
    return (row | int.from_bytes(b"\1" * 8 * words, "little")).to_bytes(8 * words, "little")[:size]


def _multiples(words: int) -> bytes:
    """The first so many multiples of `_GOLDEN`, 8 bytes each: no two are the same."""
    row = _known[0]
    if words > len(row) // 8:
        row = struct.pack(f"<{words}Q", *[each & _MASK for each in range(0, words * _GOLDEN, _GOLDEN)])
        _known[0] = row  # at once: emulated guests are threads of one process
    return row[: 8 * words]
