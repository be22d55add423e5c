"""L2 as the loop sees it: what died is told by its level, and with the console of that level."""

import asyncio
import socket
import struct
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_guest import HELLO, FakeGuest, abilities

from tcelab.errors import GuestLost, HarnessError
from tcelab.passthrough.session import Inner
from tcelab.program.topology import PASSTHROUGH
from tcelab.qemu import machine
from tcelab.qemu.console import Console
from tcelab.qemu.innerguest import QEMU_ENDED, InnerGuest, InnerWaiter
from tcelab.qemu.limits import Limits
from tcelab.qemu.nested import PORTS
from tcelab.qemu.portal import portal
from tcelab.qemu.probe import Qemu
from tcelab.qemu.waiter import GuestWaiter

QUICK = Limits(settle=0.01, whole_settle=0.05, perform=0.05)
PANIC = b"[    1.000000] Kernel panic - not syncing: sysrq triggered crash\n"


def waited(folder, happens, work=None):
    """What a wait for L2 raises when that happens to (L1's waiter and console, L2's)."""

    async def run():
        consoles = [Console(folder / name) for name in ("console.log", "inner-console.log")]
        outer = GuestWaiter(consoles[0], folder, QUICK)
        inner = InnerWaiter(outer, consoles[1], folder, QUICK)
        outer.handshake_done = inner.handshake_done = True
        happens((outer, consoles[0]), (inner, consoles[1]))
        try:
            with pytest.raises((GuestLost, HarnessError)) as caught:
                await inner.run(work or asyncio.sleep(60), "perform", QUICK.perform)
        finally:
            for console in consoles:
                console.close()
        return caught.value

    return asyncio.run(run())


def died(which):
    waiter, console = which
    console.feed(PANIC, 0.0)
    waiter.lose("the guest's kernel died")


def test_a_kernel_of_l2_that_dies_is_l2s(tmp_path):
    error = waited(tmp_path, lambda _, inner: died(inner))
    assert error.kernel_died
    assert error.message.startswith("L2: the guest's kernel died: [    1.000000] Kernel panic")
    assert error.next_step.startswith("inner-console.log there")
    assert any("sysrq" in line for line in error.scene.console)


def test_a_kernel_of_l1_that_dies_is_l1s_although_l2_was_waited_for(tmp_path):
    error = waited(tmp_path, lambda outer, _: died(outer))
    assert error.kernel_died
    assert error.message.startswith("L1: the guest's kernel died: [    1.000000] Kernel panic")
    assert error.next_step.startswith("console.log there")


def test_qemu_on_this_host_needs_no_level(tmp_path):
    (tmp_path / "qemu.err").write_text("")

    def ended(outer, _):
        outer[0].gone = True
        outer[0].lose("QEMU was killed by SIGKILL")

    error = waited(tmp_path, ended)
    assert isinstance(error, HarnessError)
    assert error.message == "QEMU was killed by SIGKILL"


def test_the_end_of_l1s_qemu_stands_by_itself(tmp_path):
    error = waited(tmp_path, lambda _, inner: inner[0].lose(QEMU_ENDED))
    assert error.message == QEMU_ENDED
    assert not getattr(error, "kernel_died", False)


def test_a_silent_l2_is_told_with_its_own_console(tmp_path):
    error = waited(tmp_path, lambda *_: None)
    assert error.message == "L2: the agent stopped answering: nothing happened for 0.05 s"
    assert "inner-console.log" in error.next_step


def test_l2s_agent_is_greeted_by_its_own_channel(tmp_path):
    """By all that a conversation asks of a guest: an `InnerGuest` is none of the class that all others are."""
    pairs = [socket.socketpair() for _ in PORTS]
    ends = dict(zip(PORTS, [mine for mine, _ in pairs], strict=True))
    agent = FakeGuest(tmp_path)

    def answers():
        wire = pairs[0][1].makefile("rwb", buffering=0)
        (length,) = struct.unpack(">I", wire.read(4))
        answer = asyncio.run(agent.hello(wire.read(length)))
        wire.write(struct.pack(">I", len(answer)) + answer)
        wire.close()

    async def made():
        outer = SimpleNamespace(ends=ends, waiter=GuestWaiter(console, tmp_path, QUICK), on_event=None)
        return InnerGuest(outer, Limits(inner_boot=30), tmp_path)

    console = Console(tmp_path / "console.log")
    guest = portal().call(made())
    guest.ram = agent.ram
    thread = threading.Thread(target=answers)
    thread.start()
    options = machine.QemuOptions(Path("vmlinux"), Path("initrd"), PASSTHROUGH)
    inner = Inner(Qemu("qemu", ("qemu",)), abilities(), options, guest)
    try:
        inner.greet(HELLO["digest"])
    finally:
        thread.join()
        portal().call(guest.close())
        console.close()
        for _, theirs in pairs:
            theirs.close()
    assert inner.facts.page_size == HELLO["page_size"]
    assert guest.waiter.handshake_done
