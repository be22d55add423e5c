"""The agent's answers: handshake, operations, failures, and the cell that tells what is in flight."""

import ast
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from agent_fake import FakeKernel

import tceagent
from patience import PATIENCE
from tceagent import ops, wire
from tceagent.agent import Agent, digest, serve
from tceagent.ports import find_port

SOURCES = Path(tceagent.__file__).parent
NONCE = "00112233445566778899aabbccddeeff"


@pytest.fixture
def kernel():
    return FakeKernel()


@pytest.fixture
def agent(kernel):
    return Agent(kernel)


def ask(agent, **message):
    return agent.answer(json.dumps(message).encode())


def greet(agent, **more):
    return ask(agent, id=1, hello={"nonce": NONCE, **more})


def cell(kernel):
    magic, nonce, request, index = struct.unpack_from("<8s16sQQ", kernel.page)
    return magic, nonce.hex(), request, index


# -- the handshake


def test_hello_tells_protocol_digest_cell_and_machine(agent):
    assert greet(agent) == {
        "id": 1,
        "hello": {
            "protocol": 1,
            "digest": digest(str(SOURCES)),
            "cell": 0x2468000,
            "kernel": "6.12.95",
            "page_size": 4096,
            "clock": 1000.0,
            "drawn": "10" * 16,
        },
    }


def test_a_guest_that_was_not_forked_keeps_its_clock_and_its_random_generator(agent, kernel):
    greet(agent)
    greet(agent, renew=True)
    assert kernel.did("set_clock", "stir") == []


def test_a_forks_clock_is_set_once_to_the_hosts_and_told_as_it_is_then(agent, kernel):
    kernel.elapsed = 7.0
    hello = greet(agent, clock=1234567890.25)["hello"]
    assert kernel.did("set_clock") == [("set_clock", 1234567890.25)]
    assert hello["clock"] == 1234567890.25
    kernel.elapsed += 3.5
    assert greet(agent)["hello"]["clock"] == 1234567893.75
    assert len(kernel.did("set_clock")) == 1


def test_a_clock_that_cannot_be_set_is_told_as_it_is(agent, kernel):
    kernel.set_clock = lambda _: None
    assert greet(agent, clock=1234567890.25)["hello"]["clock"] == 1000.0


def test_a_forks_random_numbers_are_drawn_after_exactly_the_hosts_entropy_was_stirred_in(agent, kernel):
    entropy = bytes(range(32))
    hello = greet(agent, entropy=entropy.hex())["hello"]
    assert kernel.did("stir") == [("stir", entropy)]
    assert hello["drawn"] == bytes(each ^ 16 for each in entropy[:16]).hex()
    assert greet(agent, entropy="ff" * 32)["hello"]["drawn"] == "ef" * 16


@pytest.mark.parametrize("given", [{"entropy": "no hex"}, {"entropy": 5}])
def test_entropy_that_is_none_fails_the_handshake(agent, kernel, given):
    assert greet(agent, **given)["failed"]["at"] is None
    assert kernel.did("stir") == []


def test_what_never_changes_is_asked_of_the_machine_once(kernel):
    """A fork answers with cold code: it is said from memory there."""
    asked = []
    describe = kernel.describe
    kernel.describe = lambda: asked.append(1) or describe()
    agent = Agent(kernel)
    assert greet(agent)["hello"]["kernel"] == greet(agent)["hello"]["kernel"] == "6.12.95"
    assert asked == [1]


def test_hello_writes_magic_and_nonce_into_the_cell_and_a_later_one_replaces_it(agent, kernel):
    greet(agent)
    assert cell(kernel)[:2] == (b"TCELABPC", NONCE)
    later = "ff" * 16
    ask(agent, id=2, hello={"nonce": later})
    assert cell(kernel)[:2] == (b"TCELABPC", later)
    ask(agent, id=3, ops=[{"op": "buffer", "name": "b", "pages": 1}, {"op": "tag", "buffer": "b"}])
    assert kernel.memories[0].content[8:24] == bytes.fromhex(later)


