"""The probe: a DMA master on the host, driven by the guest through its BAR and by the harness directly.

Registers below 0x1000 are those of QEMU's edu (hw/misc/edu.c), big endian as there on ppc64, so whoever drives an edu
drives a probe; but a transfer takes the time that it takes, and not 100 ms. The doorbells above are little endian, and
for any length, address and number of transfers. Each transfer is cut at IOMMU pages, and each piece is one message,
which QEMU judges by its own table: what is refused, and with which errno, is known for each page.
"""

from __future__ import annotations

import asyncio
import errno
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final, Literal, NamedTuple, Protocol

from tceagent import edu
from tceagent.doorbell import BUSY, INTERRUPT, INVALID, LONGEST, MOST, RUN, SHARED, TO_MEMORY, Register
from tcelab.device.vfio_user import Bar, DmaRefused, PciDevice
from tcelab.device.vfio_user.configspace import MASTER, QEMU_VENDOR, Identity
from tcelab.device.vfio_user.protocol import PAGE, Limits, MapFlag

DEVICE: Final = 0x1CE0
"""In QEMU's range for experiments, and no other device's there (QEMU docs/specs/pci-ids.rst)."""

BAR_SIZE: Final = 1 << 20
MAGIC: Final = int.from_bytes(b"TCEPROBE", "big")

KEPT: Final = 256
"""Transfers that are remembered: the data of those alone that are no longer than a page."""
MOST_APART: Final = 4096

Mode = Literal["message", "shared"]
Apart = tuple[int, int, bool, int, int]
"""Bus address and bytes of a piece, whether it was to memory, QEMU's errno and that of the probe's own table."""


_INPUTS: Final = (
    *(edu.SOURCE, edu.DESTINATION, edu.COUNT),
    *(Register.ADDRESS, Register.LENGTH, Register.STRIDE, Register.COUNT, Register.PATTERN),
)
_RESULTS: Final = (Register.ALLOWED, Register.REFUSED, Register.ERRNO, Register.FIRST_REFUSED, Register.DIGEST)
_WORD: Final = 8
_END: Final = 1 << 64


class Piece(NamedTuple):
    """A part of a transfer within one IOMMU page.

    :ivar errno: 0: it was done; by messages, this is QEMU's verdict.
    :ivar own: the verdict of the probe's own table, an errno as well; None: it changed meanwhile.
    """

    address: int
    size: int
    errno: int
    own: int | None = None


class Transferred(NamedTuple):
    """One transfer, done. :ivar data: what was read, zeros where it was refused; what was to be written."""

    address: int
    to_memory: bool
    mode: Mode
    pieces: tuple[Piece, ...]
    data: bytes

    @property
    def refused(self) -> tuple[Piece, ...]:
        return tuple(piece for piece in self.pieces if piece.errno)


def cut(address: int, size: int) -> Iterator[tuple[int, int]]:
    """(bus address, bytes) of each part of a transfer that lies within one page of 4 KiB."""
    end = address + size
    while address < end:
        step = min(end - address, PAGE - address % PAGE)
        yield address, step
        address += step


class Watcher(Protocol):
    """Hears of a probe's transfers while they are done. Both are called on the loop."""

    def began(self, address: int, size: int, *, to_memory: bool) -> None:
        """A transfer is about to begin: nothing of it was asked for yet."""
        ...

    async def refused(self, address: int, size: int, piece: Piece, *, to_memory: bool) -> None:
        """A piece of that transfer was refused, the first one. The next piece waits until this returns."""
        ...


