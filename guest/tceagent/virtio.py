"""QEMU's virtio-blk as a DMA engine: a minimal driver that moves data between its disk and bus addresses.

One queue, one request at a time, no interrupts. Sources: Virtual I/O Device 1.2, 4.1 (PCI), 2.7 (split virtqueues), 5.2
(block); QEMU hw/virtio/virtio-pci.c, hw/virtio/virtio.c, hw/block/virtio-blk.c. All numbers are little endian, as the
guest is.
"""

from __future__ import annotations

from struct import Struct

from tceagent import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tceagent.seam import Kernel, Memory, Registers

MODEL = 0x10421AF4
"""Device and vendor: the first 32 bits of its configuration space."""

SECTOR = 512
LONGEST = 4096
"""Bytes of a transfer. The refused part of a request goes through a bounce buffer of one page (system/physmem.c,
address_space_map). If more is refused, the whole request is refused without a line in QEMU's log, and QEMU 10.0 never
gets its bounce buffer back.
"""

CAPABILITIES = 0x34
VENDOR_SPECIFIC = 0x09
COMMON, NOTIFY, DEVICE = 1, 2, 4
"""Kinds of capabilities (4.1.4): common configuration, doorbells, device configuration."""
CAPABILITY = Struct("<BBBBBxxxIII")
"""ID, where the next one is, length, kind, BAR, offset in it, length in it, and of doorbells how far apart they are."""

DRIVER_FEATURE_SELECT, DRIVER_FEATURE = 0x08, 0x0C
IDENTITY = 0x10
"""The vector of the configuration interrupt, none, and the number of queues, 16 bits each: nobody changes them here."""
IS_READY = 0x0001FFFF
"""What the register IDENTITY holds: no vector for changes of the configuration, and one queue."""
STATUS = 0x14
QUEUE_SELECT, QUEUE_SIZE, QUEUE_ENABLE, QUEUE_NOTIFY_OFF = 0x16, 0x18, 0x1C, 0x1E
QUEUE_DESCRIPTORS, QUEUE_AVAILABLE, QUEUE_USED = 0x20, 0x28, 0x30
"""Registers of the common configuration (4.1.4.3)."""

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64
"""Device status (2.1)."""
READY = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK
FEATURES = {0: 0, 1: 3}
"""By the half of the 64 bits. VERSION_1 and ACCESS_PLATFORM, without which it would not ask the TCE table."""

PAGE = 4096
RING = 2 * PAGE
QUEUE = 16
"""Descriptors of the queue, of which a request takes three: its head, its data, its answer."""
AVAILABLE, USED = 1024, 2048
"""Where the two rings of the queue are in the first page; its descriptors are at the start of it."""
ANSWER = 16
"""Where a request's answer is in the second page; its head is at the start of it."""
NEXT, WRITE = 1, 2
"""Flags of a descriptor (2.7.5): another one follows; the device writes there."""
READ_DISK, WRITE_DISK = 0, 1
"""Types of a request (5.2.6)."""
NO_ANSWER = 0xFF
DESCRIPTOR = Struct("<QIHH")
HEAD = Struct("<IIQ")

ALL_ONES = (1 << 64) - 1
"""Value of unreachable registers: the PE is isolated."""
NOT_READY = 1
"""Value of a transfer that the device does not accept: it is not set up, or no longer answers."""
_BYTE = 0xFF
_HALF = 0xFFFF
_WORD = 0xFFFFFFFF

TIME_LIMIT = 2.0
"""Seconds; a transfer takes 0.1 ms."""
BLOCKED = 0.02
"""Seconds after which a device that does not master the bus will not do a transfer any more."""
_POLL = 0.0005
_TURNS = 200
"""Polls of the ring before anything else is checked: some 0.1 ms under TCG."""
_BEAT = 256
"""Transfers between two progress marks."""


class Place:
    """Where its registers are, all in one BAR: offsets. `spacing`: bytes from one doorbell to the next."""

    def __init__(self, bar: int, common: int, doorbells: int, spacing: int, disk: int) -> None:
        self.bar, self.common, self.doorbells, self.spacing, self.disk = bar, common, doorbells, spacing, disk


