"""What the kernel says, by itself (Documentation/ABI/testing/dev-kmsg)."""

from __future__ import annotations

import posix

_RECORD = 8192
_FACILITIES = 8
"""A record's first number is its level plus eight times its facility, and the kernel's own is 0."""


def begin() -> int:
    """A descriptor of its log from now on, -1: this process may not read it."""
    try:
        log = posix.open("/dev/kmsg", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
        posix.lseek(log, 0, 2)  # SEEK_END
    except OSError:
        return -1
    return log


def lines(log: int) -> list[str]:
    """What it has said since the last call."""
    out = []
    while log >= 0:
        try:
            record = posix.read(log, _RECORD)
        except BrokenPipeError:  # some were overwritten
            continue
        except OSError:  # EAGAIN: there are no more
            break
        head, _, text = record.decode("utf-8", "replace").partition(";")
        if int(head.split(",")[0]) < _FACILITIES:
            out.append(text.split("\n")[0])
    return out