def test_a_later_hello_keeps_devices_and_buffers(agent):
    greet(agent, devices={"pe1": {"buid": 5, "slot": 1}})
    ask(agent, id=2, ops=[{"op": "buffer", "name": "b", "pages": 1}])
    greet(agent)
    assert agent._state.devices == {"pe1": (5, 1)}
    assert "frames" in ask(agent, id=3, ops=[{"op": "frames", "buffer": "b"}])["outcomes"][0]


@pytest.mark.parametrize("nonce", ["", "00", "zz" * 16, "00" * 17, 5, None])
def test_a_nonce_that_is_none_fails_the_handshake(agent, nonce):
    answer = ask(agent, id=4, hello={"nonce": nonce})
    assert answer["id"] == 4
    assert answer["failed"]["at"] is None
    assert agent._state.nonce is None


def test_the_digest_is_of_names_and_contents_in_order(tmp_path):
    (tmp_path / "b.py").write_bytes(b"two\n")
    (tmp_path / "a.py").write_bytes(b"one\0")
    (tmp_path / "a.pyc").write_bytes(b"not me")
    expected = hashlib.sha256(b"a.py\0one\0\0" + b"b.py\0two\n\0").hexdigest()
    assert digest(str(tmp_path)) == expected


def test_the_digest_of_the_agent_is_what_the_host_computes():
    total = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*.py"), key=lambda each: each.relative_to(SOURCES).as_posix()):
        total.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    assert digest(str(SOURCES)) == total.hexdigest()


# -- operations


def test_outcomes_come_in_order_one_for_each(agent):
    greet(agent)
    answer = ask(
        agent,
        id=7,
        ops=[{"op": "read", "what": "pins", "expect": None}, {"op": "open", "file": "c", "path": "/dev/vfio/vfio"}],
    )
    assert answer == {"id": 7, "outcomes": [{"value": 32}, {"value": 10}]}


def test_the_cell_tells_request_and_operation_before_it_is_begun(agent, kernel):
    seen = []
    kernel.pins = lambda: seen.append(cell(kernel)) or 0
    greet(agent)
    for number in (41, 1 << 63):
        ask(agent, id=number, ops=[{"op": "read", "what": "pins"}] * 3)
    assert seen == [(b"TCELABPC", NONCE, number, index) for number in (41, 1 << 63) for index in range(3)]


def test_a_refusal_by_the_kernel_does_not_stop_the_program(agent, kernel):
    kernel.refused["/dev/vfio/1"] = "EBUSY"
    program = [{"op": "open", "file": "g", "path": "/dev/vfio/1"}, {"op": "read", "what": "pins"}]
    assert ask(agent, id=1, ops=program)["outcomes"] == [{"errno": "EBUSY"}, {"value": 32}]


def test_a_hello_that_renews_closes_all_files_and_forgets_all_buffers(agent, kernel):
    greet(agent)
    left = [{"op": "open", "file": "c", "path": "/dev/vfio/vfio"}, {"op": "buffer", "name": "b", "pages": 1}]
    assert ask(agent, id=2, ops=left)["outcomes"][0]["value"] == 10
    ask(agent, id=3, hello={"nonce": NONCE, "renew": True})
    assert ("close", 10) in kernel.calls
    assert len(ask(agent, id=4, ops=left)["outcomes"]) == 2


