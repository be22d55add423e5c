"""A hostile client: whatever it sends, the server does not fail, keeps little, and touches mapped memory alone."""

import asyncio
import contextlib
import gc
import os
import random
import socket
import struct
import sys
from pathlib import Path

import vfio_client as client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vfio_client import frame, memory_file

from tcelab.device.probe import Probe
from tcelab.device.vfio_user import LinkLost, ProtocolError
from tcelab.device.vfio_user.connection import Connection
from tcelab.device.vfio_user.protocol import REQUESTS, Limits
from thorough import often

SIZE = 8 * 4096
MAPPED = 3 * 4096
"""Page of the file that is mapped, at bus address 0x3000: every other byte of it must stay."""

u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
small = st.sampled_from([0, 1, 2, 3, 4, 8, 16, 32, 4096, 0x1000, 0x3000, 0x40000, 1 << 20, (1 << 20) + 1])
word = small | u32
flags = st.sampled_from([0, 0, 0, 1, 0x10, 0x20, 0x21, 2]) | u32


@st.composite
def bodies(draw, command):
    """A body that fits the command, more or less."""
    shape = REQUESTS.get(command)
    if shape is None or draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=80))
    layout = shape.fixed.format[1:]
    kinds = {"H": u16, "I": word, "Q": small | u64}
    out = struct.pack(f"={layout}", *(draw(kinds[letter]) & (0xFFFF if letter == "H" else -1) for letter in layout))
    return out + draw(st.sampled_from([b"", b"", bytes(4), bytes(8)]) | st.binary(max_size=40))


@st.composite
def frames(draw):
    command = draw(st.sampled_from([*REQUESTS, 6, 11, 12, 15, 16]) | u16)
    body = draw(bodies(command))
    size = draw(st.none() | st.none() | st.none() | word)
    fds = draw(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 9]))
    return frame(draw(u16), command, body, draw(flags), draw(word), size=size), fds


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


async def attack(sent, *, greet):
    """Everything is sent to a probe; returns how the link ended, if it did."""
    ours, theirs = socket.socketpair()
    ram = memory_file(SIZE)
    os.pwrite(ram, b"\xa5" * SIZE, 0)
    probe = Probe(Limits(transfer=1 << 20, maps=64, files=2, changes=64, requests=4, answer=5.0))
    link = Connection(ours, probe)
    theirs.settimeout(0)
    out = [
        (frame(1, client.VERSION, client.SAYS), 0),
        (frame(2, client.MAP, client.map_body(0x3000, offset=MAPPED)), 1),
    ]
    try:
        for data, fds in (out if greet else []) + sent:
            with contextlib.suppress(OSError):
                rights = struct.pack(f"={fds}i", *[ram] * fds)
                theirs.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else [])
            while link.ended is None and _more(link):
                pass
            await asyncio.sleep(0)
            with contextlib.suppress(OSError):
                theirs.recv(1 << 21)
            assert sys.getsizeof(link._in) < 3 << 20
            assert len(link._out) < 8 << 20
            assert len(probe.maps.live) <= 64
            link.writable() if link._out and link.ended is None else None
        return link.ended, os.pread(ram, SIZE + 1, 0)
    finally:
        link.end(LinkLost("the test is over"))
        await asyncio.sleep(0)
        theirs.close()
        os.close(ram)


def _more(link):
    before = link._at + len(link._in)
    link.readable()
    return link.ended is None and link._at + len(link._in) > before


@given(st.lists(frames(), min_size=1, max_size=12), st.booleans())
@settings(
    max_examples=often(30, 1000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_frames_of_a_hostile_client_do_no_harm(sent, greet):
    before = descriptors()
    why, after = asyncio.run(attack(sent, greet=greet))
    assert why is None or isinstance(why, ProtocolError | LinkLost)
    assert "the device failed" not in str(why)
    assert after == b"\xa5" * SIZE  # nothing rang a doorbell of the mode `shared`, so nothing was written at all
    gc.collect()
    assert descriptors() == before


def wild(draw):
    """A frame, more or less, quickly made."""
    command = draw.choice([*REQUESTS, *REQUESTS, 6, 11, 12, 15, 16, draw.getrandbits(16)])
    shape = REQUESTS.get(command)
    size = shape.fixed.size if shape and draw.random() < 0.9 else draw.randrange(90)
    body = bytearray(draw.randbytes(size) if draw.random() < 0.3 else size)
    for at in range(0, size - 3, 4):
        if draw.random() < 0.5:
            body[at : at + 4] = draw.choice([1, 2, 4, 8, 7, 33, 36, 4096, 0x3000, 0x40000]).to_bytes(4, "little")
    body += bytes(draw.choice([0, 0, 0, 4, 8, draw.randrange(5000)]))
    told = draw.choice([0] * 200 + [0x10] * 8 + [0x20] * 4 + [1, draw.getrandbits(32)])
    length = None if draw.random() < 0.99 else draw.choice([0, 15, 16, 4096, 1 << 20, draw.getrandbits(32)])
    fds = draw.choice([0] * 60 + [1] * 12 + [2, 2, 9])
    return frame(draw.getrandbits(16), command, bytes(body), told, size=length), fds


def test_many_frames_of_a_hostile_client_do_no_harm():
    draw, before, sent, lasted = random.Random(1), descriptors(), 0, 0
    while sent < often(4000, 100_000):
        frames_ = [wild(draw) for _ in range(draw.randrange(1, 60))]
        why, after = asyncio.run(attack(frames_, greet=draw.random() < 0.95))
        assert why is None or isinstance(why, ProtocolError | LinkLost)
        assert "the device failed" not in str(why)
        assert after == b"\xa5" * SIZE
        sent, lasted = sent + len(frames_), lasted + (why is None)
    assert lasted > 10  # what is hostile is understood for a while, too
    gc.collect()
    assert descriptors() == before


@given(st.integers(0, 0x9000), st.integers(0, 1 << 16), st.integers(1, 16), st.sampled_from([0, 1, 7, 4096]))
@settings(max_examples=often(40, 3000), deadline=None)
def test_a_shared_doorbell_writes_the_mapped_page_and_nothing_else(address, length, count, stride):
    def store(at, value):
        return frame(9, client.WRITE, struct.pack("=QIIQ", at, 0, 8, value)), 0

    rings = [(0x1008, address), (0x1010, length), (0x1018, stride), (0x1020, count), (0x1028, 0x5A5A5A5A5A5A5A5A)]
    master = frame(9, client.WRITE, struct.pack("=QIIH", 4, 7, 2, 6)), 0
    sent = [master, *(store(*each) for each in rings), store(0x1030, 1 | 2 | 8)]

    async def whole():
        return await attack([*sent, *[(frame(9, client.READ, struct.pack("=QII", 0x1038, 0, 8)), 0)] * 3], greet=True)

    why, after = asyncio.run(whole())
    assert why is None
    assert len(after) == SIZE
    assert after[:MAPPED] + after[MAPPED + 4096 :] == b"\xa5" * (SIZE - 4096)
    page = after[MAPPED : MAPPED + 4096]
    reached = {
        at
        for i in range(count if length else 0)
        for at in range(max(address + i * stride, 0x3000), min(address + i * stride + length, 0x4000))
    }
    assert page == bytes(0x5A if 0x3000 + i in reached else 0xA5 for i in range(4096))
