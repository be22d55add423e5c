"""The trace of a guest kernel's DMA API: a file that QEMU writes for a port of the guest, read as it grows.

An anonymous file need not be drained, so a command may run for any time; what was read is freed on the host.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_CHUNK: Final = 1 << 20
_KEEP_SIZE_AND_PUNCH: Final = 0x01 | 0x02
"""FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE (include/uapi/linux/falloc.h)."""


class DmaApi:
    """Of one guest.

    :ivar file: that QEMU inherits.
    """

    def __init__(self) -> None:
        self.file = os.memfd_create("tcelab-dma-api", os.MFD_CLOEXEC)
        self._at = 0

    def read(self) -> bytes:
        """What has come since the last time."""
        pieces = []
        while piece := os.pread(self.file, _CHUNK, self._at):
            pieces.append(piece)
            self._at += len(piece)
        if pieces:
            libc = ctypes.CDLL(None, use_errno=True)
            # Where it cannot, the file only takes more memory.
            libc.fallocate(self.file, _KEEP_SIZE_AND_PUNCH, ctypes.c_long(0), ctypes.c_long(self._at))
        return b"".join(pieces)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.file)