@pytest.mark.parametrize(
    "op",
    [
        {"op": "close", "file": "nothing"},
        {"op": "ioctl", "file": "nothing", "request": "ENABLE"},
        {"op": "master", "file": "nothing"},
        {"op": "dma", "file": "nothing", "iova": 0, "size": 4, "to_memory": True},
    ],
    ids=lambda op: op["op"],
)
def test_a_file_that_is_not_open_is_a_bad_descriptor(agent, op):
    """Not a failure of the agent: the open before it may have been refused by the kernel under test."""
    greet(agent)
    assert ask(agent, id=2, ops=[op])["outcomes"] == [{"errno": "EBADF"}]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"op": "explode"}, "no handler for operation 'explode'"),
        ({"op": "read"}, "TypeError: read() missing"),
        ({"op": "read", "what": "pins", "why": 1}, "unexpected keyword argument 'why'"),
        ({"op": "frames", "buffer": "nothing"}, "no buffer 'nothing'"),
        ({"what": "pins"}, "KeyError: 'op'"),
        (5, "TypeError"),
    ],
)
def test_an_operation_that_is_wrong_ends_the_program_with_its_index_and_a_traceback(agent, kernel, bad, why):
    greet(agent)
    good = {"op": "read", "what": "pins"}
    answer = ask(agent, id=9, ops=[good, good, bad, good])
    assert answer["id"] == 9
    assert answer["outcomes"] == [{"value": 32}, {"value": 32}]
    assert answer["failed"]["at"] == 2
    assert answer["failed"]["traceback"].startswith("Traceback (most recent call last)")
    assert why in answer["failed"]["traceback"]
    assert cell(kernel)[2:] == (9, 2)
    assert ask(agent, id=10, ops=[good])["outcomes"] == [{"value": 32}]


def test_an_oserror_that_no_operation_expects_is_a_failure_not_an_outcome(agent, kernel):
    def lost():
        raise OSError(5, "status is gone")

    kernel.vmlck = lost
    answer = ask(agent, id=1, ops=[{"op": "read", "what": "vmlck"}])
    assert answer["failed"]["at"] == 0
    assert "status is gone" in answer["failed"]["traceback"]


@pytest.mark.parametrize(
    ("payload", "number"),
    [
        (b"", None),
        (b"garbage", None),
        (b"\xff\xfe", None),
        (b"[1,2]", None),
        (b"{}", None),
        (b'{"id":3}', 3),
        (b'{"id":3,"eval":"1+1"}', 3),
        (b'{"id":3,"hello":5}', 3),
        (b'{"id":3,"hello":{}}', 3),
        (b'{"id":3,"ops":5}', 3),
        (b'{"id":"x","ops":[]}', "x"),
        (b"[" * 100_000, None),
    ],
)
def test_a_message_that_is_none_is_answered_as_failed(agent, payload, number):
    answer = agent.answer(payload)
    assert answer["id"] == number
    assert answer["failed"]["at"] is None
    assert "Traceback" in answer["failed"]["traceback"]
    assert ask(agent, id=8, ops=[])["outcomes"] == []


# -- the loop


@pytest.fixture
def served(agent):
    """The host's end of a port whose other end the agent serves; the agent's way out is in `ended`."""
    host, port = socket.socketpair()
    ended = []

    def run():
        try:
            serve(agent, wire.Channel(port.fileno()))
        except Exception as error:  # noqa: BLE001  the test looks at it
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    host.settimeout(PATIENCE)
    yield host, ended, thread
    host.sendall(b"\xff\xff\xff\xff") if not ended else None
    thread.join(PATIENCE)
    host.close()
    port.close()


def receive(host):
    size = int.from_bytes(host.recv(4, socket.MSG_WAITALL), "big")
    return json.loads(host.recv(size, socket.MSG_WAITALL))


def send(host, payload):
    host.sendall(len(payload).to_bytes(4, "big") + payload)


def test_the_loop_answers_each_message_once_in_order(served):
    host, _, _ = served
    for number in range(20):
        send(host, json.dumps({"id": number, "ops": [{"op": "read", "what": "pins"}]}).encode())
    assert [receive(host) for _ in range(20)] == [{"id": n, "outcomes": [{"value": 32}]} for n in range(20)]


def test_the_loop_survives_garbage_in_a_frame(served):
    host, _, _ = served
    send(host, b"\0\1\2")
    assert receive(host)["failed"]["at"] is None
    send(host, b'{"id":1,"ops":[]}')
    assert receive(host) == {"id": 1, "outcomes": []}


