"""The base class of a PCI device that is a process of the host."""

from __future__ import annotations

import errno
from collections.abc import Coroutine
from typing import Any, Protocol

from tcelab.device.vfio_user import configspace
from tcelab.device.vfio_user.configspace import Bar, ConfigSpace, Identity
from tcelab.device.vfio_user.dmamaps import DmaMaps
from tcelab.device.vfio_user.interrupts import Interrupts
from tcelab.device.vfio_user.protocol import DmaRefused, Limits, LinkLost, RequestError

__all__ = ["Bar", "PciDevice"]

REGIONS = 9
"""Six BARs, ROM, configuration space, VGA (Linux include/uapi/linux/vfio.h, VFIO_PCI_NUM_REGIONS)."""
CONFIG = 7
"""Region of the configuration space."""

_READ = 1
_WRITE = 2


class Link(Protocol):
    """What a device sees of its client."""

    async def dma_read(self, address: int, size: int) -> bytes: ...

    async def dma_write(self, address: int, data: bytes) -> None: ...

    def later(self, work: Coroutine[Any, Any, None]) -> None: ...


class PciDevice:
    """Derive from it, and say what the device is: `identity`, `bars`, `vectors` of MSI, `intx`. Then override
    `read`, `write` and `reset`. They run between a request and its reply, so they must not wait: work that does DMA is
    handed to `later`.

    :ivar maps: what the client has mapped.
    :ivar config: its configuration space.
    """

    identity = Identity(configspace.QEMU_VENDOR, 0x0001)
    bars: tuple[Bar, ...] = ()
    vectors = 0
    intx = False

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.maps = DmaMaps(self.limits)
        self.config = ConfigSpace(self.identity, self.bars, vectors=self.vectors, intx=self.intx)
        self.interrupts = Interrupts(self.vectors, intx=self.intx)
        self.link: Link | None = None
        self._sizes = {bar.index: bar.size for bar in self.bars} | {CONFIG: configspace.SIZE}
        self._asserted = False
        self.reset()

    # -- what a device is

    def read(self, bar: int, offset: int, size: int) -> bytes:  # noqa: ARG002 - a device has its own idea
        """Bytes of a BAR, within it. Registers of PCI are little endian."""
        return bytes(size)

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """Write bytes of a BAR, within it."""

    def reset(self) -> None:
        """Become as at the start: called once when the device is made, and when the client resets it. By then its
        configuration space is as at the start, and INTx is not asserted.
        """

    # -- what a device does

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this once the request at hand is answered. It ends with the client's link.

        :raise LinkLost: there is no client.
        """
        try:
            self._linked().later(work)
        except LinkLost:
            work.close()
            raise

    async def dma_read(self, address: int, size: int) -> bytes:
        """Read guest memory by messages: the client judges each of them by its own IOMMU.

        :raise DmaRefused: it refuses a part of it.
        :raise LinkLost: the client is gone or does not answer.
        """
        return await self._linked().dma_read(address, size)

    async def dma_write(self, address: int, data: bytes) -> None:
        """Write guest memory by messages. Of a transfer that is longer than one message, what came before a refusal was
        written. Raises as `dma_read`.
        """
        await self._linked().dma_write(address, data)

    def shared_read(self, address: int, size: int) -> bytes:
        """Read guest memory through the files that the client has passed: `maps` alone judges it, no IOMMU.

        :raise DmaRefused: see `DmaMaps.pieces`; ECONNREFUSED: the device may not master the bus.
        """
        self._expect_master(address, size)
        return self.maps.read(address, size)

    def shared_write(self, address: int, data: bytes) -> None:
        """Write guest memory through the files; see `shared_read`."""
        self._expect_master(address, len(data))
        self.maps.write(address, data)

    def signal(self, vector: int = 0) -> bool:
        """Signal an MSI. :return: False: the guest has not asked for it."""
        return self.interrupts.signal_msi(vector)

    def assert_intx(self, *, level: bool) -> None:
        """Set the level of INTx."""
        self._asserted = level
        self.config.pend(asserted=level)
        self._drive_intx()

    # -- what the server calls

    def region(self, index: int) -> tuple[int, int]:
        """(flags, size) of a region, (0, 0) of one that is not there. :raise RequestError: no such region."""
        if index >= REGIONS:
            raise RequestError(errno.EINVAL, f"region {index}")
        size = self._sizes.get(index, 0)
        return (_READ | _WRITE if size else 0), size

    def region_read(self, index: int, offset: int, size: int) -> bytes:
        """:raise RequestError: beyond the region."""
        self._within(index, offset, size)
        data = self.config.read(offset, size) if index == CONFIG else self.read(index, offset, size)
        if len(data) != size:
            raise RequestError(errno.EIO, f"the device has {len(data)} bytes for {size} of BAR {index}")
        return data

    def region_write(self, index: int, offset: int, data: memoryview) -> None:
        """:raise RequestError: beyond the region."""
        self._within(index, offset, len(data))
        if index == CONFIG:
            self.config.write(offset, data)
            self._drive_intx()
        else:
            self.write(index, offset, bytes(data))

    def region_reset(self) -> None:
        self.config.reset()
        self.assert_intx(level=False)
        self.reset()

    def unlink(self) -> None:
        """The client is gone: all that it passed is let go, and the device's own state stays."""
        self.link = None
        self.maps.close()
        self.interrupts.close()

    def _within(self, index: int, offset: int, size: int) -> None:
        if not size or offset + size > self._sizes.get(index, 0):
            raise RequestError(errno.EINVAL, f"{size} bytes at {offset:#x} of region {index}")

    def _drive_intx(self) -> None:
        disabled = bool(self.config.command & configspace.INTX_OFF)
        self.interrupts.set_level(level=self._asserted, disabled=disabled)

    def _linked(self) -> Link:
        if self.link is None:
            raise LinkLost("the device has no client")
        return self.link

    def _expect_master(self, address: int, size: int) -> None:
        if not self.config.command & configspace.MASTER:
            raise DmaRefused(errno.ECONNREFUSED, address, size)
