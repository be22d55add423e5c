"""Interrupts of a device: INTx, a level, and MSI, events; both are signalled by writing an event descriptor.

INTx is automasked: once it was signalled, nothing is signalled until the client unmasks it, and then again if the level
is still there (Linux include/uapi/linux/vfio.h, VFIO_IRQ_INFO_AUTOMASKED; drivers/vfio/pci/vfio_pci_intrs.c). A server
that signals an interrupt of which the level is gone, or signals one again that is masked, makes the guest storm.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tcelab.device.vfio_user.protocol import IRQ_ACTIONS, IRQ_DATA, IrqFlag, RequestError

INTX: Final = 0
MSI: Final = 1
INDEXES: Final = 5
"""INTx, MSI, MSI-X, error, request (Linux include/uapi/linux/vfio.h, VFIO_PCI_NUM_IRQS)."""

_EVENTFD: Final = 1
_MASKABLE: Final = 2
_AUTOMASKED: Final = 4
_NORESIZE: Final = 8

_EVENTFD_LINK: Final = "anon_inode:[eventfd]"
_ALL: Final = int(IRQ_DATA | IRQ_ACTIONS)
_ONE: Final = (1).to_bytes(8, "little")


class Interrupts:
    """:ivar level: of INTx, as the device wants it.

    :ivar masked: INTx is, by the client or because it was signalled.
    :ivar signalled: how often an event descriptor was written, by index.
    """

    def __init__(self, vectors: int, *, intx: bool) -> None:
        self._counts = {INTX: int(intx), MSI: vectors}
        self._fds: dict[tuple[int, int], int] = {}
        self.level = False
        self.disabled = False
        self.masked = False
        self.signalled = {INTX: 0, MSI: 0}

    def info(self, index: int) -> tuple[int, int]:
        """(flags, number of interrupts) of a kind. :raise RequestError: no such kind of interrupt."""
        if index >= INDEXES:
            raise RequestError(errno.EINVAL, f"interrupt index {index}")
        count = self._counts.get(index, 0)
        flags = {INTX: _EVENTFD | _MASKABLE | _AUTOMASKED, MSI: _EVENTFD | _NORESIZE}.get(index, _EVENTFD)
        return flags, count

    def set(  # noqa: PLR0917 - the message has as many fields
        self, flags: int, index: int, start: int, count: int, data: bytes, fds: Sequence[int]
    ) -> None:
        """SET_IRQS. Descriptors that are kept are duplicated: the caller closes its own.

        :raise RequestError: it asks for what there is not.
        """
        kind, action = flags & IRQ_DATA, flags & IRQ_ACTIONS
        if flags & ~_ALL or kind.bit_count() != 1 or action.bit_count() != 1:
            raise RequestError(errno.EINVAL, f"interrupt flags {flags:#x}")
        _, have = self.info(index)
        if start + count > have:
            raise RequestError(
                errno.EINVAL, f"interrupts {start} to {start + count} of index {index}, which has {have}"
            )
        if len(data) != (count if kind == IrqFlag.BOOL else 0) or (fds and kind != IrqFlag.EVENTFD):
            raise RequestError(errno.EINVAL, f"{len(data)} bytes and {len(fds)} descriptors for {count} interrupts")
        if action == IrqFlag.TRIGGER and kind == IrqFlag.EVENTFD:
            self._connect(index, start, count, fds)
        elif action == IrqFlag.TRIGGER and kind == IrqFlag.NONE and not count:
            self._disconnect(index)
        elif kind == IrqFlag.EVENTFD:
            raise RequestError(errno.ENOTSUP, "nobody signals that an interrupt was masked")
        else:
            chosen = [start + i for i in range(count) if kind == IrqFlag.NONE or data[i]]
            self._act(action, index, chosen)

    def _connect(self, index: int, start: int, count: int, fds: Sequence[int]) -> None:
        if fds and len(fds) != count:
            raise RequestError(errno.EINVAL, f"{len(fds)} descriptors for {count} interrupts")
        for fd in fds:
            if str(Path(f"/proc/self/fd/{fd}").readlink()) != _EVENTFD_LINK:
                raise RequestError(errno.EINVAL, "a descriptor for an interrupt is no eventfd")
        for i in range(count):
            self._close((index, start + i))
        for i, fd in enumerate(fds):
            own = self._fds[index, start + i] = os.dup(fd)
            os.set_blocking(own, False)
        if index == INTX:
            self.masked = False
            self._assert()

    def _disconnect(self, index: int) -> None:
        for key in [key for key in self._fds if key[0] == index]:
            self._close(key)
        if index == INTX:
            self.masked = False

    def _close(self, key: tuple[int, int]) -> None:
        if (fd := self._fds.pop(key, None)) is not None:
            os.close(fd)

    def _act(self, action: int, index: int, chosen: list[int]) -> None:
        if action == IrqFlag.TRIGGER:
            for vector in chosen:
                self._signal(index, vector)
        elif index != INTX:
            raise RequestError(errno.ENOTSUP, f"interrupts of index {index} cannot be masked")
        elif chosen:
            self.masked = action == IrqFlag.MASK
            self._assert()

    # -- the device's

    def set_level(self, *, level: bool, disabled: bool) -> None:
        """INTx: whether the device asserts it, and whether its command register keeps it from the bus."""
        self.level, self.disabled = level, disabled
        self._assert()

    def _assert(self) -> None:
        if self.level and not self.disabled and not self.masked and self._signal(INTX, 0):
            self.masked = True

    def signal_msi(self, vector: int) -> bool:
        """:return: False: the guest has not asked for that vector."""
        return self._signal(MSI, vector)

    def _signal(self, index: int, vector: int) -> bool:
        fd = self._fds.get((index, vector))
        if fd is None:
            return False
        with contextlib.suppress(BlockingIOError):  # it counts up to 2^64 - 2: the client sleeps, and will see it
            os.write(fd, _ONE)
        self.signalled[index] += 1
        return True

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        self.level = self.masked = self.disabled = False
