"""The marks that tcelab leaves in guest memory, computed by one code on both sides (`tceagent.tag`).

A tag names one page of one mapping and fills the whole page, so that any stray byte in it shows. It is found by
the host in guest RAM at the address that a TCE leads to: proof of the frame that does not trust the guest.
"""

from __future__ import annotations

from typing import Final

from tceagent.tag import FIELDS, MAGIC, SIZE, data, tag

__all__ = ["PAGE", "SIZE", "compact", "data", "describe", "expand", "tag"]

PAGE: Final = 4096


def describe(pattern: bytes) -> str:
    """What a page's first 64 bytes are, for a finding's text."""
    if not any(pattern):
        return "zeros"
    if len(pattern) < SIZE or not pattern.startswith(MAGIC):
        return pattern[:32].hex() + "..."
    _, nonce, liobn, ioba, sequence = FIELDS.unpack_from(pattern)
    return f"tag of LIOBN {liobn:#x}, IOBA {ioba:#x}, sequence {sequence}, nonce {nonce.hex()[:8]}"


def compact(page: bytes) -> bytes:
    """A page that repeats its first 64 bytes as those 64 bytes, any other page as it is."""
    head = page[:SIZE]
    return head if head * (len(page) // SIZE) == page else page


def expand(page: bytes) -> bytes:
    """Undo `compact`."""
    return page * (PAGE // SIZE) if len(page) == SIZE else page
