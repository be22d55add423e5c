"""Messages of the vfio-user protocol, as tables, and their strict parsing.

All numbers are in the host's byte order. A message is a header and a body; the header's size counts both. Source: QEMU
docs/interop/vfio-user.rst; where QEMU's client differs from it, hw/vfio-user/ of QEMU 11.1.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import Any, Final, NamedTuple

from tcelab.errors import HarnessError

HEADER: Final = struct.Struct("=HHIII")
"""Message id, command, size, flags, error."""

REPLY: Final = 0x1
NO_REPLY: Final = 0x10
ERROR: Final = 0x20
TYPE: Final = 0xF

MAJOR: Final = 0
MINOR: Final = 0

PAGE: Final = 4096


class Command(IntEnum):
    """Number of each command. Those from DMA_READ to DMA_WRITE go from server to client, all others the other way."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    GET_INFO = 4
    GET_REGION_INFO = 5
    GET_REGION_IO_FDS = 6
    GET_IRQ_INFO = 7
    SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    RESET = 13
    REGION_WRITE_MULTI = 15
    FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


class Limits(NamedTuple):
    """What a client may make the server hold, and how long the server waits.

    :ivar transfer: most bytes of data in one message; `max_data_xfer_size` of the protocol.
    :ivar descriptors: most descriptors with one message; `max_msg_fds`.
    :ivar maps: most DMA mappings at a time; `max_dma_maps`.
    :ivar files: most different files behind them.
    :ivar changes: most changes of the mappings that are kept until somebody takes them.
    :ivar requests: most requests of the server's that have no answer yet.
    :ivar answer: seconds until a client that does not answer a request counts as lost.
    """

    transfer: int = 1 << 20
    descriptors: int = 8
    maps: int = 65535
    files: int = 16
    changes: int = 1 << 20
    requests: int = 256
    answer: float = 30.0


class Tail(IntEnum):
    """What follows the fixed part of a request's body."""

    NOTHING = 0
    COUNTED = 1
    """As many bytes as the last field of the fixed part says."""
    TEXT = 2
    """Up to `LONGEST_TEXT` bytes."""


LONGEST_TEXT: Final = 4096
"""Bytes of capabilities in a VERSION message; QEMU sends about 150."""


class Shape(NamedTuple):
    """The body of a request.

    :ivar fields: names of the fixed part's fields, in order.
    :ivar fds: most descriptors with it.
    """

    fixed: struct.Struct
    fields: tuple[str, ...]
    tail: Tail = Tail.NOTHING
    fds: int = 0


def _shape(layout: str, fields: str, tail: Tail = Tail.NOTHING, fds: int = 0) -> Shape:
    return Shape(struct.Struct(f"={layout}"), tuple(fields.split()), tail, fds)


REQUESTS: Final[dict[int, Shape]] = {
    Command.VERSION: _shape("HH", "major minor", Tail.TEXT),
    Command.DMA_MAP: _shape("IIQQQ", "argsz flags offset address size", fds=1),
    Command.DMA_UNMAP: _shape("IIQQ", "argsz flags address size"),
    Command.GET_INFO: _shape("IIII", "argsz flags regions irqs"),
    Command.GET_REGION_INFO: _shape("IIIIQQ", "argsz flags index cap_offset size offset"),
    Command.GET_IRQ_INFO: _shape("IIII", "argsz flags index count"),
    Command.SET_IRQS: _shape("IIIII", "argsz flags index start count", Tail.TEXT, fds=8),
    Command.REGION_READ: _shape("QII", "offset region count"),
    Command.REGION_WRITE: _shape("QII", "offset region count", Tail.COUNTED),
    Command.RESET: _shape("", ""),
}
"""Commands that a client may give, and the bodies of their requests. All others are answered with ENOTSUP."""

DMA_REQUEST: Final = struct.Struct("=QQ")
"""Address and count of DMA_READ and DMA_WRITE."""
DMA_REPLY_SHORT: Final = struct.Struct("=QI")
"""Address and count of a reply to DMA_WRITE in the specification's table, which gives the count four bytes there."""


class MapFlag(IntFlag):
    """Flags of DMA_MAP: what the device may do."""

    READ = 1
    WRITE = 2


UNMAP_ALL: Final = 2
"""Flag of DMA_UNMAP (QEMU hw/vfio-user/container.c, VFIO_DMA_UNMAP_FLAG_ALL)."""


class IrqFlag(IntFlag):
    """Flags of SET_IRQS: one kind of data, one action."""

    NONE = 1
    BOOL = 2
    EVENTFD = 4
    MASK = 8
    UNMASK = 16
    TRIGGER = 32


IRQ_DATA: Final = IrqFlag.NONE | IrqFlag.BOOL | IrqFlag.EVENTFD
IRQ_ACTIONS: Final = IrqFlag.MASK | IrqFlag.UNMASK | IrqFlag.TRIGGER


class ProtocolError(HarnessError):
    """What the other side sends is no vfio-user, so nothing more can be understood: the link is closed."""


class LinkLost(HarnessError):  # noqa: N818 - it says what happened
    """The link to the client ended, or the client does not answer."""


class RequestError(Exception):
    """A request that is refused: its reply carries this errno, and the link stays.

    :ivar errno: number, from `errno`.
    """

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"{errno.errorcode.get(number, number)}: {why}")
        self.errno = number


class DmaRefused(Exception):  # noqa: N818 - an outcome that is expected, not a failure
    """The client, or the table of mappings, refused a transfer.

    :ivar errno: number. QEMU refuses what its own table forbids with ENODEV (hw/vfio-user/pci.c, vfio_user_dma_read).
    """

    def __init__(self, number: int, address: int, size: int) -> None:
        name = errno.errorcode.get(number, str(number))
        super().__init__(f"{size} bytes at {address:#x}: {name} ({os.strerror(number)})")
        self.errno = number


class Header(NamedTuple):
    id: int
    command: int
    size: int
    flags: int
    error: int

    @property
    def is_reply(self) -> bool:
        return self.flags & TYPE == REPLY


def header(data: bytes | bytearray | memoryview, most: int) -> Header:
    """The header at the beginning of `data`.

    :param most: bytes of the largest message.
    :raise ProtocolError: its size or its type cannot be.
    """
    found = Header(*HEADER.unpack_from(data))
    if not HEADER.size <= found.size <= most:
        raise ProtocolError(f"a message of {found.size} bytes: {HEADER.size} to {most} are possible")
    if found.flags & TYPE not in {0, REPLY}:
        raise ProtocolError(f"a message of type {found.flags & TYPE}: 0 is a command, {REPLY} a reply")
    return found


def request(command: int, body: bytes | memoryview, fds: int = 0) -> tuple[tuple[Any, ...], memoryview]:
    """The fixed part's fields of a request's body, and what follows them.

    :param fds: number of descriptors that came with it.
    :raise RequestError: there is no such command, or its body has another length.
    """
    shape = REQUESTS.get(command)
    if shape is None:
        raise RequestError(errno.ENOTSUP, f"command {command} is not supported")
    if len(body) < shape.fixed.size:
        raise RequestError(errno.EINVAL, f"a body of {len(body)} bytes for command {command}")
    fields = shape.fixed.unpack_from(body)
    rest = memoryview(body)[shape.fixed.size :]
    allowed = {Tail.NOTHING: 0, Tail.COUNTED: fields[-1] if fields else 0, Tail.TEXT: min(len(rest), LONGEST_TEXT)}
    if fds > shape.fds:
        raise RequestError(errno.EINVAL, f"{fds} descriptors with command {command}")
    if len(rest) != allowed[shape.tail]:
        raise RequestError(errno.EINVAL, f"{len(rest)} bytes after the fixed part of command {command}")
    return fields, rest


def message(number: int, command: int, body: bytes = b"", *, flags: int = 0, error: int = 0) -> bytes:
    return HEADER.pack(number, command, HEADER.size + len(body), flags, error) + body


def failure(number: int, command: int, error: int) -> bytes:
    """The reply to a request that is refused: a header alone."""
    return HEADER.pack(number, command, HEADER.size, REPLY | ERROR, error)


def capabilities(text: bytes | memoryview) -> Mapping[str, Any]:
    """What a VERSION message says of its sender: an object of JSON, and a NUL. It may be left out.

    :raise RequestError: it is something else.
    """
    raw = bytes(text)
    if not raw:
        return {}
    try:
        found = json.loads(raw.removesuffix(b"\0").decode())
    except (ValueError, RecursionError):
        raise RequestError(errno.EINVAL, "the version's capabilities are no JSON") from None
    inner = found.get("capabilities", {}) if isinstance(found, dict) else None
    if not isinstance(inner, dict):
        raise RequestError(errno.EINVAL, "the version's capabilities are no object")
    return inner


def number(said: Mapping[str, Any], name: str, default: int, most: int) -> int:
    """A capability of the client's that is a number.

    :raise RequestError: it is not, or is negative.
    """
    found = said.get(name, default)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise RequestError(errno.EINVAL, f"capability {name} is no number")
    return min(found, most)


def version(limits: Limits) -> bytes:
    """The body of our reply to VERSION. A name that the client does not know makes QEMU complain, so it has but those
    that every client knows.
    """
    ours = {
        "max_msg_fds": limits.descriptors,
        "max_data_xfer_size": limits.transfer,
        "max_dma_maps": limits.maps,
        "pgsizes": PAGE,
    }
    return REQUESTS[Command.VERSION].fixed.pack(MAJOR, MINOR) + json.dumps({"capabilities": ours}).encode() + b"\0"


def transferred(body: memoryview, command: int, address: int, size: int) -> bytes:
    """The data of a reply to DMA_READ or DMA_WRITE, after a check that it is about this very transfer.

    Of DMA_WRITE, QEMU's client replies with a header alone, the specification's table shows a count of four bytes, and
    others send one of eight: all three are understood.

    :raise ProtocolError: the reply has another length, address or count.
    """
    if command == Command.DMA_WRITE and not body:
        return b""
    fixed = DMA_REPLY_SHORT if command == Command.DMA_WRITE and len(body) == DMA_REPLY_SHORT.size else DMA_REQUEST
    wanted = fixed.size + (size if command == Command.DMA_READ else 0)
    if len(body) != wanted:
        raise ProtocolError(f"a reply of {len(body)} bytes to {Command(command).name} of {size}: {wanted} are right")
    at, count = fixed.unpack_from(body)
    if (at, count) != (address, size):
        raise ProtocolError(
            f"a reply about {count} bytes at {at:#x} to {Command(command).name} of {size} bytes at {address:#x}"
        )
    return bytes(body[fixed.size :])
