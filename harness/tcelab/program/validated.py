"""What the operations before have made, as far as validation follows it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Process:
    """:ivar bound: devices whose group it knows. `root`: it may do what only root may."""

    files: set[str] = field(default_factory=set)
    bound: set[str] = field(default_factory=set)
    root: bool = True


@dataclass(slots=True)
class BufferState:
    """:ivar ring: it holds a device's queue."""

    pages: int
    process: str
    access: str = "write"
    ring: bool = False


def who(process: str) -> str:
    """A process in a message."""
    return f"process {process!r}" if process else "the agent itself"
