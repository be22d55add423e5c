"""Points of an operation at which the guest stood still, between two hypercalls, and devices reached for memory."""

from __future__ import annotations

from typing import Final

import msgspec

MOST_PAGES: Final = 64
"""Pages of an operation that is raced; at each point, each of them is reached for."""


class Change(msgspec.Struct, frozen=True, array_like=True):
    """Entries that QEMU says were stored: `count` of them, from a bus address on, each with the same TCE."""

    ioba: int
    tce: int
    count: int = 1


class Reach(msgspec.Struct, frozen=True, array_like=True):
    """What became of a device's transfers, one in each direction for each page.

    :ivar read: errno of QEMU's answer to a read of each page, 0: the device has got its bytes; `written`: likewise.
    :ivar astray: numbers of pages of which it got other bytes than are where the entry leads, or in which it wrote
        nothing although it was let.
    """

    device: str
    read: list[int]
    written: list[int]
    astray: list[int] = []


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One point.

    :ivar call: name of the hypercall before or after which it lies; empty: before or after the whole operation.
    :ivar done: it lies after it.
    :ivar ioba: the hypercall's bus address.
    :ivar changes: what QEMU says was stored since the point before, by its trace.
    :ivar table: TCE of each page in QEMU's memory; 0 outside the window.
    :ivar refused: page and direction (true: to memory) of each transfer that QEMU's log says was refused.
    :ivar spoilt: numbers of pages whose memory, which no entry led to, was changed.
    """

    call: str
    done: bool
    ioba: int
    changes: list[Change]
    table: list[int]
    reaches: list[Reach]
    refused: list[tuple[int, bool]]
    spoilt: list[int] = []


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """All points of one operation, in order.

    :ivar liobn: of the window that it is about.
    :ivar first: bus address of the first page that is reached for, the one before those that the operation is about.
    """

    liobn: int
    first: int
    points: list[Point]
