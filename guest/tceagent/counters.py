"""Numbers in the files of /proc."""

from __future__ import annotations


def number_after(text: bytes, name: bytes) -> int:
    """The number that follows a name at the beginning of a line of a /proc file."""
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(f"no {name.decode()} in /proc: this kernel does not count it")
