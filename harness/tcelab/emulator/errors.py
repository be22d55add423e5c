"""What the emulator cannot answer."""

from __future__ import annotations


class NotModelledError(Exception):
    """The emulator does not know what a kernel does there, and does not guess."""
