"""Frames between host and agent, and the progress cell."""

import asyncio
import json
import socket
import struct
import threading

import pytest

from tcelab.errors import HarnessError
from tcelab.qemu.channel import AgentChannel, Cell, decode


def talk(reply, request=b"{}"):
    """Ask once; `reply` are the bytes that the other end sends, a list of pieces."""
    ours, theirs = socket.socketpair()

    def answer():
        with theirs:
            theirs.recv(65536)
            for piece in reply:
                theirs.sendall(piece)

    thread = threading.Thread(target=answer)
    thread.start()
    channel = AgentChannel(ours)
    try:
        return asyncio.run(channel.ask(request))
    finally:
        thread.join()
        channel.close()


def frame(data):
    return struct.pack(">I", len(data)) + data


def test_an_answer_in_pieces_is_one_frame():
    whole = frame(b'{"id":1}')
    assert talk([whole[:2], whole[2:7], whole[7:]]) == b'{"id":1}'


@pytest.mark.parametrize("head", [b"garb", b"\xff\xff\xff\xff", b"\0\0\0\0"])
def test_a_length_that_cannot_be_is_a_malformed_frame(head):
    with pytest.raises(HarnessError, match="malformed frame"):
        talk([head + b"rest"])


def test_a_channel_that_ends_is_said():
    with pytest.raises(EOFError, match="closed the agent's channel"):
        talk([frame(b"{}")[:3]])


def test_a_frame_that_is_no_json_is_malformed():
    with pytest.raises(HarnessError, match="malformed frame"):
        decode(b"garbage", 1)


def test_an_answer_to_another_request_is_refused():
    with pytest.raises(HarnessError, match="answered request 3, not 4"):
        decode(b'{"id":3,"outcomes":[]}', 4)


def test_the_agents_traceback_comes_back_with_the_operation():
    failed = {"id": 4, "failed": {"at": 2, "traceback": "Traceback\n  File x\nKeyError: 'buf'"}}
    with pytest.raises(HarnessError, match=r"operation 2 of request 4(?s:.*)File x(?s:.*)KeyError: 'buf'"):
        decode(json.dumps(failed).encode(), 4)


class FakeRam:
    def __init__(self, data):
        self.data = data

    def read(self, address, size):
        return self.data[address : address + size] if address + size <= len(self.data) else None


NONCE = bytes(range(16))


def test_the_cell_tells_the_operation_in_flight():
    raw = Cell.FIELDS.pack(b"TCELABPC", NONCE, 12, 3) + Cell.BEATS.pack(77)
    assert Cell(FakeRam(bytes(4096) + raw), 4096, NONCE).read() == (12, 3, 77)


@pytest.mark.parametrize(
    "raw",
    [
        Cell.FIELDS.pack(b"TCELABPC", bytes(16), 12, 3) + bytes(8),
        Cell.FIELDS.pack(b"TCELABPD", NONCE, 12, 3) + bytes(8),
        bytes(48),
        b"",
    ],
    ids=["another session's", "another magic", "zeros", "no RAM"],
)
def test_a_page_that_is_not_the_cell_tells_nothing(raw):
    assert Cell(FakeRam(raw), 0, NONCE).read() is None


def test_a_cell_in_ram_that_is_gone_with_its_process_tells_nothing():
    class Gone:
        def read(self, address, size):
            raise HarnessError("QEMU has ended, and guest RAM with it")

    assert Cell(Gone(), 0, NONCE).read() is None


def test_two_frames_that_come_at_once_are_two_answers():
    ours, theirs = socket.socketpair()

    async def both(channel):
        return [await channel.ask(b"first"), await channel.ask(b"second")]

    with theirs:
        theirs.sendall(frame(b'{"id":1}') + frame(b'{"id":2}'))
        channel = AgentChannel(ours)
        assert asyncio.run(asyncio.wait_for(both(channel), 5)) == [b'{"id":1}', b'{"id":2}']
        channel.close()
        assert theirs.recv(65536) == frame(b"first") + frame(b"second")
