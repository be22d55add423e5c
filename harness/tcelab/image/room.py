"""How much room booted guests that are kept for forks may take."""

from __future__ import annotations

import os
from typing import Final

from tcelab import userconfig
from tcelab.errors import UsageError

DAYS: Final = 7
"""How long a base is kept after its last use."""
ROOM: Final = 8_000_000_000
"""Bytes that all bases may take (some 130 MB each), unless the environment or the user's config says otherwise."""
CACHE_SIZE: Final = "TCELAB_CACHE_SIZE"
"""Environment variable that says it; `--cache-size` sets it for its process."""


def room() -> int:
    """Bytes that all bases may take.

    :raise UsageError: the environment, or the user's config, holds no valid size.
    """
    said = userconfig.load().cache_size
    text = os.environ.get(CACHE_SIZE)
    try:
        return userconfig.size(text) if text else ROOM if said is None else said
    except ValueError as error:
        raise UsageError(f"{CACHE_SIZE}: {error}") from None
