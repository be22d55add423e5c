"""What no program may ask for: a kernel that lets it through passes it on to what tcelab runs on and does not test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MOST_ENTRIES: Final = 1 << 24
"""Entries of a requested window: 64 GiB in pages of 4 KiB, a table of 128 MiB."""


def window(fields: Mapping[str, object]) -> str:
    """Why a struct may not be passed on; empty if it may. Only the struct that creates a window has these fields."""
    size, shift = (fields.get(name, 0) for name in ("window_size", "page_shift"))
    return entries(size >> shift) if isinstance(size, int) and isinstance(shift, int) else ""


def entries(count: int) -> str:
    """Why a window of so many entries may not be requested; empty if it may."""
    return f"a window of {count} entries; at most {MOST_ENTRIES} are asked for" if count > MOST_ENTRIES else ""