def test_the_loop_ends_after_a_length_that_is_none_and_says_so_first(served):
    host, ended, thread = served
    host.sendall(b"GET / HTTP/1.1\r\n\r\n")
    answer = receive(host)
    assert answer["id"] is None
    assert "FrameError" in answer["failed"]["traceback"]
    thread.join(PATIENCE)
    assert [type(error) for error in ended] == [wire.FrameError]


def test_an_answer_that_cannot_be_sent_is_answered_as_failed(served, monkeypatch):
    host, _, _ = served
    monkeypatch.setitem(ops.HANDLERS, "read", lambda _state, **_: {"value": b"bytes"})
    send(host, b'{"id":6,"ops":[{"op":"read"}]}')
    answer = receive(host)
    assert answer["id"] == 6
    assert "bytes is not JSON" in answer["failed"]["traceback"]
    monkeypatch.setattr(wire, "LIMIT", 400)
    monkeypatch.setitem(ops.HANDLERS, "read", lambda _state, **_: {"value": "x" * 400})
    monkeypatch.setattr(wire, "failure", lambda: "too long")
    send(host, b'{"id":7,"ops":[{"op":"read"}]}')
    assert receive(host) == {"id": 7, "failed": {"at": None, "traceback": "too long"}}


# -- what the guest asks of the sources


def test_the_port_is_found_by_its_name(kernel):
    kernel.files["/sys/class/virtio-ports/vport0p1/name"] = b"org.other\n"
    kernel.files["/sys/class/virtio-ports/vport1p2/name"] = b"org.tcelab.agent\n"
    assert find_port(kernel) == "/dev/vport1p2"
    del kernel.files["/sys/class/virtio-ports/vport1p2/name"]
    with pytest.raises(LookupError, match=r"no virtio-serial port is called org\.tcelab\.agent"):
        find_port(kernel)


def test_a_port_whose_driver_has_just_been_loaded_is_waited_for(kernel):
    """First there is no driver, then a port without a name."""
    real, folder = kernel.listdir, "/sys/class/virtio-ports"
    kernel.links[f"{folder}/vport0p0/device"] = ".."  # another that never gets a name

    def listdir(path):
        if kernel.elapsed < 1:
            raise FileNotFoundError(path)
        kernel.links[f"{folder}/vport1p1/device"] = ".."
        if kernel.elapsed > 2:
            kernel.files[f"{folder}/vport1p1/name"] = b"org.tcelab.agent\n"
        return real(path)

    kernel.listdir = listdir
    assert find_port(kernel) == "/dev/vport1p1"
    assert 2 < kernel.elapsed < 2.1


def test_a_port_that_never_comes_is_not_waited_for_for_ever(kernel):
    def listdir(path):
        raise FileNotFoundError(path)

    kernel.listdir = listdir
    with pytest.raises(LookupError, match="VIRTIO_CONSOLE"):
        find_port(kernel)
    assert 5 <= kernel.elapsed < 5.1


@pytest.mark.parametrize("path", sorted(SOURCES.glob("*.py")), ids=lambda path: path.name)
def test_the_sources_are_python_3_9(path):
    ast.parse(path.read_text(), feature_version=(3, 9))


def test_the_agent_starts_without_the_modules_that_are_slow_to_import():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import tceagent.__main__; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code, str(SOURCES.parent)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    loaded = set(out.stdout.split())
    assert "tceagent.agent" in loaded
    assert "tceagent.child" in loaded
    slow = {
        "os",
        "re",
        "enum",
        "json",
        "typing",
        "ctypes",
        "traceback",
        "hashlib",
        "random",
        "pathlib",
        "dataclasses",
        "_socket",
        "resource",
    }
    slow.add("tceagent.seam")
    assert not loaded & slow
    assert not any(name.startswith("tcelab") for name in loaded)
