"""A guest as the loop sees it: a process in QEMU's place, what is watched of it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_guest import abilities
from fake_session import SHAPE
from msgspec import json

from patience import PATIENCE, SOON
from tcelab.errors import GuestLost, HarnessError, Unsupported
from tcelab.image.bases import SavedRegister
from tcelab.program.topology import topology
from tcelab.qemu import machine, transit
from tcelab.qemu.guest import Guest
from tcelab.qemu.limits import Limits
from tcelab.qemu.portal import portal
from tcelab.qemu.probe import Qemu
from tcelab.run.conduct import Conduct

FAKE = Path(__file__).parents[2] / "support" / "fake_qemu.py"
QUICK = Limits(settle=0.05, close=2.0, launch=PATIENCE, load=PATIENCE, boot=PATIENCE, control=PATIENCE)
PATIENT = Limits(settle=PATIENCE, launch=PATIENCE, control=PATIENCE)


def fake(**ways):
    return Qemu("fake", (sys.executable, "-S", "-E", str(FAKE)), {"FAKE_QEMU": json.encode(ways).decode()})


@pytest.fixture
def make(tmp_path):
    """A guest that is not started yet; closed in the end."""
    made = []

    def guest(qemu=None, limits=QUICK, base=None, **ways):
        options = machine.QemuOptions(Path("/k"), Path("/i"), topology("one-pe"), memory=256)
        made.append(Guest(qemu or fake(**ways), abilities(), options, limits, tmp_path, base=base))
        return made[-1]

    yield guest
    for each in made:
        portal().call(each.close())


@pytest.fixture
def started(make):
    guest = make()
    portal().call(guest.start())
    return guest


@pytest.fixture
def base(tmp_path):
    """A guest that was saved: its RAM says so at 0x5000."""
    with (tmp_path / "ram").open("w+b") as ram, (tmp_path / "state").open("w+b") as state:
        ram.truncate(256 << 20)
        os.pwrite(ram.fileno(), b"as saved", 0x5000)
        state.write(b"what devices were")
        state.flush()
        record = SimpleNamespace(windows={0x80000101: SHAPE}, registers=[], conduct=Conduct())
        yield SimpleNamespace(ram=ram.fileno(), state=state.fileno(), console=b"Linux version 6.12\n", record=record)


@pytest.fixture
def fork(make, base):
    """A fork that has started; how the fake QEMU is, and the registers that it is to get back."""

    def started(*registers, limits=QUICK, **ways):
        base.record.registers = list(registers)
        guest = make(base=base, limits=limits, **ways)
        portal().call(guest.start())
        return guest

    return started


def journal(guest):
    return portal().call(guest.qmp("x-journal"))


def tell(guest, command, **arguments):
    with contextlib.suppress(HarnessError, GuestLost):
        return portal().call(guest.qmp(command, **arguments))


def loss(guest, seconds=PATIENCE):
    """How the guest was lost; waits for it."""

    async def wait():
        await asyncio.wait_for(asyncio.shield(guest.waiter.lost), seconds)
        return await guest.waiter.loss()

    return portal().call(wait())


def is_lost(guest):
    """Given time to be."""
    portal().call(asyncio.sleep(0.05))
    return guest.waiter.lost.done()


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
    assert started.waiter.gone


def test_a_refusal_of_qemu_is_the_harnesss_trouble(started):
    with pytest.raises(HarnessError, match="QEMU refuses x-refuse: cannot do that"):
        portal().call(started.qmp("x-refuse"))


def test_a_monitor_that_does_not_answer_ends_by_its_limit(make):
    started = make()
    portal().call(started.start())
    started.limits = Limits(control=0.08)  # only now: else the start itself may be too slow for it
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
    assert started.waiter.panicked is (name == "GUEST_PANICKED")


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
    assert started.waiter.activity.is_set()


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
        select.select([started._console_end], [], [], PATIENCE)
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
    def status():
        return portal().call(started.qmp("query-status"))["status"]

    portal().call(started.standstill.begin())
    assert status() == "paused"
    portal().call(started.standstill.end())
    assert status() == "running"


def test_a_guest_that_had_ended_before_its_stop_is_lost(started):
    tell(started, "x-status", status="guest-panicked")
    with pytest.raises(GuestLost, match="guest-panicked"):
        portal().call(started.standstill.begin())


def test_a_stop_waits_for_the_event_that_says_why(started):
    tell(started, "x-status", status="shutdown")
    portal().loop.call_soon_threadsafe(portal().loop.call_later, 0.03, started.waiter.lose, "the agent ended")
    with pytest.raises(GuestLost, match="the agent ended"):
        portal().call(started.standstill.begin())


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


def test_last_words_are_kept_even_while_the_console_is_lent(started, tmp_path):
    """Who has it is waiting for the guest, and does not read."""
    portal().call(started.lend_console())
    tell(started, "x-console", text="Kernel panic - not syncing: x\nCall Trace:\n")
    tell(started, "x-event", name="GUEST_PANICKED", data={"action": "pause"})
    error = loss(started)
    assert error.message == "the guest's kernel died during boot: Kernel panic - not syncing: x"
    assert error.next_step == "console.log there has the whole trace"
    assert b"Call Trace" in (tmp_path / "console.log").read_bytes()


def test_a_cpu_that_stops_for_good_is_told_by_qemus_log(make, tmp_path):
    """A console that has no word of it has no trace."""
    started = make(limits=Limits(settle=5.0))
    portal().call(started.start())
    stop = "Entering checkstop state: machine check with MSR[ME]=0"
    started.log._line(stop)
    tell(started, "x-event", name="GUEST_PANICKED", data={"action": "pause"})
    error = loss(started, 4.0)
    assert error.message == f"the guest's kernel died during boot: QEMU stopped it: {stop}"
    assert error.next_step == "its console tells nothing of it; see qemu.log there"


def test_closing_ends_qemu_and_may_be_done_twice(started, tmp_path):
    pid = started.pid
    portal().call(started.close())
    portal().call(started.close())
    assert not alive(pid)
    assert started._process.returncode == 0
    assert started.waiter.lost.result() == "the guest was closed"


def test_closing_ends_those_who_wait_for_the_guest(started):
    async def both():
        waiting = asyncio.ensure_future(started.ask(b"{}", lambda: 0))
        await asyncio.sleep(0.02)
        await started.close()
        return await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), PATIENCE)

    (ended,) = portal().call(both())
    assert isinstance(ended, GuestLost)
    assert ended.message == "the guest was closed"


def test_closing_a_guest_whose_qemu_is_just_being_spawned_leaves_no_qemu(make):
    guest = make(limits=Limits(close=1.0, settle=0.05), stubborn=True)
    spawned = []
    real = guest._spawn

    async def spawn(fds):
        await asyncio.sleep(0.05)
        process = await real(fds)
        spawned.append(process.pid)
        return process

    guest._spawn = spawn

    async def both():
        starting = asyncio.ensure_future(guest.start())
        await asyncio.sleep(0.01)
        await asyncio.wait_for(guest.close(), PATIENCE)
        return await asyncio.gather(starting, return_exceptions=True)

    (ended,) = portal().call(both())
    assert isinstance(ended, GuestLost | HarnessError)
    assert len(spawned) == 1
    assert not alive(spawned[0])


def test_a_guest_that_was_closed_before_it_began_does_not_begin(make, tmp_path):
    guest = make()
    portal().call(guest.close())
    with pytest.raises(HarnessError, match="closed before it began"):
        portal().call(guest.start())
    assert not (tmp_path / "qemu.cmd").exists()


def test_a_qemu_that_does_not_quit_is_killed(make):
    guest = make(limits=Limits(close=0.1), stubborn=True)
    portal().call(guest.start())
    began = time.monotonic()
    portal().call(guest.close())
    assert not alive(guest.pid)
    assert 0.18 <= time.monotonic() - began < SOON


def test_a_guest_that_was_never_started_can_be_closed(make):
    guest = make()
    state, ram = guest.state, guest.ram.fd
    portal().call(guest.close())
    for fd in (state, ram):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_no_room_and_no_edu_are_said_before_anything_starts(tmp_path):
    options = machine.QemuOptions(Path("/k"), Path("/i"), topology("one-pe"), memory=256)
    with pytest.raises(Unsupported, match="edu"):
        Guest(fake(), abilities(edu=False), options, QUICK, tmp_path)


def test_an_interrupt_of_the_caller_cancels_what_runs_on_the_loop():
    ends = []

    async def work():
        try:
            await asyncio.sleep(PATIENCE)
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


# -- a fork, and saving what it comes from

BUID, PHB2 = 0x800000020000001, 0x800000020000002
MOVE = ["migrate-set-capabilities", *({"capability": name, "state": True} for name in ("events", "x-ignore-shared"))]


def test_a_fork_loads_its_bases_state_gets_its_registers_back_in_order_and_only_then_goes_on(fork):
    up = fork(
        SavedRegister(BUID, 1, 0x10, 4, 0xE0000000),
        SavedRegister(BUID, 1, 0x3C, 1, 5),
        SavedRegister(BUID, 1, 0x04, 2, 6),
        SavedRegister(PHB2, 30, 0x04, 2, 0x106),
    )
    assert journal(up) == [
        MOVE,
        ["migrate-incoming", "what devices were"],
        ["ibm,write-pci-config", BUID, 1, 0x10, 4, 0xE0000000],
        ["ibm,write-pci-config", BUID, 1, 0x3C, 1, 5],
        ["ibm,write-pci-config", BUID, 1, 0x04, 2, 6],
        ["ibm,write-pci-config", PHB2, 30, 0x04, 2, 0x106],
        ["cont"],
    ]


def test_a_register_that_does_not_take_its_value_back_is_an_error(make, base):
    base.record.registers = [SavedRegister(BUID, 1, 0x04, 2, 6)]
    guest = make(base=base, stuck=[[BUID, 1, 0x04, 2]], registers=[[BUID, 1, 0x04, 2, 2]])
    said = r"slot 1 of PHB 0x800000020000001 does not take its register 0x4 back: 0x6 written, 0x2 read"
    with pytest.raises(HarnessError, match=said) as caught:
        portal().call(guest.start())
    assert caught.value.scene.phase == "load"
    assert ["cont"] not in journal(guest)


def test_a_state_that_does_not_load_is_told_with_qemus_words(make, base):
    guest = make(base=base, migration="failed")
    with pytest.raises(HarnessError, match="QEMU's migrate-incoming failed: the file is full") as caught:
        portal().call(guest.start())
    assert caught.value.scene.phase == "load"
    assert ["cont"] not in journal(guest)


def test_a_failure_that_qemu_does_not_explain_is_told_as_such(make, base):
    guest = make(base=base, migration="failed", answers={"query-migrate": {"status": "failed"}})
    with pytest.raises(HarnessError, match="migrate-incoming failed: it does not say why"):
        portal().call(guest.start())


def test_a_load_that_never_ends_ends_by_its_limit(make, base):
    guest = make(base=base, limits=Limits(load=0.08, close=0.5), migration="setup")
    with pytest.raises(HarnessError, match=r"QEMU did not answer: nothing happened for 0\.08 s.*") as caught:
        portal().call(guest.start())
    assert "--limit load=" in caught.value.next_step


def test_a_forks_ram_is_what_qemu_has_and_its_base_stays_as_it_was(fork, base):
    up = fork()
    assert up.ram.read(0x5000, 8) == b"as saved"
    tell(up, "x-poke", at=0x5000, text="changed!")
    tell(up, "x-poke", at=(256 << 20) - 4, text="last")
    assert up.ram.read(0x5000, 8) == b"changed!"
    assert up.ram.read((256 << 20) - 4, 4) == b"last"
    assert os.pread(base.ram, 8, 0x5000) == b"as saved"


def test_a_qemu_that_has_not_mapped_the_bases_ram_is_no_fork(make, base):
    guest = make(base=base, maps=False)
    with pytest.raises(HarnessError, match="QEMU has not mapped the base's RAM file"):
        portal().call(guest.start())


def test_a_fork_begins_with_the_window_sizes_of_its_base(fork):
    assert fork().log.tables.shapes == {0x80000101: SHAPE}


def test_what_the_kernel_said_while_it_booted_is_as_true_of_a_fork(fork, base, tmp_path):
    base.console = b"Linux version 6.12\nWARNING: CPU: 0 at drivers/vfio.c:1\nhalf"
    up = fork()
    tell(up, "x-console", text=" a line\nWARNING: CPU: 0 at b.c:2\n")
    # Once each, in its order: a warning of the boot is a finding of the first who looks.
    assert portal().call(up.trouble()) == ("WARNING: CPU: 0 at drivers/vfio.c:1", "WARNING: CPU: 0 at b.c:2")
    assert portal().call(up.trouble()) == ()
    assert up.console.tail() == [
        "Linux version 6.12",
        "WARNING: CPU: 0 at drivers/vfio.c:1",
        "half a line",
        "WARNING: CPU: 0 at b.c:2",
    ]
    assert (tmp_path / "console.log").read_bytes().startswith(base.console)


def test_a_forks_agent_that_does_not_answer_ends_by_the_limit_of_the_fork(fork):
    up = fork(limits=Limits(fork=0.08, boot=PATIENCE, settle=0.05))
    began = time.monotonic()
    with pytest.raises(GuestLost, match=r"the fork's agent does not answer: nothing happened for 0\.08 s") as caught:
        portal().call(up.hello(b"{}"))
    assert time.monotonic() - began < SOON
    assert (caught.value.scene.phase, "--limit fork=" in caught.value.next_step) == ("fork", True)


def test_a_fork_has_nothing_to_put_away_and_is_ended_at_once(fork):
    up = fork(limits=Limits(close=PATIENCE), stubborn=True)
    portal().call(up.close())
    assert not alive(up.pid)
    assert up._process.returncode == -9


def test_closing_a_fork_leaves_the_bases_files_to_who_holds_it(fork, base):
    up = fork()
    portal().call(up.close())
    assert os.pread(base.ram, 8, 0x5000) == b"as saved"
    assert os.fstat(base.state).st_size == len(b"what devices were")


def test_a_guest_is_saved_with_the_registers_that_qemu_does_not_save_the_command_register_last(make):
    there = [
        [BUID, 1, 0x04, 2, 6],
        [BUID, 1, 0x10, 4, 0xE0000000],
        [BUID, 1, 0x24, 4, 0x1000000F],
        [BUID, 1, 0x0C, 1, 0x20],
        [BUID, 1, 0x30, 4, 1],
        [BUID, 1, 0x3C, 1, 9],
        [0x80000002000001E, 30, 0x04, 2, 2],
        [BUID, 1, 0x28, 4, 77],
        [BUID, 2, 0x10, 4, 77],
    ]
    guest = make(registers=there)
    portal().call(guest.start())
    os.pwrite(guest.state, b"x" * 1000, 0)  # a longer state of before
    state, registers = portal().call(guest.save())
    assert state == b"the devices' state"
    assert registers == [
        SavedRegister(BUID, 1, 0x0C, 1, 0x20),
        SavedRegister(BUID, 1, 0x10, 4, 0xE0000000),
        SavedRegister(BUID, 1, 0x24, 4, 0x1000000F),
        SavedRegister(BUID, 1, 0x30, 4, 1),
        SavedRegister(BUID, 1, 0x3C, 1, 9),
        SavedRegister(BUID, 1, 0x04, 2, 6),
        SavedRegister(0x80000002000001E, 30, 0x04, 2, 2),
    ]
    assert journal(guest) == [MOVE, ["migrate", "the devices' state"]]


@pytest.fixture
def put_off(monkeypatch):
    """What the kernel has put off takes no time here."""
    monkeypatch.setattr(transit, "_PUT_OFF", 0.05)


def test_a_guest_is_at_rest_a_little_after_its_inits_prompt(make, put_off):
    guest = make(limits=PATIENT)
    portal().call(guest.start())
    resting = asyncio.run_coroutine_threadsafe(guest.rest(), portal().loop)
    tell(guest, "x-console", text="tcelab-init: agent starting\n")
    time.sleep(0.1)
    assert not resting.done()
    began = time.monotonic()
    tell(guest, "x-console", text=f"{transit._PROMPT}")
    resting.result(PATIENCE)
    assert time.monotonic() - began >= 0.05


def test_an_init_that_never_prompts_is_no_error(make, put_off):
    guest = make(limits=Limits(settle=0.05, close=1.0))
    portal().call(guest.start())
    portal().call(guest.rest())
    assert not is_lost(guest)


def test_a_guest_that_cannot_be_saved_is_told_with_qemus_words(make):
    guest = make(migration="failed")
    portal().call(guest.start())
    with pytest.raises(HarnessError, match="QEMU's migrate failed: the file is full") as caught:
        portal().call(guest.save())
    assert caught.value.scene.phase == "load"


# -- a guest that is saved whole, and another QEMU that takes it in


def test_a_guest_is_saved_whole_and_another_qemu_takes_it_in_and_stands_still(make, tmp_path):
    first = make(registers=[[BUID, 1, 0x30, 4, 0x80000001], [BUID, 1, 0x04, 2, 6]])
    portal().call(first.start())
    first.heard(b"before\nhalf a li")
    first.waiter.boot = 3
    saved = portal().call(transit.save(first, guarded=True))
    whole = [
        "migrate-set-capabilities",
        {"capability": "events", "state": True},
        {"capability": "mapped-ram", "state": True},
        {"capability": "x-ignore-shared", "state": False},
    ]
    assert journal(first) == [whole, ["migrate", "the devices' state"]]
    # A ROM over registers is the guard's, who lays it again.
    assert saved.registers == [SavedRegister(BUID, 1, 0x04, 2, 6)]
    (tmp_path / "loaded").mkdir()
    second = Guest(fake(), abilities(), first._options, QUICK, tmp_path / "loaded", saved=saved)
    try:
        portal().call(second.start())
        assert journal(second) == [
            whole,
            ["migrate-incoming", "the devices' state"],
            ["ibm,write-pci-config", BUID, 1, 0x04, 2, 6],
        ]
        assert (second.standstill.holders, second.waiter.boot, second.waiter.handshake_done) == (1, 3, True)
        assert second.disks is first.disks
        second.heard(b"ne\n")
        assert second.console.tail(2) == ["before", "half a line"]
    finally:
        os.close(saved.stream)
        del first.disks, first.dma_api
        portal().call(second.close())


def test_a_guest_that_cannot_be_saved_whole_is_told_with_qemus_words(make):
    guest = make(migration="failed")
    portal().call(guest.start())
    with pytest.raises(HarnessError, match="QEMU's migrate failed: the file is full"):
        portal().call(transit.save(guest, guarded=False))