class Probe(PciDevice):
    """:ivar watcher: hears of its transfers; None: nobody does.

    :ivar done: the last transfers, by whomever they were asked for.

    :ivar asked: pieces that were answered.

    :ivar judged: pieces that QEMU's table and its own have both judged; `apart`: of which they say otherwise, at most
        `MOST_APART` of them.
    """

    identity = Identity(QEMU_VENDOR, DEVICE, QEMU_VENDOR, DEVICE)
    bars = (Bar(0, BAR_SIZE),)
    vectors = 1

    def __init__(self, limits: Limits | None = None) -> None:
        self.watcher: Watcher | None = None
        self._at_work = 0
        self._rest = asyncio.Event()
        self._rest.set()
        self.done: deque[Transferred] = deque(maxlen=KEPT)
        self.judged = self.asked = 0
        self.apart: list[Apart] = []
        super().__init__(limits)

    # -- registers

    def reset(self) -> None:
        """See `PciDevice.reset`."""
        self._registers = dict.fromkeys((*_INPUTS, *_RESULTS, Register.STATUS), 0)
        self._alive = 0
        self._buffer = bytearray(edu.BUFFER_SIZE)
        self._running = 0

    def read(self, bar: int, offset: int, size: int) -> bytes:  # noqa: ARG002 - it has but one
        """See `PciDevice.read`."""
        if offset < Register.MAGIC:
            known = {edu.IDENTITY: edu.IS_EDU, edu.LIVENESS: self._alive, edu.COMMAND: self._running}
            value = known.get(offset, self._registers.get(offset, 0))
            return (value & (1 << 8 * size) - 1).to_bytes(size, "big")
        at = offset - offset % _WORD
        whole = (MAGIC if at == Register.MAGIC else self._registers.get(at, 0)).to_bytes(_WORD, "little")
        return whole[offset - at : offset - at + size].ljust(size, b"\0")

    def write(self, bar: int, offset: int, data: bytes) -> None:  # noqa: ARG002 - it has but one
        """See `PciDevice.write`. What is no register is not written, nor is a doorbell's while it is busy."""
        if offset < Register.MAGIC:
            self._write_edu(offset, int.from_bytes(data[:_WORD], "big"))
            return
        value = int.from_bytes(data[:_WORD], "little")
        if self._registers[Register.STATUS] & BUSY:
            return
        if offset == Register.COMMAND and value & RUN:
            self._ring(value)
        elif offset in _INPUTS:
            self._registers[offset] = value

    def _write_edu(self, offset: int, value: int) -> None:
        if offset == edu.LIVENESS:
            self._alive = ~value & 0xFFFFFFFF
        elif self._running:
            return
        elif offset == edu.COMMAND and value & edu.RUN:
            self._running = value
            self._work(partial(self._as_edu, to_memory=bool(value & edu.TO_MEMORY)))
        elif offset in _INPUTS:
            self._registers[offset] = value

    # -- work

    def _work(self, what: Callable[[], Awaitable[None]]) -> None:
        """Begin what was told by a register."""
        self._at_work += 1
        self._rest.clear()
        try:
            self.later(self._whole(what))
        except BaseException:
            self._ended()
            raise

    async def _whole(self, what: Callable[[], Awaitable[None]]) -> None:
        try:
            await what()
        finally:
            self._ended()

    def _ended(self) -> None:
        self._at_work -= 1
        if not self._at_work:
            self._rest.set()

    async def idle(self) -> None:
        """Wait until nothing is left of what its registers have told it."""
        while self._at_work:
            await self._rest.wait()

    # -- as an edu

    async def _as_edu(self, *, to_memory: bool) -> None:
        source, destination, size = (self._registers[each] for each in (edu.SOURCE, edu.DESTINATION, edu.COUNT))
        inside, address = (source, destination) if to_memory else (destination, source)
        begin = inside - edu.BUFFER
        if begin >= 0 and begin + size <= len(self._buffer) and address + size <= _END:
            if to_memory:
                await self.dma(address, bytes(self._buffer[begin : begin + size]))
            else:
                self._buffer[begin : begin + size] = (await self.dma(address, size)).data
        self._running = 0

    # -- doorbells

    def _ring(self, command: int) -> None:
        length, count = self._registers[Register.LENGTH], self._registers[Register.COUNT]
        for each in _RESULTS:
            self._registers[each] = 0
        if not 0 < length <= LONGEST or not 0 < count <= MOST:
            self._registers[Register.STATUS] = INVALID
            return
        self._registers[Register.STATUS] = BUSY
        self._work(partial(self._answer, command))

    async def _answer(self, command: int) -> None:
        registers = self._registers
        length, pattern = registers[Register.LENGTH], registers[Register.PATTERN]
        data = (pattern.to_bytes(_WORD, "little") * (length // _WORD + 1))[:length]
        mode: Mode = "shared" if command & SHARED else "message"
        for i in range(registers[Register.COUNT]):
            address = (registers[Register.ADDRESS] + i * registers[Register.STRIDE]) % _END
            if address + length > _END:  # there are no such addresses: nobody is asked
                refused: tuple[Piece, ...] = (Piece(address, length, errno.ERANGE),)
            else:
                done = await self.dma(address, data if command & TO_MEMORY else length, mode)
                refused = done.refused
                if not command & TO_MEMORY:
                    registers[Register.DIGEST] = zlib.crc32(done.data, registers[Register.DIGEST])
            registers[Register.ALLOWED] += not refused
            if refused and not registers[Register.REFUSED]:
                registers[Register.ERRNO] = refused[0].errno
                registers[Register.FIRST_REFUSED] = refused[0].address
            registers[Register.REFUSED] += bool(refused)
        registers[Register.STATUS] = 0
        if command & INTERRUPT and self.config.command & MASTER:  # an MSI is a write of the device's
            self.signal()

    # -- by the harness

    async def dma(self, address: int, what: bytes | int, mode: Mode = "message") -> Transferred:
        """Do one transfer now: write bytes, or read as many. Refusals are told, not raised.

        :raise LinkLost: the machine is gone.
        :raise ValueError: beyond 2^64 bytes.
        """
        size, to_memory = (what, False) if isinstance(what, int) else (len(what), True)
        if not 0 <= address <= _END - size:
            raise ValueError(f"no bus addresses: {size} bytes at {address:#x}")
        if self.watcher is not None:
            self.watcher.began(address, size, to_memory=to_memory)
        pieces: list[Piece] = []
        data, first = bytearray(size if isinstance(what, int) else what), True
        for at, count in cut(address, size):
            begin = at - address
            refused, before, own = 0, self._state, self.own_verdict(at, to_memory=to_memory)
            try:
                if to_memory:
                    await self._put(at, bytes(data[begin : begin + count]), mode)
                else:
                    data[begin : begin + count] = await self._get(at, count, mode)
            except DmaRefused as error:
                refused = error.errno or errno.EIO
            self.asked += 1
            pieces.append(Piece(at, count, refused, own if self._state == before else None))
            if refused and first and self.watcher is not None:
                first = False
                await self.watcher.refused(address, size, pieces[-1], to_memory=to_memory)
        done = Transferred(address, to_memory, mode, tuple(pieces), bytes(data))
        self.done.append(done if size <= PAGE else done._replace(data=b""))
        if mode == "message":
            self._compare(done)
        return done

    def _compare(self, done: Transferred) -> None:
        for piece in done.pieces:
            self.judged += piece.own is not None
            if piece.own is not None and bool(piece.own) != bool(piece.errno) and len(self.apart) < MOST_APART:
                self.apart.append((piece.address, piece.size, done.to_memory, piece.errno, piece.own))

    @property
    def _state(self) -> tuple[int, int]:
        """Changes whenever its own verdict may."""
        return self.maps.total, self.config.command & MASTER

    def own_verdict(self, address: int, *, to_memory: bool) -> int:
        """What the probe's own table, and its command register, say of a byte: 0, or an errno."""
        if not self.config.command & MASTER:
            return errno.ECONNREFUSED
        return self.maps.verdict(address, MapFlag.WRITE if to_memory else MapFlag.READ)

    async def _put(self, address: int, data: bytes, mode: Mode) -> None:
        if mode == "shared":
            self.shared_write(address, data)
        else:
            await self.dma_write(address, data)

    async def _get(self, address: int, size: int, mode: Mode) -> bytes:
        return self.shared_read(address, size) if mode == "shared" else await self.dma_read(address, size)
