"""How long the queues of the agent's virtio-serial are: a kernel keeps a page for each entry, also a crash kernel.

QEMU 10.0.13 has queues of 1,024 entries, 7.2.22 and 11.1.3 of 32 and 128. With pages of 64 KiB, a crash kernel of
192 MiB dies of the former before it starts its first process.

Sources: QEMU hw/char/virtio-serial-bus.c (virtio_serial_device_realize), QMP x-query-virtio-queue-status; Linux
drivers/char/virtio_console.c (fill_queue).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, Protocol

from tcelab.errors import HarnessError

_CONTROL: Final = 2
"""The number of the queue in which the device tells of its ports."""
_FILLED: Final = 3
"""Queues that are filled at boot, or when a port is opened: of control, of the agent, of the kernel's driver."""
_SHARE: Final = 2
"""They may take this part of a crash kernel's memory."""


class _Asked(Protocol):
    async def qmp(self, command: str, **arguments: object) -> object:
        """See `tcelab.qemu.guest.Guest.qmp`."""
        raise NotImplementedError


async def length(guest: _Asked) -> int:
    """Entries of the queue of control; 0: this QEMU does not tell."""
    with suppress(HarnessError):
        devices = await guest.qmp("x-query-virtio")
        for device in devices if isinstance(devices, list) else ():
            if device["name"] == "virtio-serial":
                told = await guest.qmp("x-query-virtio-queue-status", path=device["path"], queue=_CONTROL)
                return int(told["vring-num"]) if isinstance(told, dict) else 0
    return 0


def too_long(entries: int, page_size: int, crashkernel: int) -> str:
    """Why a crash kernel has no memory for them; empty if it has.

    :param entries: see `length`; `page_size`: the kernel's, in bytes.
    :param crashkernel: MiB that are kept for it.
    """
    needed = entries * page_size * _FILLED >> 20
    if needed * _SHARE <= crashkernel:
        return ""
    return (
        f"this QEMU's virtio-serial has queues of {entries:,} entries, for which a kernel with pages of"
        f" {page_size >> 10} KiB keeps {needed} MiB: too much for a crash kernel of {crashkernel} MiB"
    )
