"""Requests of the server's to its client, DMA_READ and DMA_WRITE, and the client's replies to them."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final

from tcelab.device.vfio_user import protocol
from tcelab.device.vfio_user.protocol import ERROR, Command, DmaRefused, Header, Limits, LinkLost, ProtocolError

_NUMBERS: Final = 0x10000


class _RefusedError(Exception):
    """The client refuses a request. :ivar errno: number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.errno = number


class Requests:
    """:ivar room: set when there may be room for one more."""

    def __init__(
        self, limits: Limits, put: Callable[[bytes], bool], end: Callable[[ProtocolError | LinkLost], None]
    ) -> None:
        """:param put: sends a message; False: not now, `room` will be set.
        :param end: ends the link.
        """
        self._limits, self._put, self._end = limits, put, end
        self._number = 0
        self._waiting: dict[int, tuple[int, asyncio.Future[memoryview]]] = {}
        self._closed = ""
        self.room = asyncio.Event()

    async def transfer(self, command: int, address: int, size: int, data: bytes = b"") -> bytes:
        """One message, and its reply: the data that were read.

        :raise DmaRefused: the client refuses it.
        :raise LinkLost: the client is gone, or does not answer.
        :raise ProtocolError: the reply is not about this transfer.
        """
        try:
            answer = await self._ask(command, protocol.DMA_REQUEST.pack(address, size) + data)
        except _RefusedError as error:
            raise DmaRefused(error.errno, address, size) from None
        try:
            return protocol.transferred(answer, command, address, size)
        except ProtocolError as error:
            self._end(error)
            raise

    async def _ask(self, command: int, body: bytes) -> memoryview:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[memoryview] = loop.create_future()
        while True:
            if self._closed:
                raise LinkLost(f"{Command(command).name}: {self._closed}")
            number = self._free()
            if len(self._waiting) < self._limits.requests:
                self._waiting[number] = command, future
                if self._put(protocol.message(number, command, body)):
                    break
                self._waiting.pop(number, None)
            self.room.clear()
            await self.room.wait()
        try:
            async with asyncio.timeout(self._limits.answer):
                return await future
        except TimeoutError:
            gave_up = LinkLost(f"the client does not answer {Command(command).name} within {self._limits.answer:g} s")
            self._end(gave_up)
            raise gave_up from None

    def _free(self) -> int:
        self._number = (self._number + 1) % _NUMBERS
        while self._number in self._waiting:
            self._number = (self._number + 1) % _NUMBERS
        return self._number

    def reply(self, found: Header, body: memoryview, fds: int) -> None:
        """Take a reply of the client's.

        :raise ProtocolError: it answers nothing that was asked.
        """
        command, future = self._waiting.pop(found.id, (None, None))
        if future is None or command is None:
            raise ProtocolError(f"a reply with id {found.id}, which no request without an answer has")
        self.room.set()
        name = Command(command).name
        wrong = ""
        if found.command != command:
            wrong = f"a reply to command {found.command} answers {name}"
        elif fds:
            wrong = f"{fds} descriptors with a reply to {name}"
        elif found.flags & ERROR and body:
            wrong = f"a refusal of {name} with a body of {len(body)} bytes"
        if wrong:
            _fail(future, LinkLost(wrong))
            raise ProtocolError(wrong)
        if found.flags & ERROR:
            _fail(future, _RefusedError(found.error or errno.EIO))
        elif not future.done():
            future.set_result(body)

    def close(self, why: str) -> None:
        """The link has ended: whoever waits gets LinkLost."""
        self._closed = why
        for _, future in self._waiting.values():
            _fail(future, LinkLost(why))
        self._waiting.clear()
        self.room.set()


def _fail(future: asyncio.Future[memoryview], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
