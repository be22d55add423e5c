"""Frames over a channel: what counts as progress, and what is told of an end."""

import json
import struct
import threading
from types import SimpleNamespace

import pytest

from tcelab.errors import GuestLost, HarnessError
from tcelab.qemu.limits import Limits
from tcelab.ssh.agentlink import AgentLink


def frame(value):
    data = json.dumps(value, separators=(",", ":")).encode()
    return struct.pack(">I", len(data)) + data


class Channel:
    """Gives what it was made with, piece by piece: bytes, or None where nothing comes for a while."""

    waited = 0.0

    def __init__(self, *pieces, errors=b"", status=None):
        self._pieces, self._errors, self._status = list(pieces), errors, status
        self.status_event = threading.Event()
        self.status_event.set()
        self.sent = b""
        self.closed = False

    def settimeout(self, seconds): ...

    def shutdown_write(self): ...

    def close(self):
        self.closed = True

    def get_transport(self):
        return SimpleNamespace(is_active=lambda: True, close=self.close)

    def send(self, data):
        self.sent += data[:5]
        return len(data[:5])

    def recv(self, size):
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if piece is None:
            Channel.waited += 1
            raise TimeoutError
        return piece

    def recv_stderr_ready(self):
        return bool(self._errors)

    def recv_stderr(self, size):
        said, self._errors = self._errors, b""
        return said

    def exit_status_ready(self):
        return self._status is not None

    def recv_exit_status(self):
        return self._status


@pytest.fixture
def link(tmp_path):
    made = []

    def make(*pieces, **more):
        made.append(AgentLink(Channel(*pieces, **more), "lpar7", tmp_path, Limits(settle=0.01, close=0.01)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_request_and_its_answer_may_come_in_any_pieces(link):
    answer = frame({"id": 1})
    one = link(*(answer[i : i + 1] for i in range(len(answer))))
    assert one.ask(b"a request", "perform", 1) == b'{"id":1}'
    assert one._channel.sent == b"\0\0\0\x09a request"


@pytest.fixture
def clock(monkeypatch):
    """Time passes only where nothing comes: a second each time."""
    monkeypatch.setattr("tcelab.ssh.agentlink.time", SimpleNamespace(monotonic=lambda: Channel.waited))
    monkeypatch.setattr(Channel, "waited", 0.0)


def test_a_beat_is_progress_and_no_answer(link, clock):
    """Nothing comes for longer than the limit in all, and never for the limit at once."""
    beats = [piece for number in range(4) for piece in (None, frame({"id": None, "beat": number, "at": [3, 17]}))]
    assert link(*beats, frame({"id": 3})).ask(b"x", "perform", 1.5) == b'{"id":3}'
    with pytest.raises(GuestLost, match=r"nothing came for 1.5 s"):
        link(*beats, None, None, frame({"id": 3})).ask(b"x", "perform", 1.5)


def test_silence_after_a_beat_names_the_operation(link):
    with pytest.raises(GuestLost) as lost:
        link(frame({"id": None, "beat": 1, "at": [3, 17]}), *[None] * 5).ask(b"x", "perform", 0)
    assert lost.value.message == "lpar7 stopped answering: nothing came for 0 s, begun last: operation 17 of request 3"
    assert "--limit perform=SECONDS" in lost.value.next_step


def test_what_stands_before_the_mark_is_noise_and_is_logged(link, tmp_path):
    one = link(b"motd\nlast lo", b"gin: mark", b" agent", b"\n" + frame({"id": 1}))
    assert one.line("mark ", "copy", 1) == "agent"
    assert one.ask(b"x", "perform", 1) == b'{"id":1}'
    assert (tmp_path / "agent.log").read_bytes() == b"motd\nlast login: "


def test_noise_without_an_end_is_given_up(link):
    with pytest.raises(HarnessError, match="prints more than 64 KiB before the agent begins"):
        link(*[b"noise " * 8192] * 4).line("mark ", "copy", 1)


def test_a_length_that_no_frame_has_is_told_with_its_bytes(link):
    with pytest.raises(HarnessError, match="malformed frame from the agent on lpar7: bytes 48656c6c6f21"):
        link(b"Hello!").ask(b"x", "perform", 1)


def test_an_end_without_an_exit_status_is_a_broken_connection(link):
    """read() gives nothing, the exit status is -1, and there is no exception."""
    one = link(b"\0\0", errors=b"Write failed\nbye")
    with pytest.raises(GuestLost, match="the connection to lpar7 broke") as lost:
        one.ask(b"x", "perform", 1)
    assert one.status == -1
    assert not lost.value.kernel_died
    assert lost.value.scene.console == ["Write failed", "bye"]
    assert lost.value.scene.phase == "perform"


def test_an_exit_status_is_told(link):
    with pytest.raises(GuestLost, match="the agent on lpar7 ended with exit status 1"):
        link(status=1).ask(b"x", "perform", 1)


OOPS = "tcelab: kernel: Oops: Kernel access of bad area, sig: 11 [#1]"


@pytest.mark.parametrize(
    ("errors", "greeted", "died"),
    [
        (f"tcelab: the agent was ended by signal 9\n{OOPS}\n", True, True),
        (f"tcelab: the agent was ended by signal 9\n{OOPS}\n", False, False),
        ("tcelab: the agent was ended by signal 9\ntcelab: kernel: usb 1-1: new device\n", True, False),
        (f"the agent says {OOPS}\n", True, False),
    ],
)
def test_a_kernel_that_killed_the_agent_is_a_finding_once_it_had_answered(link, errors, greeted, died):
    one = link(errors=errors.encode(), status=1)
    one.handshake_done = greeted
    with pytest.raises(GuestLost) as lost:
        one.ask(b"x", "perform", 1)
    assert lost.value.kernel_died == died
    assert (lost.value.said == OOPS.removeprefix("tcelab: kernel: ")) == ("signal 9\n" + OOPS in errors)


def test_closing_twice_is_closing_once(link):
    one = link(errors=b"last words", status=0)
    one.close()
    one.close()
    assert (one.status, one.tail()) == (0, ["last words"])


@pytest.mark.parametrize("step", ["shutdown_write", "close"])
def test_a_connection_that_breaks_while_it_is_closed_is_closed_all_the_same(link, monkeypatch, step):
    """Between paramiko's look at the connection and its message, the other side may have gone."""

    def broken(_channel):
        raise EOFError

    one = link(errors=b"last words", status=0)
    monkeypatch.setattr(Channel, step, broken)
    one.close()
    assert one._log.closed
