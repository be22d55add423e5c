"""QEMU's virtio-blk-pci: registers, one queue, and its disk.

Source: QEMU hw/virtio/virtio-pci.c (capabilities, common configuration), hw/virtio/virtio.c (the ring), hw/block/
virtio-blk.c; Virtual I/O Device 1.2, 2.7 and 5.2. The ring and the data go through the PE's table. A request is one of
three descriptors, the first three of the queue, as the agent makes it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import ClassVar, Final, NamedTuple

from tceagent import uapi
from tceagent import virtio as v
from tcelab.emulator.addressspaces import EmulatedRam
from tcelab.emulator.pci import PciDevice, RegionInfo
from tcelab.emulator.syscallerrors import NotModelledError
from tcelab.papr import dmarules, tce, window
from tcelab.papr.isolationrules import Isolation
from tcelab.papr.tcetable import Table
from tcelab.program import diskcontent
from tcelab.run.record import Direction, Refusal

BAR: Final = 4
BAR_SIZE: Final = 1 << 16
"""Bytes of the BAR in the guest, whose kernel gives it a 64 KiB page of its own (see `tcelab.qemu.machine`)."""
COMMON, INTERRUPT, DISK, DOORBELLS = 0, 0x1000, 0x2000, 0x3000
"""Where things are in the BAR."""
_SPACING: Final = 4
_MSIX_BAR: Final = 1

_IDENTITY: Final = bytes.fromhex("f41a4210 0200 1000 01 000001 00000000".replace(" ", ""))
"""Vendor, device, command as vfio-pci leaves it, status, revision, class."""
_CAPABILITIES: Final = (
    (0x40, 1, COMMON, 0x1000, 0x10),
    (0x50, 3, INTERRUPT, 0x1000, 0x10),
    (0x60, v.DEVICE, DISK, 0x1000, 0x10),
    (0x70, v.NOTIFY, DOORBELLS, 0x1000, 0x14),
)
"""Place, kind, offset in the BAR, bytes there, and length, each leading to the one before."""

_QUEUE_SIZE: Final = 256
_NO_VECTOR: Final = 0xFFFF
_AVAILABLE_INDEX: Final = v.AVAILABLE + 2
_USED_INDEX: Final = v.USED + 2
_INDEX: Final = struct.Struct("<H")
_ELEMENT: Final = struct.Struct("<II")
_REQUEST: Final = struct.Struct("<QIHHQIHHQIHH")
_RING: Final[tuple[tuple[Direction, int], ...]] = (
    ("read", v.USED),
    ("write", v.USED),
    ("read", _AVAILABLE_INDEX),
) * 2
"""Ring accesses of a device that can read nothing, when its doorbell rings: it disables notifications, checks for work,
and enables them again. Two bytes each (virtio_blk_handle_vq).
"""


def _config() -> bytes:
    config = bytearray(_IDENTITY.ljust(256, b"\0"))
    following = 0
    for at, kind, offset, size, length in _CAPABILITIES:
        spacing = _SPACING.to_bytes(4, "little") if kind == v.NOTIFY else b""
        head = bytes((v.VENDOR_SPECIFIC, following, length, kind, BAR, 0, 0, 0))
        config[at : at + length] = head + struct.pack("<II", offset, size) + spacing
        following = at
    config[v.CAPABILITIES] = following
    return bytes(config)


class _Ring(NamedTuple):
    """The two pages of the queue, as they lie in RAM: the bytes of a frame, and where in them the page begins.

    :ivar version: of the tables by which they were found.
    """

    version: tuple[object, ...]
    queue: bytearray
    at: int
    request: bytearray
    there: int


class VirtioBlk(PciDevice):
    """:ivar disk: all that is on it."""

    bar = BAR
    regions: ClassVar = {
        _MSIX_BAR: RegionInfo(BAR_SIZE, 15),
        uapi.CONFIG_REGION: RegionInfo(256, 3),
        BAR: RegionInfo(BAR_SIZE, 7),
    }
    vectors = 0, 2

    def __init__(
        self,
        name: str,
        table: Table,
        ram: EmulatedRam,
        refuse: Callable[[Refusal], None],
        isolation: Isolation | None = None,
    ) -> None:
        super().__init__(name, _config(), table, isolation)
        self.disk = bytearray(diskcontent.fresh(name))
        self._content = bytes(self.disk)
        self._ram, self._refuse = ram, refuse
        self._reset()

    def _reset(self) -> None:
        """Status 0 was written (virtio_pci_reset)."""
        self._status = 0
        self._queue = {v.QUEUE_SELECT: 0, v.QUEUE_SIZE: _QUEUE_SIZE, v.QUEUE_ENABLE: 0}
        self._features = {0: 0, 1: 0}
        self._half = 0
        self._places = bytearray(24)
        self._index = 0
        self._ring: _Ring | None = None

    def off_bus(self) -> None:
        """virtio_write_config: a device that may not master the bus is not ready."""
        self._status &= ~v.DRIVER_OK

    def thawed(self) -> None:
        """Thawing resets it, so that a blocked request is not done later."""
        self._reset()

    def renew(self) -> None:
        """As at the start, for another program."""
        super().renew()
        self._reset()
        self.disk[:] = diskcontent.fresh(self.name)

    @property
    def content(self) -> bytes:
        """All that is on the disk now; the same object as long as it is the same."""
        if self._content != self.disk:
            self._content = bytes(self.disk)
        return self._content

    # -- registers

    def read(self, offset: int, size: int) -> int:
        """A register of the common configuration, or the size of the disk."""
        places = offset - v.QUEUE_DESCRIPTORS
        if 0 <= places < len(self._places):
            return int.from_bytes(self._places[places : places + size], "little")
        known = {
            v.DRIVER_FEATURE_SELECT: self._half,
            v.DRIVER_FEATURE: self._features.get(self._half, 0),
            v.IDENTITY: _NO_VECTOR,
            v.IDENTITY + 2: 1,
            v.STATUS: self._status,
            v.QUEUE_NOTIFY_OFF: 0,
            DISK: diskcontent.SIZE // v.SECTOR,
            DISK + 4: 0,
            **self._queue,
        }
        if offset not in known:
            raise NotModelledError(f"the emulator's virtio-blk has no register {offset:#x}")
        return known[offset]

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register of the common configuration, or ring the doorbell."""
        places = offset - v.QUEUE_DESCRIPTORS
        if offset == DOORBELLS:
            self._notified()
        elif 0 <= places < len(self._places):
            self._places[places : places + size] = value.to_bytes(size, "little")
        elif offset == v.STATUS:
            self._status = value
            if not value:
                self._reset()
        elif offset == v.DRIVER_FEATURE_SELECT:
            self._half = value
        elif offset == v.DRIVER_FEATURE:
            self._features[self._half] = value
        elif offset in self._queue:
            self._queue[offset] = value
        else:
            raise NotModelledError(f"the emulator's virtio-blk has no register {offset:#x}")

    # -- the queue

    def _notified(self) -> None:
        """virtio_blk_handle_vq."""
        if self._status != v.READY or self._features != v.FEATURES:
            raise NotModelledError(f"the doorbell of {self.name} rang while it was not set up")
        if not self.master:
            self._blocked()
            return
        ring = self._ring
        if ring is None or ring.version != self._version:
            ring = self._ring = self._find_ring()
        (wanted,) = _INDEX.unpack_from(ring.queue, ring.at + _AVAILABLE_INDEX)
        while self._index != wanted:
            self._request(ring)
            self._index = self._index + 1 & _NO_VECTOR

    @property
    def _iova(self) -> int:
        """Of the ring."""
        return int.from_bytes(self._places[:8], "little")

    def _find_ring(self) -> _Ring:
        pages: list[tuple[bytearray, int]] = []
        places = struct.unpack("<QQQ", self._places)
        if places != (self._iova, self._iova + v.AVAILABLE, self._iova + v.USED) or self._iova % window.PAGE_SIZE:
            raise NotModelledError(f"the queue of {self.name} is not laid out as the agent does it")
        for page in (self._iova, self._iova + window.PAGE_SIZE):
            address = self._address(page, tce.READ | tce.WRITE)
            if address is None:
                raise NotModelledError(f"the queue of {self.name} at {self._iova:#x} is not mapped to RAM")
            base = address & -self._ram.page_size
            if base not in self._ram.pages:
                raise NotModelledError(f"the queue of {self.name} at {self._iova:#x} is not in RAM")
            pages.append((self._ram.lend(base), address - base))
        (queue, at), (request, there) = pages
        return _Ring(self._version, queue, at, request, there)

    @property
    def _version(self) -> tuple[object, ...]:
        second = self.second
        return (self.table, self.table.version, second, None if second is None else second.version)

    def _address(self, iova: int, needed: int) -> int | None:
        """Where in RAM a bus address leads, None when the tables refuse it."""
        table = self.table
        number = table.index(iova)
        if number >= table.entries:
            if self.second is None or (number := self.second.index(iova)) >= self.second.entries:
                return None
            table = self.second
        entry = table.get(number)
        inside = iova & (1 << table.page_shift) - 1
        return tce.address(entry, table.page_shift) + inside if entry & needed == needed else None

    def _request(self, ring: _Ring) -> None:
        """One request, done at once (virtio_blk_handle_request, virtqueue_push)."""
        slot = self._index % v.QUEUE
        if _INDEX.unpack_from(ring.queue, ring.at + v.AVAILABLE + 4 + 2 * slot)[0]:
            raise NotModelledError(f"a request of {self.name} does not begin with descriptor 0")
        head, _, _, _, iova, size, flags, _, answer, _, _, _ = _REQUEST.unpack_from(ring.queue, ring.at)
        if (head, answer) != (self._iova + v.PAGE, self._iova + v.PAGE + v.ANSWER):
            raise NotModelledError(f"a request of {self.name} is not as the agent makes them")
        kind, _, sector = v.HEAD.unpack_from(ring.request, ring.there)
        to_memory = kind == v.READ_DISK
        if kind not in {v.READ_DISK, v.WRITE_DISK} or bool(flags & v.WRITE) != to_memory:
            raise NotModelledError(f"a request of {self.name} is of type {kind}")
        self._transfer(iova, size, sector * v.SECTOR, to_memory=to_memory)
        ring.request[ring.there + v.ANSWER] = 0
        written = size + 1 if to_memory else 1
        _ELEMENT.pack_into(ring.queue, ring.at + v.USED + 4 + _ELEMENT.size * slot, 0, written)
        _INDEX.pack_into(ring.queue, ring.at + _USED_INDEX, self._index + 1 & _NO_VECTOR)

    def _transfer(self, iova: int, size: int, at: int, *, to_memory: bool) -> None:
        """Between bus addresses and the disk; what is refused gives zeros, or is dropped."""
        needed = tce.WRITE if to_memory else tce.READ
        whole = True
        done = 0
        while done < size:
            length = min(window.PAGE_SIZE - (iova + done) % window.PAGE_SIZE, size - done)
            address = self._address(iova + done, needed)
            inside = slice(at + done, at + done + length)
            if to_memory and address is not None:
                self._ram.write(address, bytes(self.disk[inside]))
            elif not to_memory:
                self.disk[inside] = bytes(length) if address is None else self._ram.read(address, length)
            whole = whole and address is not None
            done += length
        if not whole:
            self._refused(iova, size, to_memory=to_memory)

    # -- what is refused

    def _refused(self, iova: int, size: int, *, to_memory: bool) -> None:
        """Report a transfer with refused pieces."""
        pieces = self._pieces(iova, size, to_memory=to_memory)
        direction: Direction = "write" if to_memory else "read"
        for piece in pieces:
            if piece.refused:
                self._told(direction, piece.told, piece.size, piece.refused)
        self.on_bus(pieces, direction)

    def _blocked(self) -> None:
        """Without bus mastering, the device sees an empty ring and tries nothing else."""
        for direction, offset in _RING:
            self._told(direction, self._iova + offset, 2, dmarules.ISOLATED if self.wish else dmarules.NO_MASTER)
        if not self.wish:
            return
        # The driver's setting is kept nevertheless.
        address = self._address(self._iova, tce.READ)
        frame = self._ram.pages.get(-1 if address is None else address & -self._ram.page_size)
        if address is None or frame is None:
            raise NotModelledError(f"the queue of {self.name} at {self._iova:#x} is not mapped to RAM")
        _, _, _, _, iova, size, flags, _, _, _, _, _ = _REQUEST.unpack_from(frame, address % self._ram.page_size)
        to_memory = bool(flags & v.WRITE)
        self.on_bus(self._pieces(iova, size, to_memory=to_memory), "write" if to_memory else "read")

    def _pieces(self, iova: int, size: int, *, to_memory: bool) -> list[dmarules.Piece]:
        return dmarules.pieces(
            iova,
            size,
            to_memory=to_memory,
            entries=self.table.entries,
            permissions=lambda entry: tce.permissions(self.table.get(entry)),
            window_start=self.table.bus_offset,
            page_shift=self.table.page_shift,
            more=self.more(),
            master=self.wish,
            isolated=not self.isolation.dma,
        )

    def _told(self, direction: Direction, iova: int, size: int, why: str) -> None:
        line = f"{self.name}: {direction} of {size} bytes at {iova:#x} refused: {why}"
        self._refuse(Refusal(direction, iova, size, line))
