"""What no program asks for, since a kernel that lets it through hands it to what tcelab runs on and does not test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MOST_ENTRIES: Final = 1 << 24
"""Of a window that is asked for: 64 GiB in pages of 4 KiB, a table of 128 MiB."""


def window(fields: Mapping[str, object]) -> str:
    """Why a struct may not be passed on; empty if it may. Only that of a window to be made has these fields."""
    size, shift = (fields.get(name, 0) for name in ("window_size", "page_shift"))
    return entries(size >> shift) if isinstance(size, int) and isinstance(shift, int) else ""


def entries(count: int) -> str:
    """The same of a window's entries."""
    return f"a window of {count} entries; at most {MOST_ENTRIES} are asked for" if count > MOST_ENTRIES else ""
