"""Reset and reboot: the machine is reset while it stands still, so that the host sees the moment.

A reboot takes the guest's own way up to the firmware's `system-reboot`. QEMU is told to stop there (`set-action`), and
resets the machine as it would have by itself: both take qemu_system_reset (QEMU system/runstate.c). At any other time a
guest that reboots is lost.
"""

from __future__ import annotations

from typing import Final

from tcelab.program import Reboot, Reset
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession
from tcelab.qemu.typist import Typist
from tcelab.run.record import Outcome

_COMMAND: Final = "reboot -f"


def reset(session: QemuSession, _op: Reset) -> Outcome:
    """QMP system_reset."""
    with session.restart() as guest:
        portal().call(guest.standstill.begin())
        _reset(session)
    return booted(session)


def reboot(session: QemuSession, _op: Reboot) -> Outcome:
    """Typed at the console."""
    guest = session.guest
    typist = Typist(session, guest.limits.restart)
    portal().call(guest.qmp("set-action", shutdown="pause"))
    with session.restart():
        typist.begin(_COMMAND, guest.restart)
        portal().call(guest.standstill.adopt())
        _reset(session)
    return booted(session)


def _reset(session: QemuSession) -> None:
    """The guest stands still: reset the machine, and let it go."""
    guest = session.guest
    guest.log.drain()
    guest.log.tables.reset()
    portal().call(guest.qmp("set-action", reboot="reset"))
    portal().call(guest.restart())
    portal().call(guest.qmp("set-action", reboot="shutdown", shutdown="poweroff"))
    guest.log.drain()
    session.forget()
    portal().call(guest.standstill.end())


def booted(session: QemuSession) -> Outcome:
    """What an event gives after which another kernel runs."""
    return Outcome(value=0, fields={"boot": session.boot})
