"""Classes of transfers by their length: what is counted of doorbells."""

from __future__ import annotations

from typing import Final

from tcelab.papr import window

BYTE, WITHIN, ACROSS, LONG, LONGEST = "1 byte", "within a page", "across pages", "64 KiB", "1 MiB"
LENGTHS: Final = (BYTE, WITHIN, ACROSS, LONG, LONGEST)
"""In their order."""

_LONG: Final = 64 << 10
_LONGEST: Final = 1 << 20


def length_of(iova: int, size: int) -> str:
    """The class of a transfer: the longest that it is as long as."""
    if size >= _LONGEST:
        return LONGEST
    if size >= _LONG:
        return LONG
    if iova % window.PAGE_SIZE + size > window.PAGE_SIZE:
        return ACROSS
    return BYTE if size == 1 else WITHIN
