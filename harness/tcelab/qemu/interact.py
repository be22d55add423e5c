"""Give a running guest's console to the person at the terminal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import pexpect

from tcelab.qemu.guest import Guest
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession

ESCAPE: Final = chr(29)
"""Ctrl-]"""

if TYPE_CHECKING:  # the stubs make it generic, the class is not
    _Spawn = pexpect.spawn[bytes]
else:
    _Spawn = pexpect.spawn


class _Attached(_Spawn):
    """pexpect's interaction on a descriptor that is open already."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(None)  # type: ignore[arg-type] # pexpect's way to say: no child of its own
        self.child_fd = descriptor
        self.closed = False
        self.delaybeforesend = None

    def isalive(self) -> bool:
        """The other end announces its end by end of file."""
        return True


class Hearing:
    """A log file for pexpect that keeps the guest's console watched and logged."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def write(self, data: bytes) -> None:
        portal().loop.call_soon_threadsafe(self._guest.heard, data)

    def flush(self) -> None:
        """Nothing is held back."""


def interact(session: QemuSession) -> None:
    """Connect the terminal with the guest's console until Ctrl-] or the guest's end."""
    descriptor = portal().call(session.guest.lend_console())
    attached = _Attached(descriptor)
    attached.logfile_read = Hearing(session.guest)
    try:
        with contextlib.suppress(OSError, pexpect.EOF):  # the guest ended
            attached.send(b"\n")
            attached.interact(escape_character=ESCAPE)
    finally:
        attached.child_fd = -1  # the descriptor is the guest's
        attached.closed = True
        portal().call(session.guest.take_console_back())
