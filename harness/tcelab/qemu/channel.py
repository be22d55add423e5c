"""The agent's channel: length-prefixed JSON frames over virtio-serial, and the agent's progress cell in guest RAM."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final

import msgspec

from tcelab.errors import HarnessError
from tcelab.qemu.ram import Ram

PORT: Final = "org.tcelab.agent"
PROTOCOL: Final = 1
_LENGTH: Final = struct.Struct(">I")
_LONGEST: Final = 64 << 20
_CHUNK: Final = 1 << 18


class Hello(msgspec.Struct, frozen=True):
    """The agent's side of the handshake.

    :ivar cell: guest physical address of the progress cell.
    :ivar page_size: bytes; `huge`: that of a huge page, 0: there are none.
    :ivar kexec: the kernel can start another one; `crashkernel`: bytes that it keeps free for a crash kernel.
    :ivar hotplug: why the guest cannot take devices that are plugged in; empty if it can.
    :ivar helpers: programs for hot plug that the image has; see `tceagent.helpers`.
    :ivar clock: the guest's, seconds since 1970, once it was set.
    :ivar drawn: 16 bytes of the guest's random generator, in hex, after the host's were stirred in.
    """

    protocol: int
    digest: str
    cell: int
    page_size: int
    huge: int
    kernel: str
    version: str
    machine: str
    python: str
    cmdline: str
    modules: list[str]
    clock: float
    drawn: str
    kexec: bool = False
    crashkernel: int = 0
    hotplug: str = "the image's agent is of another tcelab"
    helpers: list[str] = []


class AgentChannel:
    """One request, one answer. Lives on the loop; the caller encodes requests and decodes answers."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)  # noqa: FBT003 - its only parameter
        self._end = end
        self._buffer = bytearray()

    async def ask(self, request: bytes) -> bytes:
        """Send a frame and return the next frame.

        :raise HarnessError: the agent sent something that is no frame.
        :raise EOFError: QEMU closed the channel.
        """
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._end, _LENGTH.pack(len(request)) + request)
        return await self._frame(loop)

    async def _frame(self, loop: asyncio.AbstractEventLoop) -> bytes:
        await self._fill(loop, _LENGTH.size)
        (length,) = _LENGTH.unpack_from(self._buffer)
        if not 0 < length <= _LONGEST:
            raise HarnessError(
                f"malformed frame from the agent: length {length}, bytes {bytes(self._buffer[:16]).hex()}",
                next_step="the image's agent does not speak tcelab's protocol: tcelab image build",
            )
        await self._fill(loop, _LENGTH.size + length)
        frame = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
        del self._buffer[: _LENGTH.size + length]
        return frame

    async def _fill(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        while len(self._buffer) < size:
            data = await loop.sock_recv(self._end, _CHUNK)
            if not data:
                raise EOFError("QEMU closed the agent's channel")
            self._buffer += data

    def close(self) -> None:
        self._end.close()


def decode(frame: bytes, number: int) -> dict[str, Any]:
    """The answer to request `number`.

    :raise HarnessError: not JSON, another request's answer, or the agent failed: then with the agent's traceback.
    """
    try:
        answer = msgspec.json.decode(frame, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise HarnessError(f"malformed frame from the agent: {error}: {frame[:60]!r}") from None
    if "failed" in answer:
        failed = answer["failed"] if isinstance(answer["failed"], dict) else {}
        trace = str(failed.get("traceback", "")).rstrip()
        raise HarnessError(
            f"the agent failed at operation {failed.get('at')} of request {number}: {trace.splitlines()[-1:]}\n{trace}",
            next_step="a defect of the agent or of the program; the traceback is the agent's",
        )
    if answer.get("id") != number:
        raise HarnessError(f"the agent answered request {answer.get('id')}, not {number}")
    return answer


class Cell:
    """One page of agent memory where it notes what it is about to do: read straight from guest RAM, so it is there
    even when the kernel is not. Layout: see `tceagent`.
    """

    FIELDS: Final = struct.Struct("<8s16sQQ")
    BEATS: Final = struct.Struct("<Q")
    MAGIC: Final = b"TCELABPC"

    def __init__(self, ram: Ram, address: int, nonce: bytes) -> None:
        self._ram = ram
        self._address = address
        self._nonce = nonce

    def move(self, ram: Ram) -> None:
        """The guest's RAM is another file."""
        self._ram = ram

    def read(self) -> tuple[int, int, int] | None:
        """(request, operation) begun last, and the count of progress marks of long operations; None if the page is not,
        or no longer, where the agent said.
        """
        try:
            raw = self._ram.read(self._address, self.FIELDS.size + self.BEATS.size)
        except HarnessError:
            return None
        if raw is None:
            return None
        magic, nonce, request, operation = self.FIELDS.unpack_from(raw)
        (beats,) = self.BEATS.unpack_from(raw, self.FIELDS.size)
        return (request, operation, beats) if (magic, nonce) == (self.MAGIC, self._nonce) else None
