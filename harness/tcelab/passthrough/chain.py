"""From L2's pages through L1's to L0's memory, and back.

L1's guest physical memory is L0's RAM, from its beginning. L2's is memory of L1's QEMU, which VFIO keeps where it is:
one map holds as long as that QEMU lives. The map is what L1's kernel says (/proc/PID/pagemap), so it proves nothing;
the tags that are found in L0's RAM at the addresses of L0's entries do.
"""

from __future__ import annotations

import zlib
from binascii import Error, a2b_base64
from collections.abc import Collection
from typing import Final

import numpy as np
import numpy.typing as npt

from tcelab.errors import HarnessError
from tcelab.papr.window import PAGE_SIZE
from tcelab.qemu.ram import Ram

FOREIGN: Final = 1 << 59
"""Set in an address of L0's that is no memory of L2's, so that it cannot be taken for one of L2's."""

_OFFSET: Final = PAGE_SIZE - 1


class Chain:
    """Addresses of L2 and L0, either way.

    :ivar size: bytes of L2's RAM.
    """

    def __init__(self, frames: str, page_size: int, size: int) -> None:
        """:param frames: as the agent of L1 gives them (`tceagent.inner.memory`), of pages of `page_size` bytes.
        :raise HarnessError: they are not those of all of L2's RAM.
        """
        try:
            numbers = np.frombuffer(zlib.decompress(a2b_base64(frames)), dtype="<u8")
        except (Error, zlib.error, ValueError) as error:
            raise HarnessError(f"L1's agent gave no map of L2's RAM: {error}") from None
        if len(numbers) * page_size != size:
            raise HarnessError(f"L1's agent gave a map of {len(numbers) * page_size:#x} bytes, L2 has {size:#x}")
        missing = int(np.count_nonzero(numbers == 0))
        if missing:
            raise HarnessError(
                f"{missing} of {len(numbers)} pages of L2's RAM are not in L1's memory: VFIO has not registered it",
                next_step="see inner.err there",
            )
        self.size = size
        pages = page_size // PAGE_SIZE
        small = (numbers[:, None] * page_size + np.arange(pages, dtype=np.uint64) * PAGE_SIZE).ravel()
        self._outer: npt.NDArray[np.uint64] = small.astype(np.uint64)
        """L0's address of each of L2's pages of 4 KiB."""
        order = np.argsort(self._outer, kind="stable")
        self._sorted, self._order = self._outer[order], order

    def outer(self, address: int) -> int | None:
        """L0's address of one of L2's; None: L2 has no RAM there."""
        if not 0 <= address < self.size:
            return None
        return int(self._outer[address // PAGE_SIZE]) | address & _OFFSET

    def inner(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """TCEs of L0's table as L2 would have written them: their bits stay, addresses become L2's; one that is no
        memory of L2's stays, with `FOREIGN` set.
        """
        if not len(words):
            return words
        bits, pages = words & np.uint64(_OFFSET), words & ~np.uint64(_OFFSET)
        at = np.minimum(np.searchsorted(self._sorted, pages), len(self._sorted) - 1)
        own = self._sorted[at] == pages
        there = self._order[at].astype(np.uint64) * np.uint64(PAGE_SIZE)
        told: npt.NDArray[np.uint64] = np.where(own, there, pages | np.uint64(FOREIGN)) | bits
        return told

    def word(self, tce: int) -> int:
        """One TCE; see `inner`. An empty entry stays so."""
        return int(self.inner(np.array([tce], np.uint64))[0]) if tce else 0


class ChainRam:
    """L2's RAM as the host sees it: where it lies in L0's. See `tcelab.qemu.ram.Ram`."""

    def __init__(self, ram: Ram, chain: Chain) -> None:
        self._ram, self._chain = ram, chain
        self.size, self.fd = chain.size, ram.fd

    def attach(self, pid: int) -> None:
        """L0 has it already."""

    def read(self, address: int, size: int) -> bytes | None:
        """See `Ram`; what goes over the end of a page is put together."""
        parts = []
        while size > 0:
            piece = min(size, PAGE_SIZE - address % PAGE_SIZE)
            place = self._chain.outer(address)
            part = None if place is None else self._ram.read(place, piece)
            if part is None:
                return None
            parts.append(part)
            address, size = address + piece, size - piece
        return b"".join(parts)

    def write(self, address: int, data: bytes | bytearray) -> None:
        """:raise HarnessError: always. Nobody writes into L2's RAM from outside."""
        raise HarnessError(f"nothing is written into L2's RAM from outside: {len(data)} bytes at {address:#x}")

    def pages(self, addresses: Collection[int]) -> dict[int, bytes | None]:
        """See `Ram`."""
        places = {address: self._chain.outer(address) for address in addresses}
        there = self._ram.pages({place for place in places.values() if place is not None})
        return {address: None if place is None else there[place] for address, place in places.items()}

    def close(self) -> None:
        """It is L0's to let go."""
