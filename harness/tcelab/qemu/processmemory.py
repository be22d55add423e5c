"""Memory of another process, read and (for self-tests) written: process_vm_readv(2), and /proc/PID/mem where that is
forbidden or slower.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

_AT_ONCE: Final = 512
"""Pieces of one call; the kernel takes 1,024 (UIO_MAXIOV)."""

_FORBIDDEN: Final = (errno.EPERM, errno.ENOSYS)
"""Errnos of a kernel or sandbox without the call; by then it is known that the process may be read."""


class _IoVector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class ProcessMemory:
    """Of process `pid`, for as long as it lives."""

    def __init__(self, pid: int) -> None:
        """:raise OSError: it may not be read, or has ended."""
        self._pid = pid
        self._fd = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        self._call = ctypes.CDLL(None, use_errno=True).process_vm_readv
        self._direct = True

    def read(self, at: int, size: int) -> bytes:
        """As much as is mapped; nothing once the process has ended.

        :raise OSError: nothing is mapped there.
        """
        return os.pread(self._fd, size, at)

    def write(self, at: int, data: bytes | bytearray) -> None:
        os.pwrite(self._fd, data, at)

    def fill(self, room: npt.NDArray[np.generic], at: int) -> int:
        """Read into an array; returns the number of bytes.

        :raise OSError: nothing is mapped there.
        """
        got = self._vector([at], room.nbytes, room)
        return os.preadv(self._fd, [room.data], at) if got is None else got

    def pieces(self, places: Sequence[int], size: int) -> bytes:
        """`size` bytes from each place, one after the other. Less if the process has ended.

        :raise OSError: nothing is mapped at one of them.
        """
        room = np.empty(len(places) * size, np.uint8)
        done = 0
        for begin in range(0, len(places), _AT_ONCE):
            some = places[begin : begin + _AT_ONCE]
            got = self._vector(some, size, room[begin * size :][: len(some) * size])
            if got is None:
                return b"".join(os.pread(self._fd, size, at) for at in places)
            done += got
        return room[:done].tobytes()

    def _vector(self, places: Sequence[int], size: int, room: npt.NDArray[np.generic]) -> int | None:
        """Read pieces of `size` bytes in one call; None where there is no such call."""
        if not self._direct:
            return None
        remote = np.empty((len(places), 2), np.uint64)
        remote[:, 0], remote[:, 1] = places, size
        local = _IoVector(room.ctypes.data, room.nbytes)
        got = int(
            self._call(
                *(ctypes.c_int(self._pid), ctypes.byref(local), ctypes.c_ulong(1)),
                *(ctypes.c_void_p(remote.ctypes.data), ctypes.c_ulong(len(places)), ctypes.c_ulong(0)),
            )
        )
        if got >= 0:
            return got
        number = ctypes.get_errno()
        if number == errno.ESRCH:
            return 0
        if number in _FORBIDDEN:
            self._direct = False
            return None
        raise OSError(number, os.strerror(number))

    def close(self) -> None:
        os.close(self._fd)
