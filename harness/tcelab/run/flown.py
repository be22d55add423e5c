"""What came of a device in flight over an event, as the event's outcome tells it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from tcelab.papr import window
from tcelab.program import pagetags


class FlownPage(msgspec.Struct, frozen=True):
    """4 KiB of guest RAM to which an entry led when a transfer was started that an event met in flight.

    :ivar ioba: its bus address; `address`: in guest RAM.
    :ivar before: what it held until then, `tag.compact`ed, in hex; empty: it is no RAM.
    :ivar changed: runs of bytes that differ afterwards: offset in the page, and what is there, in hex.
    """

    ioba: int
    address: int
    before: str = ""
    changed: list[tuple[int, str]] = []


class Flown(msgspec.Struct, frozen=True):
    """What came of a device in flight over an event: `flight` in the fields of the event's outcome.

    :ivar started: the device took the transfer.
    :ivar refused: accesses that QEMU refused of it: address, as of a `Refusal`, and bytes.
    :ivar pages: to which the tables led when it was started.
    """

    started: bool
    refused: list[tuple[int, int]] = []
    pages: list[FlownPage] = []

    def fields(self) -> dict[str, Any]:
        """As the fields of an outcome have it."""
        return msgspec.convert(msgspec.to_builtins(self), dict[str, Any])


def flown_page(ioba: int, address: int, before: bytes | None, after: bytes | None) -> FlownPage:
    """One page, by what it held before and holds after, `tag.compact`ed; None: it is no RAM."""
    if before is None or after is None:
        return FlownPage(ioba, address)
    return FlownPage(ioba, address, before.hex(), list(_runs(pagetags.expand(before), pagetags.expand(after))))


def _runs(one: bytes, other: bytes) -> Iterator[tuple[int, str]]:
    """Where two pages differ, and what the other holds there."""
    begin = None
    for at in range(window.PAGE_SIZE + 1):
        differs = at < window.PAGE_SIZE and one[at] != other[at]
        if differs and begin is None:
            begin = at
        elif not differs and begin is not None:
            yield begin, other[begin:at].hex()
            begin = None
