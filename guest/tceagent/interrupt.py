"""An MSI of a device that VFIO drives, as an eventfd (Linux include/uapi/linux/vfio.h, VFIO_DEVICE_SET_IRQS)."""

from __future__ import annotations

import posix
import struct
import sys

from tceagent import uapi
from tceagent.errors import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Optional

    Ioctl = Callable[[int, int, bytes], "tuple[Optional[int], str, bytes]"]

NONE, EVENTFD, TRIGGER = 1 << 0, 1 << 2, 1 << 5
"""Flags: without data, data are eventfds, and what they are for."""
MSI = 1
"""Index of the interrupt (VFIO_PCI_MSI_IRQ_INDEX)."""
_COUNTER = 8


class Interrupt:
    """The first MSI of a device, from now on until it is closed."""

    def __init__(self, ioctl: Ioctl, device: int) -> None:
        """:param ioctl: see `tceagent.seam.Kernel.ioctl`.

        :raise RefusedError: the kernel gives none.
        """
        if not hasattr(posix, "eventfd"):
            raise RefusedError("ENOSYS")  # Python 3.9
        self._ioctl, self._device = ioctl, device
        self._event: int = posix.eventfd(0, posix.EFD_CLOEXEC | posix.EFD_NONBLOCK)
        self._take_away()  # one that was kept may have been lost in a reset
        try:
            self._set(EVENTFD | TRIGGER, self._event)
        except RefusedError:
            posix.close(self._event)
            raise

    def _set(self, flags: int, *descriptors: int) -> None:
        layout = uapi.LAYOUTS["DEVICE_SET_IRQS"]
        values = {"argsz": layout.size + 4 * len(descriptors), "flags": flags, "index": MSI, "count": len(descriptors)}
        raw = layout.pack(values) + struct.pack(f"={len(descriptors)}i", *descriptors)
        _, refusal, _ = self._ioctl(self._device, uapi.NUMBERS["DEVICE_SET_IRQS"], raw)
        if refusal:
            raise RefusedError(refusal)

    def wait(self, seconds: float) -> int:
        """Wait until it has come, for so long at most. How many times it came since the last call."""
        import select  # noqa: PLC0415  hardly ever needed

        poller = select.poll()
        poller.register(self._event, select.POLLIN)
        if not poller.poll(seconds * 1000):
            return 0
        return int.from_bytes(posix.read(self._event, _COUNTER), sys.byteorder)

    def close(self, *, keep: bool) -> None:
        """:param keep: the device keeps its MSI. Taking it away rewrites the command register (drivers/pci/msi,
        pci_intx_for_msi), and of a device whose PE is isolated, bus mastering would be forgotten.
        """
        if not keep:
            self._take_away()
        posix.close(self._event)

    def _take_away(self) -> None:
        try:  # noqa: SIM105 - contextlib is slow to import under TCG
            self._set(NONE | TRIGGER)
        except RefusedError:
            pass  # it has none
