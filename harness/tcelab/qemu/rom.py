"""Option ROMs of nothing but ones. Laid over a device's registers, one makes them read as those of an isolated PE: all
ones, and writes are dropped (QEMU hw/pci/pci.c, pci_add_option_rom: a ROM is memory that cannot be written).
"""

from __future__ import annotations

import os
from functools import cache
from typing import Final

from tcelab.device.probe import BAR_SIZE

SIZES: Final = {"edu": 1 << 20, "probe": BAR_SIZE, "virtio-blk": 1 << 14}
"""By model, bytes of the BAR that holds the registers."""


@cache
def ones(model: str) -> int:
    """The descriptor of a file of ones, as large as the registers of a device of that model; it stays open."""
    file = os.memfd_create(f"tcelab-ones-{model}", os.MFD_CLOEXEC)
    os.pwrite(file, b"\xff" * SIZES[model], 0)
    return file
