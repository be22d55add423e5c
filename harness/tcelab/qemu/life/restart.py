"""Reset and reboot: the machine is reset while it stands still, so that the host sees the moment.

A reboot takes the guest's own way up to the firmware's `system-reboot`. QEMU is told to stop there (`set-action`), and
resets the machine as it would have by itself: both take qemu_system_reset (QEMU system/runstate.c). At any other time a
guest that reboots is lost.
"""

from __future__ import annotations

from typing import Any, Final

from tcelab.program import Flight, Reboot, Reset
from tcelab.qemu.life.flight import HeldCpu, InFlight
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession
from tcelab.qemu.typist import Typist
from tcelab.run.record import Outcome

_COMMAND: Final = "reboot -f"


def reset(session: QemuSession, op: Reset) -> Outcome:
    """QMP system_reset."""
    with session.restart() as guest:
        portal().call(guest.standstill.begin())
        flown = _reset(session, op.flight)
    return booted(session, flown)


def reboot(session: QemuSession, op: Reboot) -> Outcome:
    """Typed at the console."""
    guest = session.guest
    typist = Typist(session, guest.limits.restart)
    portal().call(guest.qmp("set-action", shutdown="pause"))
    with session.restart():
        typist.begin(_COMMAND, guest.restart)
        portal().call(guest.standstill.adopt())
        flown = _reset(session, op.flight)
    return booted(session, flown)


def _reset(session: QemuSession, flight: Flight | None) -> dict[str, Any]:
    """The guest stands still: reset the machine, and let it go. Returns what came of a device in flight."""
    guest = session.guest
    in_flight = None if flight is None else InFlight(session, flight)
    if in_flight is not None:
        in_flight.start()
    guest.log.drain()
    guest.log.tables.reset()
    portal().call(guest.qmp("set-action", reboot="reset"))
    portal().call(guest.restart())
    portal().call(guest.qmp("set-action", reboot="shutdown", shutdown="poweroff"))
    guest.log.drain()
    session.forget()
    flown = {} if in_flight is None else _fly(session, in_flight)
    portal().call(guest.standstill.end())
    return flown


def _fly(session: QemuSession, flight: InFlight) -> dict[str, Any]:
    """A transfer ends on the machine that was reset, before its firmware has done anything. It stands still again."""
    guest = session.guest
    flight.look()  # a reset writes kernel and initrd anew
    cpu = HeldCpu(guest)
    flight.goes_on()
    portal().call(guest.standstill.end())
    flight.over()
    portal().call(guest.standstill.begin())
    cpu.go()
    return flight.told()


def booted(session: QemuSession, flown: dict[str, Any]) -> Outcome:
    """What an event gives after which another kernel runs.

    :param flown: what came of a device in flight; empty: none was.
    """
    return Outcome(value=0, fields={"boot": session.boot, **({"flight": flown} if flown else {})})
