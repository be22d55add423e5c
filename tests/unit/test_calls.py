"""What tests hold a command to when it has ended: what it left behind, and nothing that others did meanwhile."""

import os
import signal
import socket
import sys

import pytest

import calls
from calls import Call
from patience import PATIENCE


@pytest.fixture
def shm(monkeypatch, tmp_path):
    """In the place of the machine's."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(calls, "SHM", folder)
    return folder


def called(tmp_path, code):
    """A command that says "ready", then does what a line on a pipe of ours lets it."""
    command = (sys.executable, "-c", f"import sys; print('ready', file=sys.stderr, flush=True)\n{code}")
    return Call(command=command, state=tmp_path / "state")


def test_what_other_programs_do_meanwhile_is_their_business(shm, tmp_path):
    call = called(tmp_path, "")
    (shm / "psm_of_somebody").write_bytes(b"x")
    (shm / "qemu_back_mem.pc.ram.abc").write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("\0tcelab of somebody else")
        assert call.end() == 0
        call.assert_nothing_is_left()


@pytest.mark.parametrize(
    "code",
    [
        "open({shm!r} + '/tcelab-ram', 'w')",
        "import tempfile; tempfile.mkstemp()",
        "import os; os.makedirs(os.environ['XDG_STATE_HOME'] + '/tcelab/runs/1', mode=0o755)",
    ],
    ids=["shared memory", "temporary", "open to others"],
)
def test_what_a_command_leaves_behind_is_noticed(shm, tmp_path, code):
    call = called(tmp_path, code.format(shm=str(shm)))
    assert call.end() == 0
    with pytest.raises(AssertionError):
        call.assert_nothing_is_left()


def test_a_process_that_outlives_a_command_is_noticed(shm, tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "SOON", 0.1)
    call = called(
        tmp_path, "import subprocess; subprocess.Popen(['sleep', '600'], stdout=2, stderr=subprocess.DEVNULL)"
    )
    assert call.process.wait(PATIENCE) == 0
    (left,) = call.processes("sleep")
    try:
        with pytest.raises(AssertionError, match=f"process {left} survived: sleep"):
            call.assert_nothing_is_left()
    finally:
        os.kill(left, signal.SIGKILL)
    call.end()


def test_what_a_command_does_not_come_to_is_not_waited_for_once_it_has_ended(tmp_path):
    call = called(tmp_path, "")
    with pytest.raises(AssertionError, match="it ended before this: the guest is there: ready"):
        call.wait_until(lambda: False, "the guest is there")
    assert call.end() == 0


def test_a_wait_for_a_command_ends_at_its_limit_and_so_does_the_command(tmp_path):
    call = called(tmp_path, "import time; time.sleep(600)")
    with pytest.raises(AssertionError, match=r"not within 0\.1 s: the guest is there"):
        call.wait_until(lambda: False, "the guest is there", limit=0.1)
    assert call.end() == -signal.SIGKILL


def test_an_output_that_another_process_keeps_open_is_not_waited_for_without_a_limit(tmp_path):
    call = called(tmp_path, "import subprocess; subprocess.Popen(['sleep', '600'], stderr=subprocess.DEVNULL)")
    assert call.process.wait(PATIENCE) == 0
    (left,) = call.processes("sleep")
    try:
        with pytest.raises(AssertionError, match=rf"another process keeps its output open: \[{left}\]"):
            call.end(limit=0.1)
    finally:
        os.kill(left, signal.SIGKILL)
    assert call.end() == 0


def test_what_was_there_before_is_not_of_a_command(shm, tmp_path):
    (shm / "tcelab-ram of a run before").write_bytes(b"x")
    call = called(tmp_path, "")
    assert call.end() == 0
    call.assert_nothing_is_left()
