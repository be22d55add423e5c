"""A device in flight over an event: what its transfer must do, and may not.

The device translates when its transfer ends, and so by the tables as the event has left them by then. Sources: QEMU
hw/misc/edu.c (edu_dma_timer; pci_edu_uninit stops the timer; no state is saved), hw/pci/pci.c (a reset clears the
command register); Linux drivers/pci/pci-driver.c (pci_device_shutdown: a kexec clears bus mastering, a crash does not).
"""

from __future__ import annotations

from typing import NamedTuple

from tcelab.papr import dmarules
from tcelab.program import Flight


class Target(NamedTuple):
    """Where a piece goes, by the entry that was there when the transfer ended. `frame`: None if nobody knows."""

    piece: dmarules.Piece
    liobn: int
    frame: int | None


class FlightModel(NamedTuple):
    """One transfer.

    :ivar liobn: of its PE's default window.
    :ivar reached: its device could be told. `never`: why it is never done, in words; empty: it is.
    :ivar targets: its pieces. `data`: what the device writes; None: nobody knows.
    """

    flight: Flight
    liobn: int
    reached: bool
    never: str = ""
    targets: tuple[Target, ...] = ()
    data: bytes | None = None
