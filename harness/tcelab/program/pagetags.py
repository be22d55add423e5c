"""The tags in guest memory, computed by the same code on host and guest (`tceagent.tag`).

A tag names one page of one mapping and fills the whole page, so that any stray byte in it shows. The host finds it in
guest RAM at the address that a TCE leads to, which proves the frame without trusting the guest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from tceagent.tag import FIELDS, MAGIC, SIZE, tag
from tceagent.tag import data as _data

__all__ = ["PAGE", "SIZE", "compact", "contrast", "data", "describe", "expand", "tag"]

PAGE: Final = 4096

data = lru_cache(maxsize=512)(_data)
"""`tceagent.tag.data`, cached: the same data is compared at each checkpoint."""


def describe(pattern: bytes) -> str:
    """What a page's first 64 bytes are, for a finding's text."""
    if not any(pattern):
        return "zeros"
    if len(pattern) < SIZE or not pattern.startswith(MAGIC):
        return pattern[:32].hex() + "..."
    _, nonce, liobn, ioba, sequence = FIELDS.unpack_from(pattern)
    return f"tag of LIOBN {liobn:#x}, IOBA {ioba:#x}, sequence {sequence}, nonce {nonce.hex()[:8]}"


def contrast(expected: bytes | None, seen: bytes | None) -> tuple[str, str]:
    """Two different pages as two different texts: what they are, or their bytes where they first differ.

    :param expected: whole or `compact`ed, as is `seen`; None: nothing in particular.
    :param seen: None: there is no RAM.
    """
    if seen is None or expected is None:
        return "a page of guest RAM" if expected is None else describe(expected), (
            "no RAM at that address" if seen is None else describe(seen)
        )
    one, other = expand(expected), expand(seen)
    differing = [i for i in range(PAGE) if one[i] != other[i]]
    at = differing[0] if differing else 0
    texts = [f"{side[at : at + _SHOWN].hex()} at byte {at:#x}" for side in (one, other)]
    texts[1] += f" ({'1 byte differs' if len(differing) == 1 else f'{len(differing)} bytes differ'})"
    if len(expected) == len(seen) == SIZE and describe(expected) != describe(seen):
        sides = zip((expected, seen), texts, strict=True)
        texts = [describe(side) if _has_name(side) else text for side, text in sides]
    return texts[0], texts[1]


_SHOWN: Final = 16
"""Bytes shown from the first difference on."""


def _has_name(pattern: bytes) -> bool:
    """Is it a tag, or zeros?"""
    return not any(pattern) or pattern.startswith(MAGIC)


def compact(page: bytes) -> bytes:
    """A page that repeats its first 64 bytes as those 64 bytes, any other page as it is."""
    head = page[:SIZE]
    return head if head * (len(page) // SIZE) == page else page


def expand(page: bytes) -> bytes:
    """Undo `compact`."""
    return page * (PAGE // SIZE) if len(page) == SIZE else page
