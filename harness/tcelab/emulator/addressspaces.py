"""Memory of the emulated machine: frames of RAM with their pins, and address spaces of processes (mm).

Addresses belong to a process's own address space; an access that is not mapped or not permitted there is a fault.
Frames are scattered by a seed, so that neighbouring pages of a buffer do not have neighbouring frames, and runs repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tceagent.huge import HUGE_PAGE
from tcelab.emulator.syscallerrors import NotModelledError
from tcelab.papr import window
from tcelab.program import pagetags

FRAMES: Final = 1 << 28
"""More than any program can use; a prime step over a power of two visits each once."""
_STEP: Final = 0x9E3779B1
_FIRST: Final = 16 << 20
"""Bytes of RAM that are the kernel's own."""

_TOP: Final = 0x7FFF_F000_0000
"""Buffers lie below, each with a gap behind it; above is the scratch where ioctl arguments are passed."""
SCRATCH_SIZE: Final = 1024
"""Bytes that CPython's fcntl has for an argument; a longer one is passed where it is."""

MASK: Final = (1 << 64) - 1


class FaultError(Exception):
    """An access to memory that is not mapped, or not accessible in that way: EFAULT."""


class EmulatedRam:
    """Physical memory, in CPU pages.

    :ivar pages: content by frame; bytes, which all of them share, for as long as nothing was written: see `changing`.
    :ivar pins: page pins by frame; `pinned` is their sum (mm/gup.c, nr_foll_pin_acquired - nr_foll_pin_released).
    :ivar lent: frames that somebody may write to without a word.
    :ivar known: IOMMU pages by address, `pagetags.compact`ed, for as long as nothing in their frame changes.
    """

    def __init__(self, page_size: int, seed: int, huge_page: int = HUGE_PAGE, frames: int = FRAMES) -> None:
        """:param frames: how many there are, a power of two."""
        self._frames = frames
        self.page_size = page_size
        self.huge_page = huge_page
        self.pages: dict[int, bytes | bytearray] = {}
        self._zeros = bytes(page_size)
        self.pins: dict[int, int] = {}
        self.pinned = 0
        self.lent: set[int] = set()
        self.known: dict[int, bytes] = {}
        self._asked: frozenset[int] | None = None
        self._told: dict[int, bytes | None] = {}
        self._unknown: set[int] = set()
        self._next = seed % frames
        self._huge = 0

    def clear(self) -> None:
        """Nothing is in use: its kernel is gone."""
        self.pages.clear()
        self.known.clear()
        self._asked = None
        self.let_go()

    def let_go(self) -> None:
        """Its kernel is gone, and what was in its memory stays."""
        self.pins.clear()
        self.pinned = 0
        self.lent.clear()

    def allocate(self) -> int:
        """A frame of zeros: its address."""
        return self.allocate_many(1)[0]

    def allocate_many(self, pages: int) -> list[int]:
        """Frames of zeros: their addresses."""
        numbers = [(self._next + _STEP * each) % self._frames for each in range(1, pages + 1)]
        self._next = (self._next + _STEP * pages) % self._frames
        frames = [_FIRST + number * self.page_size for number in numbers]
        self.pages.update(dict.fromkeys(frames, self._zeros))
        return frames

    def allocate_huge(self, pages: int) -> list[int]:
        """Frames of huge pages, all of them one after the other."""
        first = _FIRST + self._frames * self.page_size + self._huge
        self._huge += pages * self.page_size
        frames = [first + number * self.page_size for number in range(pages)]
        self.pages.update(dict.fromkeys(frames, self._zeros))
        return frames

    def pin(self, frame: int) -> None:
        self.pins[frame] = self.pins.get(frame, 0) + 1
        self.pinned += 1

    def unpin(self, frame: int) -> None:
        """:raise NotModelledError: nobody has pinned it. A real kernel would go on, and break later: unpin_user_page
        takes more from the page's reference count than there is (mm/gup.c, gup_put_folio).
        """
        if not self.pins.get(frame):
            raise NotModelledError(
                f"a pin of {frame:#x} is given back that nobody took, for the entry was stored by a hypercall: what "
                "becomes of a page without references, the emulator does not know"
            )
        self.pins[frame] -= 1
        self.pinned -= 1

    def free(self, frame: int) -> None:
        """Give a frame back, unless somebody has pinned it."""
        if not self.pins.get(frame):
            del self.pages[frame]
            self._forget(frame)
            self.lent.discard(frame)

    def iommu_page(self, address: int) -> bytes | None:
        """The 4 KiB at an address, `pagetags.compact`ed, None when there is no RAM."""
        content = self.known.get(address)
        if content is not None:
            return content
        base = address & -self.page_size
        page = self.pages.get(base)
        if page is None:
            return None
        content = pagetags.compact(bytes(page[address - base : address - base + window.PAGE_SIZE]))
        if base not in self.lent:
            self.known[address] = content
        return content

    def iommu_pages(self, addresses: frozenset[int]) -> dict[int, bytes | None]:
        """Many of them. Whoever asks for the same ones again gives the same set: then only those that may have
        changed are looked up.
        """
        told = self._told
        if addresses is not self._asked:
            self._asked = addresses
            told = self._told = dict(zip(addresses, map(self.known.get, addresses), strict=True))
            self._unknown = {address for address, content in told.items() if content is None}
        for address in self._unknown:  # where all RAM is mapped, thousands are of no page that there is
            there = address & -self.page_size in self.pages
            told[address] = self.iommu_page(address) if there else self.known.get(address)
        self._unknown.difference_update(self.known.keys() & self._unknown)
        return told.copy()

    def changing(self, frame: int) -> bytearray:
        """The bytes of a frame, for a caller that writes to them at once."""
        self._forget(frame)
        page = self.pages[frame]
        if isinstance(page, bytes):
            page = self.pages[frame] = bytearray(page)
        return page

    def lend(self, frame: int) -> bytearray:
        """The bytes of a frame, for a caller that may write to them at any time from now on."""
        self.lent.add(frame)
        return self.changing(frame)

    def _forget(self, frame: int) -> None:
        if self.known:
            for address in range(frame, frame + self.page_size, window.PAGE_SIZE):
                if self.known.pop(address, None) is not None and address in self._told:
                    self._unknown.add(address)

    def read(self, address: int, size: int) -> bytes:
        """Bytes within one CPU page, as a device reads them; zeros outside RAM."""
        base = address & -self.page_size
        page = self.pages.get(base)
        return bytes(size) if page is None else bytes(page[address - base : address - base + size])

    def write(self, address: int, data: bytes) -> None:
        """Bytes within one CPU page, as a device writes them; dropped outside RAM."""
        base = address & -self.page_size
        if base in self.pages:
            self.changing(base)[address - base : address - base + len(data)] = data


