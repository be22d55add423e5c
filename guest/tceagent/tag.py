"""Marks in guest memory: tags that name a page of a mapping, and unique data for devices to carry."""

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
    # splitmix64 over the words rather than a hash module, so that the agent starts fast.
    state = (int.from_bytes(nonce[:8], "little") ^ (seed * _GOLDEN)) & _MASK
    out = bytearray()
    while len(out) < size:
        state = (state + _GOLDEN) & _MASK
        word = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
        word ^= word >> 31
        out += (word | 0x0101010101010101).to_bytes(8, "little")
    return bytes(out[:size])
