"""A device's registers as the real kernel maps them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap


class Registers:
    """A device's registers, mapped. Each read or write is one access of exactly its size, in native byte order."""

    def __init__(self, area: mmap.mmap) -> None:
        self._area = area
        bytewise = memoryview(area)
        # Casts, because their item access is one load or store. A slice may become any accesses, ctypes reads
        # before it writes, and its from_buffer would keep the mapping, and with it the container, alive.
        self._bytes = bytewise.cast("B")
        self._halves = bytewise.cast("H")
        self._words = bytewise.cast("I")
        self._doubles = bytewise.cast("Q")
        bytewise.release()

    @property
    def closed(self) -> bool:
        return self._area.closed

    def read8(self, offset: int) -> int:
        return self._bytes[_item(offset, 1)]

    def write8(self, offset: int, value: int) -> None:
        self._bytes[_item(offset, 1)] = value

    def read16(self, offset: int) -> int:
        return self._halves[_item(offset, 2)]

    def write16(self, offset: int, value: int) -> None:
        self._halves[_item(offset, 2)] = value

    def read32(self, offset: int) -> int:
        return self._words[_item(offset, 4)]

    def write32(self, offset: int, value: int) -> None:
        self._words[_item(offset, 4)] = value

    def read64(self, offset: int) -> int:
        return self._doubles[_item(offset, 8)]

    def write64(self, offset: int, value: int) -> None:
        self._doubles[_item(offset, 8)] = value

    def close(self) -> None:
        for view in (self._bytes, self._halves, self._words, self._doubles):
            view.release()
        self._area.close()


def _item(offset: int, size: int) -> int:
    if offset < 0 or offset % size:
        raise ValueError(f"register offset {offset:#x} is not a multiple of {size}")
    return offset // size
