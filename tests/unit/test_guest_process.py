"""A guest as the loop sees it: a process in QEMU's place, what is watched of it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path

import pytest
from fake_guest import abilities
from msgspec import json

from tcelab.errors import GuestLost, HarnessError, Unsupported
from tcelab.qemu import machine
from tcelab.qemu.guest import Guest
from tcelab.qemu.limits import Limits
from tcelab.qemu.portal import portal
from tcelab.qemu.probe import Qemu
from tcelab.topology import topology

FAKE = Path(__file__).with_name("fake_qemu.py")
QUICK = Limits(settle=0.05, close=2.0, launch=5.0, boot=5.0, control=5.0)
PATIENT = Limits(settle=5.0)


def fake(**ways):
    return Qemu("fake", (sys.executable, "-S", "-E", str(FAKE)), {"FAKE_QEMU": json.encode(ways).decode()})


@pytest.fixture
def make(tmp_path):
    """A guest that is not started yet; closed in the end."""
    made = []

    def guest(qemu=None, limits=QUICK, **ways):
        options = machine.Options(Path("/k"), Path("/i"), topology("one-pe"), memory=256)
        made.append(Guest(qemu or fake(**ways), abilities(), options, limits, tmp_path))
        return made[-1]

    yield guest
    for each in made:
        portal().call(each.close())


@pytest.fixture
def started(make):
    guest = make()
    portal().call(guest.start())
    return guest


def tell(guest, command, **arguments):
    with contextlib.suppress(HarnessError, GuestLost):
        return portal().call(guest.qmp(command, **arguments))


def loss(guest, seconds=2.0):
    """How the guest was lost; waits for it."""

    async def wait():
        await asyncio.wait_for(asyncio.shield(guest.race.lost), seconds)
        return await guest.race.loss()

    return portal().call(wait())


def is_lost(guest):
    """Given time to be."""
    portal().call(asyncio.sleep(0.05))
    return guest.race.lost.done()


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_guest_that_was_started_answers_its_monitor(started, tmp_path):
    assert portal().call(started.qmp("query-version"))["package"] == "Toy 1"
    assert alive(started.pid)
    assert "-chardev socket,id=qmp,fd=" in (tmp_path / "qemu.cmd").read_text()
    assert not is_lost(started)


def test_a_qemu_that_ends_at_once_is_told_with_its_words(make):
    guest = make(limits=PATIENT, says="qemu: no such machine\n", exits=3)
    with pytest.raises(HarnessError, match="QEMU ended with status 3: qemu: no such machine") as caught:
        portal().call(guest.start())
    assert caught.value.scene.phase == "launch"


def test_a_program_that_cannot_be_executed_is_unsupported(make):
    guest = make(qemu=Qemu("none", ("/nonexistent/qemu",)))
    with pytest.raises(Unsupported, match="cannot execute /nonexistent/qemu: No such file"):
        portal().call(guest.start())


def test_a_qemu_that_is_killed_is_told_by_its_signal(make):
    started = make(limits=PATIENT)
    portal().call(started.start())
    tell(started, "x-kill")
    assert loss(started).message.startswith("QEMU was killed by SIGKILL")
    assert started.race.gone


def test_a_refusal_of_qemu_is_the_harnesss_trouble(started):
    with pytest.raises(HarnessError, match="QEMU refuses x-refuse: cannot do that"):
        portal().call(started.qmp("x-refuse"))


def test_a_monitor_that_does_not_answer_ends_by_its_limit(make):
    started = make(limits=Limits(control=0.08))
    portal().call(started.start())
    with pytest.raises(HarnessError, match=r"QEMU did not answer: nothing happened for 0\.08 s"):
        portal().call(started.qmp("x-silence"))


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("GUEST_PANICKED", {"action": "pause"}, "the guest's kernel died during boot: the guest's kernel panicked"),
        ("SHUTDOWN", {"guest": True, "reason": "guest-reset"}, "the guest shut down (guest-reset)"),
        ("VSERPORT_CHANGE", {"id": "agent-port", "open": False}, "the agent ended"),
    ],
)
def test_an_event_that_ends_a_guest_loses_it(started, name, data, said):
    tell(started, "x-event", name=name, data=data)
    assert loss(started).message == said
    assert started.race.panicked is (name == "GUEST_PANICKED")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("VSERPORT_CHANGE", {"id": "agent-port", "open": True}),
        ("VSERPORT_CHANGE", {"id": "other-port", "open": False}),
        ("STOP", {}),
        ("RESUME", {}),
    ],
)
def test_any_other_event_does_not(started, name, data):
    tell(started, "x-event", name=name, data=data)
    assert not is_lost(started)
    assert started.race.stirred.is_set()


def test_what_the_console_says_is_kept_and_a_dying_kernel_loses_the_guest(started):
    tell(started, "x-console", text="Linux version 6.12\n")
    assert not is_lost(started)
    assert set(started.console.reached) == {"kernel"}
    tell(started, "x-console", text="Kernel panic - not syncing: x\n")
    assert loss(started).message == "the guest's kernel died during boot: Kernel panic - not syncing: x"


def test_trouble_on_the_console_is_heard_out_and_told_once(started):
    tell(started, "x-console", text="WARNING: CPU: 0 at a.c:1\n" * 5000)
    assert len(portal().call(started.trouble())) == 5000
    assert portal().call(started.trouble()) == ()


def test_trouble_that_nobody_has_read_yet_is_heard_out(started):
    async def told_while_the_loop_stands():
        await started.qmp("x-console-soon", text="one\nWARNING: CPU: 0 at a.c:1\n")
        time.sleep(0.12)  # noqa: ASYNC251 - so that the watcher cannot have run
        return await started.trouble()

    assert portal().call(told_while_the_loop_stands()) == ("WARNING: CPU: 0 at a.c:1",)


def test_a_console_that_ends_before_qemu_does_loses_the_guest(started):
    tell(started, "x-hang-up")
    error = loss(started)
    assert isinstance(error, HarnessError)
    assert error.message == "tcelab's watcher of the console met its end"


def test_a_watcher_that_fails_loses_the_guest(started, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(started.console, "feed", full)
    tell(started, "x-console", text="anything\n")
    error = loss(started)
    assert isinstance(error, HarnessError)
    assert error.message == "tcelab's watcher failed: [Errno 28] No space left on device"


def test_a_guest_that_is_stopped_is_only_stopped(started):
    portal().call(started.pause())


def test_a_guest_that_had_ended_before_its_stop_is_lost(started):
    tell(started, "x-status", status="guest-panicked")
    with pytest.raises(GuestLost, match="guest-panicked"):
        portal().call(started.pause())


def test_a_stop_waits_for_the_event_that_says_why(started):
    tell(started, "x-status", status="shutdown")
    portal().loop.call_soon_threadsafe(portal().loop.call_later, 0.03, started.race.lose, "the agent ended")
    with pytest.raises(GuestLost, match="the agent ended"):
        portal().call(started.pause())


@pytest.mark.parametrize("line", ["tcelab-init: no agent: there is no Python", "tcelab-init: agent exited 1"])
def test_an_init_that_says_there_is_no_agent_ends_the_boot(started, line):
    tell(started, "x-console", text=f"{line}\n")
    with pytest.raises(HarnessError, match=line) as caught:
        portal().call(started.hello(b"{}"))
    assert "tcelab image build" in caught.value.next_step
    assert caught.value.scene.phase == "boot"


def test_a_silent_agent_ends_by_the_limit_of_its_phase(make):
    guest = make(limits=Limits(perform=0.08, boot=0.08, close=0.15, settle=0.1))
    portal().call(guest.start())
    with pytest.raises(GuestLost, match="the agent stopped answering"):
        portal().call(guest.ask(b"{}", lambda: 0))
    with pytest.raises(GuestLost, match="no agent came up"):
        portal().call(guest.hello(b"{}"))


def test_a_lent_console_is_not_read_and_comes_back(started):
    descriptor = portal().call(started.lend_console())
    tell(started, "x-console", text="for the person\n")
    assert not is_lost(started)
    assert os.read(descriptor, 100) == b"for the person\n"
    portal().call(started.take_console_back())
    tell(started, "x-console", text="for us\n")
    assert not is_lost(started)
    assert started.console.tail() == ["for us"]


def test_closing_ends_qemu_and_may_be_done_twice(started, tmp_path):
    pid = started.pid
    portal().call(started.close())
    portal().call(started.close())
    assert not alive(pid)
    assert not started.race.lost.done() or started.race.lost.result() == "QEMU ended with status 0"


def test_a_qemu_that_does_not_quit_is_killed(make):
    guest = make(limits=Limits(close=0.1), stubborn=True)
    portal().call(guest.start())
    began = time.monotonic()
    portal().call(guest.close())
    assert not alive(guest.pid)
    assert 0.18 <= time.monotonic() - began < 2.0


def test_a_guest_that_was_never_started_can_be_closed(make):
    guest = make()
    state, ram = guest.state, guest.ram.fd
    portal().call(guest.close())
    for fd in (state, ram):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_no_room_and_no_edu_are_said_before_anything_starts(tmp_path):
    options = machine.Options(Path("/k"), Path("/i"), topology("one-pe"), memory=256)
    with pytest.raises(Unsupported, match="edu"):
        Guest(fake(), abilities(edu=False), options, QUICK, tmp_path)


def test_an_interrupt_of_the_caller_cancels_what_runs_on_the_loop():
    ends = []

    async def work():
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    class Interrupted:
        def __init__(self, future):
            self.future = future

        def result(self):
            time.sleep(0.02)
            raise KeyboardInterrupt

        def cancel(self):
            self.future.cancel()

    with pytest.MonkeyPatch.context() as patch:
        real = asyncio.run_coroutine_threadsafe
        patch.setattr(asyncio, "run_coroutine_threadsafe", lambda work, loop: Interrupted(real(work, loop)))
        with pytest.raises(KeyboardInterrupt):
            portal().call(work())
    portal().call(asyncio.sleep(0.01))
    assert ends == ["cancelled"]
