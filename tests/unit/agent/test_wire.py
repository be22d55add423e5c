"""The agent's end of the wire."""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from patience import PATIENCE
from tceagent import wire


@pytest.fixture
def pair():
    host, agent = socket.socketpair()
    with host, agent:
        yield host, wire.Channel(agent.fileno())


def frame(payload):
    return len(payload).to_bytes(4, "big") + payload


def test_a_message_in_pieces_is_one_message(pair):
    host, channel = pair
    whole = frame(b"0123456789" * 10_000)

    def send():
        for at in range(0, len(whole), 7001):
            host.sendall(whole[at : at + 7001])
            time.sleep(0.001)

    sender = threading.Thread(target=send)
    sender.start()
    assert channel.receive() == whole[4:]
    sender.join()


def test_messages_sent_together_are_taken_one_by_one(pair):
    host, channel = pair
    host.sendall(frame(b"one") + frame(b"") + frame(b"three")[:5])
    assert channel.receive() == b"one"
    assert channel.receive() == b""
    host.sendall(b"hree")
    assert channel.receive() == b"three"


def test_a_message_is_sent_behind_its_length_however_little_the_port_takes_at_once(pair, monkeypatch):
    host, channel = pair
    monkeypatch.setattr(wire, "posix", SimpleNamespace(write=lambda fd, data: os.write(fd, data[:7])))
    channel.send(b"0123456789" * 100)
    assert host.recv(65536) == frame(b"0123456789" * 100)


def test_a_length_beyond_the_limit_is_refused_unread(pair):
    host, channel = pair
    host.sendall((wire.LIMIT + 1).to_bytes(4, "big") + b"some of it")
    with pytest.raises(wire.FrameError, match="67108865 bytes is longer than 67108864"):
        channel.receive()


def test_the_limit_is_64_mib():
    assert wire.LIMIT == 64 * 1024 * 1024


def test_a_message_too_long_to_send_leaves_the_port_clean(pair):
    host, channel = pair
    with pytest.raises(ValueError, match="longer than"):
        channel.send(bytes(wire.LIMIT + 1))
    assert not select.select([host], [], [], 0)[0]


def test_a_host_that_goes_and_comes_back_is_waited_for_without_spinning(tmp_path):
    """A FIFO behaves as the port does: its reader gets nothing and POLLHUP while nobody writes."""
    port = tmp_path / "port"
    os.mkfifo(port)
    reader = os.open(port, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    channel = wire.Channel(reader)
    took = {}

    def receive():
        began = time.thread_time()
        took["first"] = channel.receive()
        took["second"] = channel.receive()
        took["cpu"] = time.thread_time() - began

    writer = os.open(port, os.O_WRONLY)
    thread = threading.Thread(target=receive)
    thread.start()
    os.write(writer, frame(b"first") + b"\0\0\0")  # and a message that never ends
    os.close(writer)
    time.sleep(0.4)
    writer = os.open(port, os.O_WRONLY)
    os.write(writer, frame(b"second"))
    thread.join(PATIENCE)
    os.close(writer)
    os.close(reader)
    assert took["first"] == b"first"
    assert took["second"] == b"second"
    assert took["cpu"] < 0.1


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b'{"id":1,"ops":[]}', {"id": 1, "ops": []}),
        (b' \n{"a": [1, -2, true, null, "\\u00e9\xc3\xa9"]}\r\n\t', {"a": [1, -2, True, None, "éé"]}),
        (b"18446744073709551615", (1 << 64) - 1),
    ],
)
def test_json_is_decoded(payload, value):
    assert wire.decode(payload) == value


@pytest.mark.parametrize(
    "payload",
    [b"", b"   ", b"{", b'{"id":1,', b'{"id":1} x', b"nonsense", b"\xff", b'{"a":NaN}', b'{"a":"\n"}', b"{1:2}"],
)
def test_what_is_no_json_is_a_value_error(payload):
    with pytest.raises(ValueError):  # noqa: PT011  of every kind
        wire.decode(payload)


def test_what_is_no_json_is_a_value_error_before_the_slow_half_of_json_is_loaded():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tceagent import wire; assert 'json' not in sys.modules\n"
        "try: wire.decode(b'{')\n"
        "except ValueError as error: print(error)"
    )
    guest = str(Path(wire.__file__).parent.parent)
    out = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code, guest], check=True, capture_output=True)
    assert b"Expecting property name" in out.stdout


def test_what_is_encoded_is_compact_and_ascii():
    value = {
        "id": 7,
        "outcomes": [{"value": (1 << 64) - 1, "errno": ""}, {"errno": "EPERM"}],
        "text": 'é"\n',
        "no": None,
    }
    encoded = wire.encode(value)
    assert encoded == (
        b'{"id":7,"outcomes":[{"value":18446744073709551615,"errno":""},{"errno":"EPERM"}],'
        b'"text":"\\u00e9\\"\\n","no":null}'
    )
    assert wire.decode(encoded) == value


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, float("nan")])
def test_what_json_has_no_word_for_is_not_encoded(value):
    with pytest.raises((TypeError, ValueError)):
        wire.encode({"value": value})