class Area:
    """One mapping of a process (a VMA): anonymous private memory, all of it present.

    :ivar frames: by CPU page number.
    """

    def __init__(self, space: Space, address: int, frames: list[int]) -> None:
        self.address = address
        self.size = len(frames) * space.ram.page_size
        self._space = space
        first = address // space.ram.page_size
        self.frames = dict(zip(range(first, first + len(frames)), frames, strict=True))
        self.protect("write")

    def read(self, offset: int, size: int) -> bytes:
        self._within(offset, size)
        try:
            return self._space.copy_in(self.address + offset, size)
        except FaultError:
            raise ValueError("protected from reading") from None

    def write(self, offset: int, data: bytes) -> None:
        self._within(offset, len(data))
        try:
            self._space.copy_out(self.address + offset, data)
        except FaultError:
            raise ValueError("protected from writing") from None

    def page(self, number: int) -> memoryview:
        """One IOMMU page of it, to be read and written without a call."""
        self._within(number * window.PAGE_SIZE, window.PAGE_SIZE)
        frame, start, end = self._space.lend(self.address + number * window.PAGE_SIZE, window.PAGE_SIZE)
        return memoryview(self._space.ram.changing(frame))[start:end]

    def protect(self, access: str) -> None:
        """`none`, `read` or `write` (mprotect)."""
        for able, wanted in ((self._space.readable, {"read", "write"}), (self._space.writable, {"write"})):
            if access in wanted:
                able.update(self.frames)
            else:
                for page in self.frames:
                    able.pop(page, None)

    def _within(self, offset: int, size: int) -> None:
        if not 0 <= offset <= offset + size <= self.size:
            raise ValueError(f"bytes {offset:#x}..{offset + size:#x} of {self.size:#x}")


@dataclass(slots=True, eq=False)
class RegisteredMemory:
    """Memory that is registered for DMA (struct mm_iommu_table_group_mem_t).

    :ivar frames: of its CPU pages, pinned.
    :ivar granule: bytes of the largest IOMMU page that may lead into it.
    :ivar used: containers that registered it; `mapped`: entries that lead into it.
    """

    start: int
    size: int
    frames: list[int]
    granule: int
    used: int = 0
    mapped: int = 0


