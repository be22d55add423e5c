"""One client of a device: its frames, the replies to them, and requests of our own.

Nothing here waits for the client: a client that reads nothing stops being read, and what is kept for it is bounded.
"""

from __future__ import annotations

import array
import asyncio
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any, Final

from tcelab.device.vfio_user import protocol
from tcelab.device.vfio_user.interrupts import INDEXES
from tcelab.device.vfio_user.pcidevice import REGIONS, PciDevice
from tcelab.device.vfio_user.protocol import (
    HEADER,
    NO_REPLY,
    REPLY,
    Command,
    Header,
    LinkLost,
    ProtocolError,
    RequestError,
)
from tcelab.device.vfio_user.requests import Requests

_LOG: Final = logging.getLogger(__name__)

_CHUNK: Final = 4096
"""Bytes that are read at once, unless a longer message has begun."""
_WAITING: Final = 4 << 20
"""Bytes that wait for a client that does not read, above which nothing is added."""
_CUT: Final = int(socket.MSG_CTRUNC)
_QUIETLY: Final = int(socket.MSG_NOSIGNAL)
_INT: Final = array.array("i").itemsize
_DEVICE_FLAGS: Final = 3
"""VFIO_DEVICE_FLAGS_RESET and _PCI."""

Descriptors = list[int]


