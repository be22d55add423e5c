"""The contents of a virtio-blk device's disk when a session begins: known data, no two words of it equal."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Final

SIZE: Final = 1 << 20
"""Bytes."""
SIZES: Final = {"virtio-blk": SIZE, "disk": 64 * SIZE}
"""Size of a device's disk in bytes, by the device's model."""
_GOLDEN: Final = 0x9E3779B97F4A7C15


@cache
def fresh(name: str) -> bytes:
    """`SIZE` bytes that depend on the device's name: no two of the 8-byte words are equal, and no byte is zero."""
    import numpy as np  # noqa: PLC0415 - whoever only asks for the size does not wait for it

    # splitmix64 over the words.
    with np.errstate(over="ignore"):
        words = (np.arange(1, SIZE // 8 + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)) * _GOLDEN
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    words ^= words >> np.uint64(31)
    return (words | np.uint64(0x0101010101010101)).astype("<u8").tobytes()