class Space:
    """An address space (mm_struct).

    :ivar regions: memory that is registered, by address and bytes.
    :ivar holders: its process while that lives, and the containers that are bound to it (mm_count).
    :ivar readable: CPU page number to frame, of pages that may be read; `writable`: of those that may be written too.
    :ivar wanted: the address of the next buffer, if nothing is there; None: anywhere, with a hole on either side.
    :ivar scratch: the argument of the ioctl in flight, mapped at `SCRATCH`; None between calls.
    :ivar huge: numbers of CPU pages that lie in huge pages.
    :ivar locked: CPU pages charged to its locked memory (locked_vm), a 64-bit register.
    """

    def __init__(self, ram: EmulatedRam) -> None:
        self.ram = ram
        self.readable: dict[int, int] = {}
        self.writable: dict[int, int] = {}
        self.locked = 0
        self.scratch = bytearray()
        self.huge: set[int] = set()
        self.regions: dict[tuple[int, int], RegisteredMemory] = {}
        self.holders = 1
        self._frames: dict[int, int] = {}
        self._free = _TOP
        self.wanted: int | None = None

    def allocate(self, size: int, *, huge: bool = False) -> Area:
        """:param huge: in whole huge pages."""
        unit = self.ram.huge_page if huge else self.ram.page_size
        pages = -(-size // unit) * unit // self.ram.page_size
        frames = self.ram.allocate_huge(pages) if huge else self.ram.allocate_many(pages)
        area = Area(self, self._place(pages, unit), frames)
        self._frames.update(area.frames)
        if huge:
            first = area.address // self.ram.page_size
            self.huge.update(range(first, first + pages))
        return area

    def _place(self, pages: int, align: int) -> int:
        """An address with that many free pages, and a guard page behind them that faults."""
        wanted, self.wanted = self.wanted, None
        if wanted is not None and not wanted % align:
            first = wanted // self.ram.page_size
            if self._frames.keys().isdisjoint(range(first, first + pages)):
                return wanted
        self._free = (self._free - (pages + 1) * self.ram.page_size) // align * align
        return self._free

    def region(self, address: int, size: int) -> RegisteredMemory | None:
        """The one that a whole range lies in (mm_iommu_lookup)."""
        regions = self.regions.values()
        return next((r for r in regions if r.start <= address and address + size <= r.start + r.size), None)

    def frames(self, address: int, size: int) -> list[int]:
        """Physical address of each IOMMU page that [address, address + size) touches; 0: not present."""
        first, end = address // window.PAGE_SIZE, -(-(address + size) // window.PAGE_SIZE)
        pages = range(first, end) if size else range(0)
        if self.ram.page_size == window.PAGE_SIZE:
            return [frame or 0 for frame in map(self._frames.get, pages)]
        out = []
        for at in (page * window.PAGE_SIZE for page in pages):
            frame = self._frames.get(at // self.ram.page_size)
            out.append(0 if frame is None else frame + at % self.ram.page_size)
        return out

    def pin(self, address: int, *, write: bool) -> int:
        """Pin the CPU page of an address: its frame (mm/gup.c, pin_user_pages_fast).

        :raise FaultError: nothing is mapped there, or not for that access.
        """
        frame = (self.writable if write else self.readable).get(address // self.ram.page_size)
        if frame is None:
            raise FaultError
        self.ram.pin(frame)
        return frame

    def copy_in(self, address: int, size: int) -> bytes:
        """:raise FaultError: a byte of it cannot be read."""
        if SCRATCH <= address < SCRATCH + len(self.scratch):
            return bytes(self.scratch[address - SCRATCH : address - SCRATCH + size])
        pieces = self._pieces(self.readable, address, size)
        return b"".join(bytes(self.ram.pages[frame][start:end]) for frame, start, end in pieces)

    def copy_out(self, address: int, data: bytes) -> None:
        """:raise FaultError: a byte of it cannot be written; what lies before it may be."""
        if SCRATCH <= address < SCRATCH + len(self.scratch):
            self.scratch[address - SCRATCH : address - SCRATCH + len(data)] = data
            return
        number, start = divmod(address, self.ram.page_size)
        if data and start + len(data) <= self.ram.page_size:  # as most are
            if (frame := self.writable.get(number)) is None:
                raise FaultError
            if isinstance(self.ram.pages[frame], bytearray) or any(data):
                self.ram.changing(frame)[start : start + len(data)] = data
            return  # zeros over zeros change nothing
        done = 0
        for frame, start, end in self._pieces(self.writable, address, len(data)):
            self.ram.changing(frame)[start:end] = data[done : done + end - start]
            done += end - start

    def lend(self, address: int, size: int) -> tuple[int, int, int]:
        """Lend some bytes within a CPU page, which may be written without notice from now on: frame, start and end
        there.

        :raise ValueError: they may not be written.
        """
        try:
            ((frame, start, end),) = self._pieces(self.writable, address, size)
        except FaultError:
            raise ValueError("protected from writing") from None
        self.ram.lend(frame)
        return frame, start, end

    def _pieces(self, able: dict[int, int], address: int, size: int) -> list[tuple[int, int, int]]:
        """The frames that a range lies in, each with its bytes' start and end."""
        out = []
        done = 0
        while done < size:
            number, start = divmod(address + done, self.ram.page_size)
            frame = able.get(number)
            if frame is None:
                raise FaultError
            end = min(start + size - done, self.ram.page_size)
            out.append((frame, start, end))
            done += end - start
        return out

    def free(self) -> None:
        """Free the memory of a process that exited; pinned frames stay."""
        for frame in self._frames.values():
            self.ram.free(frame)
        self._frames.clear()
        self.readable.clear()
        self.writable.clear()
        self.huge.clear()


SCRATCH: Final = _TOP + (1 << 20)
"""Where the bytes of an ioctl's argument appear."""