class Connection:
    """:ivar ended: why the link ended: an error of the client's, LinkLost when it left; None: it lasts.

    :ivar messages: requests that were answered, by command.
    """

    def __init__(
        self,
        sock: socket.socket,
        device: PciDevice,
        on_end: Callable[[ProtocolError | LinkLost], None] = lambda _: None,
    ) -> None:
        """:param sock: taken over. :param on_end: told once."""
        sock.setblocking(False)  # noqa: FBT003 - its only parameter
        self._sock, self._device, self._on_end = sock, device, on_end
        self._limits = device.limits
        self._most = HEADER.size + protocol.DMA_REQUEST.size + self._limits.transfer
        self._transfer = self._limits.transfer
        # One descriptor more than allowed, so that it is seen when there are too many.
        self._control = socket.CMSG_SPACE((self._limits.descriptors + 1) * _INT)
        self._in = bytearray()
        self._at = 0  # position in the stream of the first byte of `_in`
        self._passed: list[tuple[int, int, Descriptors]] = []
        self._out = bytearray()
        self._greeted = False
        self._requests = Requests(self._limits, self._put, self.end)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading = False
        self.ended: ProtocolError | LinkLost | None = None
        self.messages: dict[int, int] = {}
        self._handlers: dict[int, Callable[[tuple[Any, ...], memoryview, Descriptors], bytes]] = {
            Command.VERSION: self._version,
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.GET_INFO: self._info,
            Command.GET_REGION_INFO: self._region_info,
            Command.GET_IRQ_INFO: self._irq_info,
            Command.SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.RESET: self._reset,
        }
        device.link = self

    def attach(self) -> None:
        """Serve from now on, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._listen(on=True)

    # -- bytes

    def readable(self) -> None:
        """Take what there is, and answer it."""
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(self._room(), self._control)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.end(LinkLost(f"the client's socket fails: {error.strerror}"))
            return
        fds = _descriptors(ancillary) if ancillary else []
        try:
            self._take(data, fds, cut=bool(flags & _CUT))
        except ProtocolError as error:
            self.end(error)

    def _room(self) -> int:
        if len(self._in) < HEADER.size:
            return _CHUNK
        return max(_CHUNK, Header(*HEADER.unpack_from(self._in)).size - len(self._in))

    def _take(self, data: bytes, fds: Descriptors, *, cut: bool) -> None:
        if fds:
            begin = self._at + len(self._in)
            self._passed.append((begin, begin + len(data), fds))
        if cut or len(fds) > self._limits.descriptors:
            raise ProtocolError(f"more than {self._limits.descriptors} descriptors with one message")
        if not data:
            cut_off = f", in the middle of a message: {len(self._in)} bytes of it" if self._in else ""
            self.end(LinkLost(f"the client closed the link{cut_off}"))
            return
        if not self._in:
            whole = protocol.header(data, self._most) if len(data) >= HEADER.size else None
            if whole is not None and whole.size == len(data):
                self._message(whole, memoryview(data)[HEADER.size :])
                return
        self._in += data
        self._messages()

    def _messages(self) -> None:
        # A client that does not read its replies gets no more of them.
        while len(self._in) >= HEADER.size and self.ended is None and len(self._out) <= _WAITING:
            found = protocol.header(self._in, self._most)
            if len(self._in) < found.size:
                break
            body = bytes(self._in[HEADER.size : found.size])
            del self._in[: found.size]
            self._message(found, memoryview(body))
        if any(end <= self._at for _, end, _ in self._passed):
            raise ProtocolError("descriptors that belong to no message")

    def _message(self, found: Header, body: memoryview) -> None:
        begin, self._at = self._at, self._at + found.size
        fds: Descriptors = []
        # Descriptors come with bytes, and belong to the last message that begins in them.
        if self._passed and self._passed[0][0] <= begin and self._at >= self._passed[0][1]:
            fds = self._passed.pop(0)[2]
        try:
            if found.is_reply:
                self._requests.reply(found, body, len(fds))
            else:
                self._request(found, body, fds)
        finally:
            for fd in fds:
                os.close(fd)

    # -- requests of the client's

    def _request(self, found: Header, body: memoryview, fds: Descriptors) -> None:
        if not self._greeted and found.command != Command.VERSION:
            raise ProtocolError(f"command {found.command} before VERSION")
        try:
            fields, rest = protocol.request(found.command, body, len(fds))
            answer = self._handlers[found.command](fields, rest, fds)
            reply = HEADER.pack(found.id, found.command, HEADER.size + len(answer), REPLY, 0) + answer
        except RequestError as error:
            _LOG.debug("%s is refused: %s", found, error)
            reply = protocol.failure(found.id, found.command, error.errno)
        self.messages[found.command] = self.messages.get(found.command, 0) + 1
        if not found.flags & NO_REPLY:
            self._send(reply)

    def _version(self, fields: tuple[Any, ...], rest: memoryview, _fds: Descriptors) -> bytes:
        if fields[0] != protocol.MAJOR:
            raise ProtocolError(f"version {fields[0]}.{fields[1]} of the protocol: {protocol.MAJOR} is the only one")
        if self._greeted:
            raise RequestError(errno.EINVAL, "VERSION a second time")
        said = protocol.capabilities(rest)
        most = protocol.number(said, "max_data_xfer_size", protocol.Limits().transfer, self._limits.transfer)
        if not most:
            raise RequestError(errno.EINVAL, "no data can be transferred")
        self._transfer, self._greeted = most, True
        return protocol.version(self._limits)

    def _dma_map(self, fields: tuple[Any, ...], _rest: memoryview, fds: Descriptors) -> bytes:
        _, flags, offset, address, size = fields
        self._device.maps.map(flags, offset, address, size, fds.pop() if fds else None)
        return b""

    def _dma_unmap(self, fields: tuple[Any, ...], _rest: memoryview, _fds: Descriptors) -> bytes:
        self._device.maps.unmap(*fields[1:])
        return protocol.REQUESTS[Command.DMA_UNMAP].fixed.pack(*fields)

    def _info(self, fields: tuple[Any, ...], _rest: memoryview, _fds: Descriptors) -> bytes:
        layout = _roomy(Command.GET_INFO, fields)
        return layout.pack(layout.size, _DEVICE_FLAGS, REGIONS, INDEXES)

    def _region_info(self, fields: tuple[Any, ...], _rest: memoryview, _fds: Descriptors) -> bytes:
        layout = _roomy(Command.GET_REGION_INFO, fields)
        flags, size = self._device.region(fields[2])
        return layout.pack(layout.size, flags, fields[2], 0, size, 0)

    def _irq_info(self, fields: tuple[Any, ...], _rest: memoryview, _fds: Descriptors) -> bytes:
        layout = _roomy(Command.GET_IRQ_INFO, fields)
        flags, count = self._device.interrupts.info(fields[2])
        return layout.pack(layout.size, flags, fields[2], count)

    def _set_irqs(self, fields: tuple[Any, ...], rest: memoryview, fds: Descriptors) -> bytes:
        _, flags, index, start, count = fields
        self._device.interrupts.set(flags, index, start, count, bytes(rest), fds)
        return b""

    def _region_read(self, fields: tuple[Any, ...], _rest: memoryview, _fds: Descriptors) -> bytes:
        offset, region, count = fields
        if count > self._limits.transfer:
            raise RequestError(errno.EINVAL, f"{count} bytes at once")
        data = self._device.region_read(region, offset, count)
        return protocol.REQUESTS[Command.REGION_READ].fixed.pack(*fields) + data

    def _region_write(self, fields: tuple[Any, ...], rest: memoryview, _fds: Descriptors) -> bytes:
        offset, region, _ = fields
        self._device.region_write(region, offset, rest)
        return protocol.REQUESTS[Command.REGION_WRITE].fixed.pack(*fields)

    def _reset(self, _fields: tuple[Any, ...], _rest: memoryview, _fds: Descriptors) -> bytes:
        self._device.region_reset()
        return b""

    # -- requests of ours

    async def dma_read(self, address: int, size: int) -> bytes:
        """See `PciDevice.dma_read`."""
        out = bytearray()
        for at, count in self._cut(address, size):
            out += await self._requests.transfer(Command.DMA_READ, at, count)
        return bytes(out)

    async def dma_write(self, address: int, data: bytes) -> None:
        """See `PciDevice.dma_write`."""
        for at, count in self._cut(address, len(data)):
            await self._requests.transfer(Command.DMA_WRITE, at, count, data[at - address : at - address + count])

    def _cut(self, address: int, size: int) -> list[tuple[int, int]]:
        if not 0 <= address < 1 << 64 or size < 0 or address + size > 1 << 64:
            raise ValueError(f"no bus addresses: {size} bytes at {address:#x}")
        step = self._transfer
        return [(address + i, min(step, size - i)) for i in range(0, size, step)]

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """See `PciDevice.later`. :raise RequestError: there is too much of it already."""
        if len(self._tasks) >= self._limits.requests:
            work.close()
            raise RequestError(errno.EAGAIN, f"{len(self._tasks)} pieces of work wait already")
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self.ended is None:
            self.end(LinkLost(f"the device failed: {error!r}"))

    # -- sending, and the end

    def _put(self, data: bytes) -> bool:
        """Send a request of ours, unless too much waits for the client already."""
        if len(self._out) > _WAITING:
            return False
        self._send(data)
        return True

    def _send(self, data: bytes) -> None:
        sent = 0
        if not self._out:
            try:
                sent = self._sock.send(data, _QUIETLY)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self.end(LinkLost(f"the client's socket fails: {error.strerror}"))
                return
            if sent == len(data):
                return
        self._out += data[sent:]
        self._listen(on=False)

    def writable(self) -> None:
        """Send what waits; once all is sent, the client is read again."""
        try:
            del self._out[: self._sock.send(self._out, _QUIETLY)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.end(LinkLost(f"the client's socket fails: {error.strerror}"))
            return
        if self._out:
            return
        self._requests.room.set()
        try:
            self._messages()
        except ProtocolError as error:
            self.end(error)
        if not self._out:
            self._listen(on=True)

    def _listen(self, *, on: bool) -> None:
        """Read, or write what waits: not both, so that a client that does not read is not read."""
        if self._loop is None or self.ended is not None or self._reading == on:
            return
        self._reading = on
        if on:
            self._loop.remove_writer(self._sock)
            self._loop.add_reader(self._sock, self.readable)
        else:
            self._loop.remove_reader(self._sock)
            self._loop.add_writer(self._sock, self.writable)

    def end(self, why: ProtocolError | LinkLost) -> None:
        """End the link, once: whoever waits for an answer gets LinkLost."""
        if self.ended is not None:
            return
        self.ended = why
        _LOG.debug("the link of %s ends: %s", type(self._device).__name__, why.message)
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, _, fds in self._passed:
            for fd in fds:
                os.close(fd)
        self._passed.clear()
        self._in.clear()
        self._out.clear()
        self._requests.close(why.message)
        for task in self._tasks:
            task.cancel()
        self._device.unlink()
        self._on_end(why)


def _roomy(command: int, fields: tuple[Any, ...]) -> struct.Struct:
    """The layout of a reply. :raise RequestError: the client has less room for it, by its argsz."""
    layout = protocol.REQUESTS[command].fixed
    if fields[0] < layout.size:
        raise RequestError(errno.EINVAL, f"room for {fields[0]} bytes, {layout.size} are needed")
    return layout


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> Descriptors:
    out = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            out.frombytes(data[: len(data) - len(data) % _INT])
    return list(out)


__all__ = ["Connection"]