def find(read: Callable[[int, int], bytes]) -> Place:
    """Walk the capabilities of a device.

    :param read: so many bytes of its configuration space, from an offset on.
    :raise RefusedError: ENODEV: it is no modern virtio device, or has its registers in several BARs.
    """
    found: dict[int, tuple[int, int, int]] = {}
    seen = set()
    at = read(1, CAPABILITIES)[0]
    while at and at not in seen:
        seen.add(at)
        known, following, _, kind, bar, offset, _, spacing = CAPABILITY.unpack(read(CAPABILITY.size, at))
        if known == VENDOR_SPECIFIC:
            found.setdefault(kind, (bar, offset, spacing))
        at = following
    parts = [found.get(kind, (-1, 0, 0)) for kind in (COMMON, NOTIFY, DEVICE)]
    (bar, common, _), (_, doorbells, spacing), (_, disk, _) = parts
    if bar < 0 or any(part[0] != bar for part in parts):
        raise errors.RefusedError("ENODEV")
    return Place(bar, common, doorbells, spacing, disk)


def identity(registers: Registers, place: Place) -> int:
    """0x0001ffff: one queue and no vector. All ones (32 bits) when it cannot be reached."""
    at = place.common + IDENTITY
    return registers.read16(at) | registers.read16(at + 2) << 16


def reached(registers: Registers, place: Place) -> bool:
    """Can its registers be reached?"""
    return registers.read8(place.common + STATUS) != _BYTE


def check(size: int, offset: int, disk: int) -> None:
    """:param disk: its size in bytes.

    :raise ValueError: the device does not do such a transfer.
    """
    if not 0 < size <= LONGEST or size % SECTOR:
        raise ValueError(f"a transfer of {size} bytes: a disk does 1 to {LONGEST // SECTOR} whole sectors of {SECTOR}")
    if offset % SECTOR or not 0 <= offset <= disk - size:
        raise ValueError(f"{size} bytes at {offset} are no whole sectors of a disk of {disk} bytes")


