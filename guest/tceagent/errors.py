"""Errors by the names that the kernel gives them."""

from __future__ import annotations

import errno


def errno_name(number: int) -> str:
    return errno.errorcode.get(number, f"errno {number}")


class RefusedError(Exception):
    """The kernel refused a step of an operation: the operation's outcome is that errno, by name."""

    def __init__(self, cause: OSError | str) -> None:
        self.errno = cause if isinstance(cause, str) else errno_name(cause.errno or 0)
        super().__init__(f"{self.errno}: {cause}")
