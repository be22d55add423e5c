"""Tells a guard what a probe does, and what was refused of it: by the answers to its own messages, not by QEMU's log.

A probe asks QEMU for each page of a transfer, and QEMU answers with an errno what its table refuses. So the guard knows
at once which device it was, and the probe's next page waits until its PE is isolated. QEMU's log tells of the same
access, but not whose it was; there it is left alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tcelab.device.probe import Piece
from tcelab.qemu.guardeddevice import Flight, GuardedDevice

if TYPE_CHECKING:
    from tcelab.qemu.freeze import PeFreezer


class ProbeWatch:
    """Of one probe; see `tcelab.device.probe.Watcher`."""

    def __init__(self, guard: PeFreezer, device: GuardedDevice) -> None:
        self._guard, self._device = guard, device

    def began(self, address: int, size: int, *, to_memory: bool) -> None:
        """Whatever QEMU's log tells of it from now on is known to be this probe's."""
        self._guard.began(self._device, _flight(address, size, to_memory=to_memory))

    async def refused(self, address: int, size: int, piece: Piece, *, to_memory: bool) -> None:
        """Decide, off the loop, which must not wait for the log; and wait until what follows is done."""
        flight = _flight(address, size, to_memory=to_memory)
        pending = await asyncio.to_thread(self._guard.answered, self._device, flight, piece.address)
        # Who settles next waits for them as well, and is told of what failed.
        await asyncio.gather(*map(asyncio.wrap_future, pending), return_exceptions=True)


def _flight(address: int, size: int, *, to_memory: bool) -> Flight:
    return Flight("write" if to_memory else "read", address, size)
