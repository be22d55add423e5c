"""How long tests wait for what must come. None measures how fast it does: the machine may be somebody else's too."""

PATIENCE = 600.0
"""Seconds, after which what is waited for will not come."""
SOON = 60.0
"""Less than that: nobody waited for `PATIENCE`."""
