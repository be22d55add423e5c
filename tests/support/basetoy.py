"""Bases of forks with RAM of three chunks, and the hash of RAM as its description has it."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager

from fake_session import SHAPE

from tcelab.image import bases

KEY = "0123456789abcdef"
SMALL = {"state": b"the devices' state", "console": b"Linux version 6.12\n"}
FACTS = {
    "about": {"kernel": "6.12 64K"},
    "built": "2030-01-02T03:04:05+00:00",
    "boot": 1.5,
    "registers": [{"buid": 0x800000020000001, "slot": 1, "offset": 4, "size": 2, "value": 6}],
    "windows": {0x80000101: list(SHAPE)},
    "trial": "",
    "conduct": {"calls": {"H_STUFF_TCE": 8}},
}
CHUNK = 64 << 10


@contextmanager
def memory(size, *pieces):
    """RAM of a guest: a descriptor of an anonymous file of that size with these (offset, bytes) written."""
    descriptor = os.memfd_create("test-ram")
    for offset, data in pieces:
        os.pwrite(descriptor, data, offset)
    os.ftruncate(descriptor, size)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def by_the_book(content):
    """The hash of RAM as its description has it, of the whole content."""
    total = hashlib.sha256(len(content).to_bytes(8, "big"))
    for at in range(0, len(content), CHUNK):
        if any(chunk := content[at : at + CHUNK]):
            total.update(at.to_bytes(8, "big") + chunk)
    return total.hexdigest()


def store(key=KEY, ram=b"RAM", **changes):
    with memory(3 * CHUNK + 100, (CHUNK + 5, ram)) as descriptor:
        bases.store(key, descriptor, SMALL, FACTS | changes)
    return bases.cache_dir() / "bases" / key