class Engine:
    """A device that is set up: from `begin` on, until it is reset or loses bus mastering."""

    def __init__(
        self,
        kernel: Kernel,
        registers: Registers,
        place: Place,
        ring: tuple[Memory, int, int],
        mastering: Callable[[], bool],
    ) -> None:
        """:param ring: memory for the queue, the number of the first of the two pages there, and their bus address.
        :param mastering: does the device master the bus?
        """
        self._memory, self._first, self._iova = ring
        self._kernel, self._registers, self._place, self._mastering = kernel, registers, place, mastering
        self._status = place.common + STATUS
        self._queue, self._request = self._memory.page(self._first), self._memory.page(self._first + 1)
        self._available = self._queue[AVAILABLE + 2 : AVAILABLE + 4].cast("H")
        self._used = self._queue[USED + 2 : USED + 4].cast("H")
        self._index = 0
        self._bell = 0
        self._disk = 0

    def begin(self) -> int | None:
        """Reset the device and set it up (3.1.1).

        :return: 0, `ALL_ONES` when it cannot be reached, None if it does not end its reset.
        :raise RefusedError: EOPNOTSUPP: it does not have what is needed.
        """
        registers, common, status = self._registers, self._place.common, self._status
        if not reached(registers, self._place):
            return ALL_ONES
        registers.write8(status, 0)
        end = self._kernel.monotonic() + TIME_LIMIT
        while registers.read8(status):
            if self._kernel.monotonic() > end:
                return None
        registers.write8(status, ACKNOWLEDGE)
        registers.write8(status, ACKNOWLEDGE | DRIVER)
        for half, features in FEATURES.items():
            registers.write32(common + DRIVER_FEATURE_SELECT, half)
            registers.write32(common + DRIVER_FEATURE, features)
        registers.write8(status, READY & ~DRIVER_OK)
        if not registers.read8(status) & FEATURES_OK:
            raise errors.RefusedError("EOPNOTSUPP")
        self._disk = SECTOR * (registers.read32(self._place.disk) | registers.read32(self._place.disk + 4) << 32)
        self._lay_out()
        self._enable()
        registers.write8(status, READY)
        return 0

    def _lay_out(self) -> None:
        """Write an empty queue, and the constant parts of the one request."""
        self._queue[:] = self._request[:] = bytes(PAGE)
        request = self._iova + PAGE
        DESCRIPTOR.pack_into(self._queue, 0, request, HEAD.size, NEXT, 1)
        DESCRIPTOR.pack_into(self._queue, 2 * DESCRIPTOR.size, request + ANSWER, 1, WRITE, 0)
        self._index = 0

    def _enable(self) -> None:
        registers, common = self._registers, self._place.common
        registers.write16(common + QUEUE_SELECT, 0)
        registers.write16(common + QUEUE_SIZE, QUEUE)
        for register, offset in ((QUEUE_DESCRIPTORS, 0), (QUEUE_AVAILABLE, AVAILABLE), (QUEUE_USED, USED)):
            registers.write32(common + register, self._iova + offset & _WORD)
            registers.write32(common + register + 4, self._iova + offset >> 32)
        number = registers.read16(common + QUEUE_NOTIFY_OFF)
        self._bell = self._place.doorbells + number * self._place.spacing
        registers.write16(common + QUEUE_ENABLE, 1)

    def _expect(self) -> int:
        """0 if the device is ready for a transfer, and as it was set up here.

        :raise ValueError: the ring's memory was protected.
        """
        self._memory.page(self._first)
        if not reached(self._registers, self._place):
            return ALL_ONES
        queue = self._place.common + QUEUE_DESCRIPTORS
        ours = self._registers.read32(queue) | self._registers.read32(queue + 4) << 32 == self._iova
        return 0 if ours and self._registers.read8(self._status) == READY else NOT_READY

    def run(self, transfers: Sequence[tuple[int, int, bool, int]]) -> tuple[int, int | None]:
        """Do transfers one after the other: bus address, bytes, whether to memory, offset on the disk.

        :return: how many were done; 0, or what ended it: `ALL_ONES` when the device could not be reached, `NOT_READY`,
            None when it did not answer in time. Nothing tells whether an access was refused. A transfer whose device
            cannot be reached any more counts as done.
        :raise ValueError: see `check`; before the device is touched.
        """
        for _, size, _, offset in transfers:
            check(size, offset, self._disk)
        value: int | None = self._expect()
        if value:
            return 0, value
        # Nothing is looked up twice: this loop dominates the cost of a thousand transfers.
        queue, request, available, used = self._queue, self._request, self._available, self._used
        describe, head, ring, bell = DESCRIPTOR.pack_into, HEAD.pack_into, self._registers.write16, self._bell
        at, index, done, turns = DESCRIPTOR.size, self._index, 0, range(_TURNS)
        for iova, size, to_memory, offset in transfers:
            if not done % _BEAT:
                self._kernel.beat()
            if to_memory:
                describe(queue, at, iova, size, NEXT | WRITE, 2)
                head(request, 0, READ_DISK, 0, offset // SECTOR)
            else:
                describe(queue, at, iova, size, NEXT, 2)
                head(request, 0, WRITE_DISK, 0, offset // SECTOR)
            request[ANSWER] = NO_ANSWER
            index = self._index = index + 1 & _HALF
            # The ring's entry, number 0 of the descriptors, is what it always is.
            available[0] = index
            ring(bell, 0)
            for _ in turns:
                if used[0] == index:
                    break
            else:
                value = self._late(index)
                if value == ALL_ONES:  # begun it was
                    done += 1
                    return done, ALL_ONES if done < len(transfers) else 0
                if value != 0:
                    return done, value
            if request[ANSWER]:
                raise errors.RefusedError("EIO")
            done += 1
        return done, 0

    def _late(self, index: int) -> int | None:
        """Wait on for a transfer: 0 once it is done; `ALL_ONES` when the device cannot be reached any more, for it may
        have been kept from saying so. One that is given up is not done later: the device is reset.
        """
        now = self._kernel.monotonic()
        blocked, end = now + BLOCKED, now + TIME_LIMIT
        while self._used[0] != index:
            self._kernel.sleep(_POLL)
            status, now = self._registers.read8(self._status), self._kernel.monotonic()
            if self._used[0] == index:
                break  # it ended before whatever happened to the device
            if status == _BYTE:
                return ALL_ONES
            if status & NEEDS_RESET:
                return NOT_READY
            if now > end or (now > blocked and not self._mastering()):
                self._registers.write8(self._status, 0)
                return None if self._mastering() else NOT_READY
        return 0
