"""A program that the agent started, and that goes on."""

from __future__ import annotations

import posix


class Process:
    """:ivar status: as waitpid gives it, once it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def ended(self) -> bool:
        if self.status is None:
            pid, status = posix.waitpid(self.pid, posix.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None
