"""The disks of a guest: anonymous files that the harness makes, QEMU inherits, and nobody can leave behind.

QEMU writes to the page cache, so a stopped guest has no write under way and the files are complete.
"""

from __future__ import annotations

import os

from tcelab.program import diskcontent
from tcelab.program.topology import Topology


class Disks:
    """The disks of one guest. A fork has its own disks, with the content that the base's had: nobody wrote to those.

    :ivar files: descriptors, by device. Of the larger disk that the kernel's own driver has, only the beginning is
        known data, and only that is read.
    """

    def __init__(self, topology: Topology) -> None:
        disks = {device.name: device.model for device in topology.devices if device.model in diskcontent.SIZES}
        self.files = {name: os.memfd_create(f"tcelab-{name}", os.MFD_CLOEXEC) for name in disks}
        self._last = {name: diskcontent.fresh(name) for name in disks}
        self._now = bytearray(diskcontent.SIZE if disks else 0)
        for name, file in self.files.items():
            os.ftruncate(file, diskcontent.SIZES[disks[name]])
        self.renew()

    def renew(self) -> None:
        """As at the start. No transfer may be under way."""
        for name, file in self.files.items():
            os.pwrite(file, diskcontent.fresh(name), 0)

    def read(self) -> dict[str, bytes]:
        """What is on each; one that is as it was the last time is the same object."""
        for name, file in self.files.items():
            # Memory that is there already: to get a new MiB at each look costs more than to read it.
            os.preadv(file, [self._now], 0)
            if self._now != self._last[name]:
                self._last[name] = bytes(self._now)
        return dict(self._last)

    def close(self) -> None:
        """Let go of them."""
        while self.files:
            os.close(self.files.popitem()[1])
