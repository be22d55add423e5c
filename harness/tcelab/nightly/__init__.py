"""A night: many cells, each a command of its own, on all cores."""
