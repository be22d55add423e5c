"""Open files: counted references, released with the last of them (fs/file_table.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcelab.emulator.process import Process, RefusedError

if TYPE_CHECKING:
    from tcelab.emulator.pci import Registers


class File:
    """An open file description. Descriptors, forks and mappings each hold a reference."""

    def __init__(self) -> None:
        self._references = 1

    def get(self) -> File:
        """One reference more."""
        self._references += 1
        return self

    def put(self, process: Process) -> None:
        """One reference less; the last one releases, in the context of that process."""
        self._references -= 1
        if not self._references:
            self.release(process)

    def release(self, _process: Process) -> None:
        """The last reference is gone."""

    def ioctl(self, _process: Process, _request: int, _argument: int) -> int:
        """:raise RefusedError: with its errno."""
        raise RefusedError("ENOTTY")

    def pread(self, _size: int, _offset: int) -> bytes:
        """:raise RefusedError: with its errno."""
        raise RefusedError("EINVAL")

    def pwrite(self, _data: bytes, _offset: int) -> int:
        """:raise RefusedError: with its errno."""
        raise RefusedError("EINVAL")

    def map(self, _offset: int, _size: int, _process: Process) -> Registers:
        """Map a device's registers.

        :raise RefusedError: with its errno.
        """
        raise RefusedError("ENODEV")
