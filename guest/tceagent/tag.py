"""Marks in guest memory: tags that name a page of a mapping, and unique data for devices' transfers."""

from __future__ import annotations

import struct

MAGIC = b"TCELABTG"
SIZE = 64
FIELDS = struct.Struct("<8s16sQQQ")
_MASK = 0xFFFFFFFFFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15


def tag(nonce: bytes, liobn: int, ioba: int, sequence: int) -> bytes:
    """64 bytes: magic, nonce (16 bytes), LIOBN, IOBA and sequence (u64, little-endian), zeros."""
    return FIELDS.pack(MAGIC, nonce, liobn, ioba, sequence).ljust(SIZE, b"\0")


def data(nonce: bytes, seed: int, size: int) -> bytes:
    """Bytes that differ in every 8-byte word, between seeds and between nonces; none of them is zero."""
    # Steps of one odd number from a start that is mixed (splitmix64): cheap in a guest, and no hash module to load.
    words = -(-size // 8)
    start = ((int.from_bytes(nonce[:8], "little") ^ (seed * _GOLDEN)) + _GOLDEN) & _MASK
    start = ((start ^ (start >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    start = ((start ^ (start >> 27)) * 0x94D049BB133111EB) & _MASK
    start ^= start >> 31
    steps = range(start, start + words * _GOLDEN, _GOLDEN)
    return struct.pack(f"<{words}Q", *[step & _MASK | 0x0101010101010101 for step in steps])[:size]
