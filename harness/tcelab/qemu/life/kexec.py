"""Kexec and kdump: the guest's kernel starts another one, and neither firmware nor QEMU have a part in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tcelab.errors import HarnessError
from tcelab.program import Crash, Flight, Kexec
from tcelab.qemu import machine
from tcelab.qemu.guest import Guest
from tcelab.qemu.life.flight import InFlight
from tcelab.qemu.life.restart import booted
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession
from tcelab.qemu.ram import MIB
from tcelab.qemu.second import flattree, loading, trampoline
from tcelab.run.record import Outcome

_LOOK: Final = 0.005
"""Seconds between two looks at guest RAM, where nothing reports a change."""
_PIECE: Final = 4 * MIB
_LAST_WORDS: Final = "Kernel panic - not syncing: sysrq triggered crash"
"""How a kernel dies that is told to: this one panic is meant to be."""


class _Found(msgspec.Struct, frozen=True):
    """What the agent tells of its kernel: its device tree in hex, the place and the bytes of its notes."""

    tree: dict[str, object]
    notes: tuple[int, int]


def kexec(session: QemuSession, op: Kexec) -> Outcome:
    """Load the same kernel, and jump into it."""
    return _second(session, op, crash=False)


def crash(session: QemuSession, op: Crash) -> Outcome:
    """Load the same kernel for a crash, and crash."""
    return _second(session, op, crash=True)


def _second(session: QemuSession, op: Kexec | Crash, *, crash: bool) -> Outcome:
    plan = _loaded(session, op.append, crash=crash)
    guest = session.guest

    def waits() -> bool:
        return guest.ram.read(plan.mailbox, 4) == plan.waits.to_bytes(4, "little")

    with session.restart(closes=True, machine_stays=True):
        if crash:
            guest.console.expect(_LAST_WORDS)
        message = session.message("second", {"what": "start", "crash": crash})
        portal().call(guest.waiter.run(_left(guest, message, waits), "restart", guest.limits.restart))
        flown = {} if op.flight is None else _fly(session, op.flight)
        if crash:
            guest.cover.crashes(plan.place[0])
        # QEMU does not see what is written below. What it has translated there, it forgets by this alone.
        _clear(guest, *plan.place)
        if session.options.topology.cpus == 1:  # another one might still be on its way out
            _forget(guest, *plan.left)
        for at, data in (*plan.writes, (plan.mailbox, trampoline.GO.to_bytes(4, "little"))):
            guest.ram.write(at, data)
    return msgspec.structs.replace(booted(session, flown), events=session.happened())


def _fly(session: QemuSession, flight: Flight) -> dict[str, Any]:
    """A device is told to transfer when no kernel runs any more, and is done with it before the next one does: the CPU
    waits in the trampoline.
    """
    in_flight = InFlight(session, flight)
    in_flight.depart()
    return in_flight.arrive()


def _clear(guest: Guest, address: int, size: int) -> None:
    portal().call(guest.waiter.run(guest.qtest.clear(address, size), "control", guest.limits.control))


def _forget(guest: Guest, address: int, size: int) -> None:
    """Have QEMU forget what it has translated there, and leave memory as it is. Else each store of the second kernel,
    which copies itself there, is looked up among the code of the first: half a second of a boot.
    """
    for at in range(address, address + size, _PIECE):
        piece = min(_PIECE, address + size - at)
        held = guest.ram.read(at, piece)
        assert held is not None  # below the second kernel
        _clear(guest, at, piece)
        guest.ram.write(at, held)


def _loaded(session: QemuSession, append: str, *, crash: bool) -> loading.Loading:
    """Have the guest's kernel take what it jumps to.

    :raise HarnessError: it does not.
    """
    options = session.options
    found = msgspec.convert(session.request("second", {"what": "find"}), _Found)
    plan = loading.plan(
        flattree.from_hex(found.tree),
        loading.read_kernel(options.kernel),
        options.initrd.read_bytes(),
        " ".join(filter(None, (machine.command_line(options, crash=crash), append))),
        ram=machine.usable(session.guest.ram.size),
        notes=found.notes,
        crash=crash,
    )
    told = {"what": "load", "start": plan.start, "pieces": plan.pieces, "crash": crash}
    if errno := session.request("second", told):
        raise HarnessError(
            f"the guest's kernel takes no {'crash' if crash else 'second'} kernel: {errno}", scene=session.scene()
        )
    return plan


async def _left(guest: Guest, request: bytes, waits: Callable[[], bool]) -> None:
    """Ask the agent to leave its kernel. It has no answer, unless it stays."""
    answer = asyncio.ensure_future(guest.channel.ask(request))
    try:
        while not waits():
            if answer.done():
                raise HarnessError(f"the guest's kernel does not start the second one: {answer.result()[:200]!r}")
            await asyncio.sleep(_LOOK)
    finally:
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
