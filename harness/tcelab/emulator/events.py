"""Events of a driver's container that a state may wait for."""

from __future__ import annotations

from typing import Final

ATTACHED: Final = "attached"
ENABLED: Final = "enabled"
"""Events of a driver's container that a state may wait for."""
