"""The agent starts, watches and ends a QEMU of its guest's own."""

import signal
import subprocess

import pytest

from tceagent import inner, ports, vfio
from tceagent.kernel import LinuxKernel
from tceagent.process import Process
from tceagent.state import State


class Here(LinuxKernel):
    """This machine's kernel, without the cell."""

    def __init__(self):
        self.beats = 0

    def beat(self):
        self.beats += 1

    def pins(self, *, late=False):
        assert late  # what QEMU registered is let go late
        return 3


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setattr(inner, "SAID", str(tmp_path / "said"))
    monkeypatch.setattr(inner.hotplug, "exists", lambda _: True)
    monkeypatch.setattr(vfio, "bind", lambda *_: {"address": "0001:00:01.0", "group": 3})
    monkeypatch.setattr(ports, "find_port", lambda _kernel, name: f"/dev/{name}")
    return State(Here())


def start(state, *argv, channels=()):
    return inner.perform(state, "start", argv=list(argv), buid=1, slot=1, channels=list(channels))


def test_it_is_started_with_the_places_filled_in_and_its_end_is_told(state):
    told = start(state, "/bin/sh", "-c", "echo $0 {device} {a} >&2; exit 7", "{a}", channels=["a"])
    assert (told["errno"], told["group"], told["address"]) == ("", 3, "0001:00:01.0")
    assert told["pins"] == 3
    ended = inner.perform(state, "end", signal=0, limit=20.0)
    assert (ended["running"], ended["status"], ended["signal"], ended["pins"]) == (False, 7, None, 3)
    assert ended["said"] == "/dev/a 0001:00:01.0 /dev/a\n"


def test_while_it_runs_it_is_looked_at_and_a_signal_ends_it(state):
    start(state, "/bin/sleep", "1000")
    told = inner.perform(state, "look")
    assert (told["running"], told["status"], told["vmlck"]) == (True, None, 0)
    ended = inner.perform(state, "end", signal=int(signal.SIGKILL), limit=20.0)
    assert (ended["running"], ended["status"], ended["signal"]) == (False, None, 9)


def test_one_that_does_not_end_is_told_to_run_on(state):
    start(state, "/bin/sleep", "1000")
    assert inner.perform(state, "end", signal=0, limit=0.05)["running"] is True
    assert state.kernel.beats > 0
    inner.perform(state, "end", signal=9, limit=20.0)


def test_a_program_that_is_not_there_is_told_with_its_step(state):
    told = start(state, "/no/such/qemu")
    assert (told["errno"], told["step"]) == ("ENOENT", "spawn")


def test_a_kernel_without_kvm_is_told_with_its_step(state, monkeypatch):
    def load(_name):
        raise OSError(19, "no such device")

    monkeypatch.setattr(inner.hotplug, "exists", lambda sign: sign.endswith("kvm"))
    monkeypatch.setattr(inner.hotplug, "load", load)
    told = start(state, "/bin/true")
    assert (told["errno"], told["step"]) == ("ENODEV", "load kvm-hv")


def test_without_one_there_is_nothing_to_look_at(state):
    with pytest.raises(LookupError, match="no QEMU was started"):
        inner.perform(state, "look")


def test_memory_that_is_not_mapped_under_that_name_is_an_error(state):
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        state.inner = Process(process.pid)
        with pytest.raises(LookupError, match="no mapping of 4096 bytes called nobody"):
            inner.perform(state, "memory", name="nobody", size=4096)
        process.kill()
