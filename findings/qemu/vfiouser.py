"""A PCI device in a process of its own, as far as QEMU's vfio-user-pci asks for one: no BARs, no interrupts, no DMA."""
# ruff: noqa: INP001 - beside scripts, in no package

import errno
import json
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

HEADER = struct.Struct("<HHIII")  # number, command, size, flags, errno
VERSION, MAP, UNMAP, INFO, REGION, IRQ, READ, WRITE = 1, 2, 3, 4, 5, 7, 9, 10
REPLY, NO_REPLY, ERROR = 0x1, 0x10, 0x20
CONFIG, CONFIG_SIZE = 7, 256
CAPABILITIES = {"max_msg_fds": 8, "max_data_xfer_size": 1 << 20, "pgsizes": 4096, "max_dma_maps": 65535}


class Device:
    """Listens on a socket. :ivar told: each DMA_MAP and DMA_UNMAP, in order."""

    def __init__(self, path: Path, refuse: Callable[[int], int] = lambda _: 0) -> None:
        """:param refuse: the errno that answers a map at that address, 0: none does."""
        self.told: list[str] = []
        self.refuse = refuse
        self.config = bytearray(struct.pack("<HHHHI", 0x1234, 0x0001, 0, 0, 0xFF000000).ljust(CONFIG_SIZE, b"\0"))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=self.serve, args=(listener,), daemon=True).start()

    def serve(self, listener: socket.socket) -> None:
        """Answer each message until QEMU goes."""
        link = listener.accept()[0]
        stream = link.makefile("rb")
        while len(head := stream.read(HEADER.size)) == HEADER.size:
            number, command, size, flags, _ = HEADER.unpack(head)
            body = stream.read(size - HEADER.size)
            wrong = self.refuse(struct.unpack_from("<Q", body, 16)[0]) if command == MAP else 0
            if wrong:
                self.told.append(f"refused with {errno.errorcode[wrong]}")
            answer = b"" if wrong else self.answer(command, body)
            if not flags & NO_REPLY:
                told = REPLY | (ERROR if wrong else 0)
                link.sendall(HEADER.pack(number, command, HEADER.size + len(answer), told, wrong) + answer)

    def answer(self, command: int, body: bytes) -> bytes:
        """Return the body of the reply."""
        index = struct.unpack_from("<I", body, 8)[0] if command in {REGION, IRQ} else 0
        there = index == CONFIG
        if command in {MAP, UNMAP}:
            return self.heard(command, body)
        if command == READ:
            offset, _, count = struct.unpack_from("<QII", body)
            return body[:16] + bytes(self.config[offset : offset + count])
        replies = {
            VERSION: body[:4] + json.dumps({"capabilities": CAPABILITIES}).encode() + b"\0",
            INFO: struct.pack("<IIII", 16, 0x3, 9, 5),  # with reset, PCI
            REGION: struct.pack("<IIIIQQ", 32, 3 * there, index, 0, CONFIG_SIZE * there, 0),
            IRQ: struct.pack("<IIII", 16, 0, index, 0),
            WRITE: body[:16],
        }
        return replies.get(command, b"")

    def heard(self, command: int, body: bytes) -> bytes:
        """Return the body of the reply to a change of a mapping."""
        if command == UNMAP:
            _, _, address, size = struct.unpack_from("<IIQQ", body)
            self.told.append(f"unmap {address:#x}, {size} bytes")
            return body[:24]
        _, flags, _, address, size = struct.unpack_from("<IIQQQ", body)
        access = {0: "nothing", 1: "read", 2: "write", 3: "read and write"}[flags & 3]
        self.told.append(f"map {address:#x}, {size} bytes, {access}")
        return b""


def two_devices(folder: Path, refuse: Callable[[int], int] = lambda _: 0) -> tuple[list[Device], list[str]]:
    """Return two devices for one PHB, and QEMU's options for them."""
    devices, options = [], []
    for slot in (1, 2):
        path = folder / f"socket-{slot}"
        devices.append(Device(path, refuse))
        there = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(path)}, "addr": str(slot)}
        options += ["-device", json.dumps(there)]
    return devices, options
