"""The errors of the emulator's parts."""

from __future__ import annotations

import errno


class NotModelledError(Exception):
    """The emulator has no rule for what a kernel does there, and does not guess."""


class KernelDiedError(Exception):
    """BUG, or an oops: this kernel does not go on."""


class SyscallError(Exception):
    """A system call returns an errno, by its name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def os_error(self) -> OSError:
        return OSError(getattr(errno, self.name), self.name)
