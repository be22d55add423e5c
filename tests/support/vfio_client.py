"""A small vfio-user client: what QEMU does, and whatever else a test wants to send."""

import array
import asyncio
import json
import os
import socket
import struct
from contextlib import contextmanager

from tcelab.device.vfio_user import Server
from tcelab.qemu.portal import portal

HEADER = struct.Struct("=HHIII")
VERSION, MAP, UNMAP, INFO, REGION, IO_FDS, IRQ, SET_IRQS, READ, WRITE, DMA_READ, DMA_WRITE, RESET = range(1, 14)
ENODEV = 19

SAYS = struct.pack("=HH", 0, 0) + json.dumps({"capabilities": {"max_data_xfer_size": 1 << 20}}).encode() + b"\0"


def frame(  # noqa: PLR0917 - the header's fields
    number, command, body=b"", flags=0, error=0, size=None
):
    return HEADER.pack(number, command, 16 + len(body) if size is None else size, flags, error) + body


def map_body(address, size=4096, offset=0, flags=3):
    return struct.pack("=IIQQQ", 32, flags, offset, address, size)


def unmap_body(address, size=4096, flags=0):
    return struct.pack("=IIQQ", 24, flags, address, size)


class Client:
    """Blocking. `memory`: bytes by page that the server's DMA requests reach; all else is refused with ENODEV."""

    def __init__(self, path, *, greet=True):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        try:
            self.sock.connect(path)
        except OSError:
            self.sock.close()
            raise
        self.memory, self.number, self.seen = {}, 0, []
        self.answer = self.dma
        if greet:
            self.said = self.ask(VERSION, SAYS)[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], rights)

    def exactly(self, size):
        out = b""
        while len(out) < size:
            more = self.sock.recv(size - len(out))
            if not more:
                raise EOFError(out)
            out += more
        return out

    def receive(self):
        found = HEADER.unpack(self.exactly(16))
        return found, self.exactly(found[2] - 16)

    def ask(self, command, body=b"", fds=(), flags=0):
        """(errno, body) of the reply; the server's own requests are answered meanwhile."""
        self.number += 1
        self.send(frame(self.number, command, body, flags), fds)
        while True:
            (number, answered, _, told, error), answer = self.receive()
            if not told & 1:
                self.answer(number, answered, answer)
                continue
            assert (number, answered) == (self.number, command)
            return (error, answer) if told & 0x20 else (0, answer)

    def dma(self, number, command, body):
        """Answer one request of the server's as QEMU does."""
        address, count = struct.unpack_from("=QQ", body)
        self.seen.append((command, address, count))
        page = self.memory.get(address & ~4095)
        if page is None:
            self.send(frame(number, command, b"", 0x21, ENODEV))
        elif command == DMA_READ:
            at = address & 4095
            self.send(frame(number, command, body[:16] + bytes(page[at : at + count]), 1))
        else:
            page[address & 4095 : (address & 4095) + count] = body[16:]
            self.send(frame(number, command, b"", 1))

    def serve(self, requests=1):
        """Answer the server's next requests."""
        for _ in range(requests):
            (number, command, *_), body = self.receive()
            self.answer(number, command, body)

    # -- as a driver

    def map(self, address, size=4096, offset=0, flags=3, fd=None):
        return self.ask(MAP, map_body(address, size, offset, flags), () if fd is None else (fd,))[0]

    def unmap(self, address, size=4096, flags=0):
        return self.ask(UNMAP, unmap_body(address, size, flags))[0]

    def read(self, region, offset, count):
        error, body = self.ask(READ, struct.pack("=QII", offset, region, count))
        return error or int.from_bytes(body[16:], "little")

    def write(self, region, offset, value, count=8):
        body = struct.pack("=QII", offset, region, count) + value.to_bytes(count, "little")
        return self.ask(WRITE, body)[0]

    def irqs(  # noqa: PLR0917 - the message's fields
        self, flags, index, start, count, data=b"", fds=()
    ):
        return self.ask(SET_IRQS, struct.pack("=IIIII", 20 + len(data), flags, index, start, count) + data, fds)[0]


async def _made(device, kwargs):
    return Server(device, **kwargs)


async def _closed(server):
    server.close()


@contextmanager
def serving(device, **kwargs):
    """A server for the device, on the loop's thread."""
    server = portal().call(_made(device, kwargs))
    try:
        yield server
    finally:
        portal().call(_closed(server))


def ended(server):
    """Wait until the link of a server has ended, and say why."""

    async def wait():
        async with asyncio.timeout(20):
            await server.ended()

    portal().call(wait())
    return server.why


def memory_file(size):
    fd = os.memfd_create("ram", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd
