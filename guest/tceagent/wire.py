"""Messages on the agent's port: 4 bytes of length, big endian, then that many bytes of JSON.

Only the C half of `json` is used: the Python half imports `re` and `enum`, which under TCG takes longer than the rest
of the agent's start.
"""

from __future__ import annotations

import posix
import select
import time
from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT = 64 << 20
"""Longest message in bytes, either way."""

_CHUNK = 65536
_UNPLUGGED_POLL = 0.05


class FrameError(Exception):
    """The other side sent a length that no message has: the stream is out of step from here on."""


class Channel:
    """The agent's end of the port."""

    def __init__(self, fd: int, out: int | None = None) -> None:
        """:param out: where messages go; None: where they come from."""
        self._fd = fd
        self._out = fd if out is None else out
        self._received = bytearray()

    def receive(self) -> bytes:
        """The next message's bytes; waits for it, and for the host when it is not connected.

        :raise FrameError: not a length.
        """
        size = int.from_bytes(self._take(4), "big")
        if size > LIMIT:
            raise FrameError(f"a message of {size} bytes is longer than {LIMIT}")
        return self._take(size)

    def send(self, payload: bytes) -> None:
        """:raise ValueError: the message is too long; nothing was sent."""
        if len(payload) > LIMIT:
            raise ValueError(f"a message of {len(payload)} bytes is longer than {LIMIT}")
        rest = memoryview(len(payload).to_bytes(4, "big") + payload)
        while rest:
            rest = rest[posix.write(self._out, rest) :]

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            chunk = posix.read(self._fd, _CHUNK)
            if not chunk:
                self._reconnected()
            self._received += chunk
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _reconnected(self) -> None:
        """Wait until the host's end is open again. A half-received message belongs to the old connection."""
        self._received.clear()
        port = select.poll()
        port.register(self._fd, select.POLLIN)
        # poll() returns at once while the end is closed, so the sleep does the waiting.
        while any(events & select.POLLHUP for _, events in port.poll()):
            time.sleep(_UNPLUGGED_POLL)


class _Scan:
    """What the scanner asks of a decoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(f"{name} is not JSON")


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


_scan = make_scanner(_Scan)  # type: ignore[arg-type]  # any object with these attributes
_encode = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)  # noqa: FBT003


def decode(payload: bytes) -> Any:  # noqa: ANN401  it is what the other side sent
    """:raise ValueError: not one JSON value in UTF-8."""
    text = payload.decode()
    try:
        value, end = _scan(text, 0)
    except (StopIteration, SystemError):  # SystemError: the C half cannot make the error of the Python half
        end = -1
    if end == len(text):
        return value
    import json  # noqa: PLC0415  slow to import, but it skips white space and knows how to say what is wrong

    return json.loads(text)


def encode(value: object) -> bytes:
    return "".join(_encode(value, 0)).encode()


def failure() -> str:
    """The exception that is being handled, as text for the other side."""
    import traceback  # noqa: PLC0415  slow to import and hardly ever needed

    return traceback.format_exc()
