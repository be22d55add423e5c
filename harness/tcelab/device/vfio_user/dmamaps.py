"""What the client has mapped for DMA: the ordered stream of DMA_MAP and DMA_UNMAP, folded into a table.

A guest with a paravirtual IOMMU changes one entry with each message, in the middle of its hypercall. A DMA_MAP over a
live mapping of the same place replaces it, as a TCE is replaced: QEMU sends no DMA_UNMAP before (hw/vfio/listener.c,
vfio_iommu_map_notify). The specification has EEXIST for it, and then QEMU goes on all the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from array import array
from bisect import bisect_right
from collections import Counter
from typing import Final, NamedTuple

from tcelab.device.vfio_user.protocol import PAGE, UNMAP_ALL, DmaRefused, Limits, MapFlag, RequestError

_END: Final = 1 << 64


class Mapping(NamedTuple):
    """:ivar flags: of `MapFlag`. A mapping without READ cannot be told: QEMU sets it always.

    :ivar offset: in the file, which is guest RAM: the guest physical address.
    :ivar file: number of the file, -1: the client passed none.
    """

    size: int
    flags: int
    offset: int
    file: int


class Change(NamedTuple):
    """One message. :ivar maps: it maps; otherwise it unmaps."""

    maps: bool
    address: int
    size: int


class DmaMaps:
    """:ivar live: mappings by bus address.

    :ivar dropped: changes that nobody took in time and that are forgotten.
    :ivar total: changes since the beginning.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.live: dict[int, Mapping] = {}
        self.dropped = 0
        self.total = 0
        self._sizes: Counter[int] = Counter()
        self._odd = 0  # mappings at no multiple of their size
        self._sorted: list[int] | None = []
        self._files: dict[tuple[int, int], int] = {}
        self._fds: list[int] = []
        self._changes = array("Q")  # address with the kind in bit 0, and size: 16 bytes each

    # -- messages

    def map(self, flags: int, offset: int, address: int, size: int, fd: int | None) -> None:
        """:param fd: of the file behind it; taken over, whatever happens.

        :raise RequestError: it cannot be.
        """
        try:
            if flags & ~3 or not flags:
                raise RequestError(errno.EINVAL, f"flags {flags:#x}")
            if (address | size | offset) % PAGE or not size or address + size > _END:
                raise RequestError(errno.EINVAL, f"{size:#x} bytes at {address:#x} from {offset:#x}")
            old = self.live.get(address)
            if (old is None or old.size != size) and self._overlaps(address, size):
                raise RequestError(errno.EEXIST, f"{size:#x} bytes at {address:#x} overlap another mapping")
            if old is None and len(self.live) >= self.limits.maps:
                raise RequestError(errno.ENOSPC, f"more than {self.limits.maps} mappings")
            file = -1 if fd is None else self._file(fd, offset + size)
        finally:
            if fd is not None:
                os.close(fd)
        if old is None:
            self._sizes[size] += 1
            self._odd += address % size != 0
            self._sorted = None
        self.live[address] = Mapping(size, flags, offset, file)
        self._note(address | 1, size)

    def unmap(self, flags: int, address: int, size: int) -> None:
        """Unmap exactly one mapping, all that lie in a range, or nothing: a TCE that was empty is emptied too.

        :raise RequestError: a part of a mapping, or no range.
        """
        if flags & UNMAP_ALL:
            self._forget()
        elif flags or (address | size) % PAGE or not size or address + size > _END:
            raise RequestError(errno.EINVAL, f"{size:#x} bytes at {address:#x}, flags {flags:#x}")
        else:
            self._unmap(address, size)
        self._note(address, size)

    def _unmap(self, address: int, size: int) -> None:
        found = self.live.get(address)
        if found is not None and found.size == size:
            self._remove(address)
            return
        inside = self._within(address, size)
        if any(at < address or at + self.live[at].size > address + size for at in inside):
            raise RequestError(errno.EINVAL, f"{size:#x} bytes at {address:#x} are a part of a mapping")
        for at in inside:
            self._remove(at)

    def _remove(self, address: int) -> None:
        size = self.live.pop(address).size
        self._sizes[size] -= 1
        self._odd -= address % size != 0
        if not self._sizes[size]:
            del self._sizes[size]
        self._sorted = None

    def _note(self, kind: int, size: int) -> None:
        self.total += 1
        if len(self._changes) >= 2 * self.limits.changes:
            self.dropped += 1
            return
        self._changes.append(kind)
        self._changes.append(size)

    def _overlaps(self, address: int, size: int) -> bool:
        # Equal sizes at multiples of themselves overlap only where they are equal, which the caller has looked at.
        if self._sizes.keys() <= {size} and not self._odd and address % size == 0:
            return False
        return bool(self._within(address, size))

    def _within(self, address: int, size: int) -> list[int]:
        """Addresses of the mappings that have a byte in a range."""
        if self._sizes.keys() == {PAGE} and size <= PAGE * len(self.live):
            return [at for at in range(address, address + size, PAGE) if at in self.live]
        end = address + size
        return [at for at, mapping in self.live.items() if at < end and at + mapping.size > address]

    # -- files

    def _file(self, fd: int, end: int) -> int:
        """The number of a file. A client passes a new descriptor for each mapping: one is kept for each file."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or end > found.st_size:
            raise RequestError(errno.EINVAL, f"no file with {end:#x} bytes")
        key = found.st_dev, found.st_ino
        number = self._files.get(key)
        if number is None:
            if len(self._fds) >= self.limits.files:
                raise RequestError(errno.ENOSPC, f"more than {self.limits.files} files")
            number = self._files[key] = len(self._fds)
            self._fds.append(os.dup(fd))
        return number

    def verdict(self, address: int, need: MapFlag) -> int:
        """Whether one byte may be reached, by this table alone: 0, EFAULT: it is not mapped, EPERM: not so."""
        start = self._covering(address)
        if start is None:
            return errno.EFAULT
        return 0 if self.live[start].flags & need else errno.EPERM

    def pieces(self, address: int, size: int, need: MapFlag) -> list[tuple[int, int, int]]:
        """Where a transfer goes: (descriptor, offset, bytes) for each mapping that it touches, in order.

        :raise DmaRefused: a byte is not mapped (EFAULT), not in this direction (EPERM), or has no file (ENODEV).
        """
        out: list[tuple[int, int, int]] = []
        at, left = address, size
        while left:
            start = self._covering(at)
            if start is None:
                raise DmaRefused(errno.EFAULT, at, left)
            mapping = self.live[start]
            if not mapping.flags & need:
                raise DmaRefused(errno.EPERM, at, left)
            if mapping.file < 0:
                raise DmaRefused(errno.ENODEV, at, left)
            count = min(left, start + mapping.size - at)
            out.append((self._fds[mapping.file], mapping.offset + at - start, count))
            at, left = at + count, left - count
        return out

    def read(self, address: int, size: int) -> bytes:
        """Read guest RAM through the files, by this table alone: no IOMMU but ours looks at it. Raises as `pieces`."""
        pieces = self.pieces(address, size, MapFlag.READ)
        return b"".join(self._exactly(os.pread(fd, count, at), count, address) for fd, at, count in pieces)

    def write(self, address: int, data: bytes) -> None:
        """Write guest RAM through the files, all of it or none; see `read`."""
        pieces = self.pieces(address, len(data), MapFlag.WRITE)
        for fd, at, count in pieces:
            if at + count > os.fstat(fd).st_size:  # the client has cut it: a write would make it longer
                raise DmaRefused(errno.ENXIO, address, len(data))
        done = 0
        for fd, at, count in pieces:
            try:
                os.pwrite(fd, data[done : done + count], at)
            except OSError as error:
                raise DmaRefused(error.errno or errno.EIO, address, len(data)) from None
            done += count

    @staticmethod
    def _exactly(data: bytes, count: int, address: int) -> bytes:
        if len(data) != count:
            raise DmaRefused(errno.ENXIO, address, count)
        return data

    def _covering(self, address: int) -> int | None:
        page = address - address % PAGE
        if page in self.live:
            return page
        if self._sorted is None:
            self._sorted = sorted(self.live)
        number = bisect_right(self._sorted, address) - 1
        if number < 0:
            return None
        start = self._sorted[number]
        return start if address < start + self.live[start].size else None

    # -- for those who look

    def take(self) -> list[Change]:
        """The changes since the last call, in order."""
        taken, self._changes = self._changes, array("Q")
        return [Change(bool(taken[i] & 1), taken[i] & ~1, taken[i + 1]) for i in range(0, len(taken), 2)]

    def _forget(self) -> None:
        self.live.clear()
        self._sizes.clear()
        self._odd = 0
        self._sorted = []

    def close(self) -> None:
        """The client is gone: nothing is mapped any more, and its files are let go."""
        self._forget()
        self._files.clear()
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()
