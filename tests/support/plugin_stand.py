"""Guests for the plugin's tests, without QEMU: each is ideal, unless it is told to lie."""

from __future__ import annotations

import logging

from ideal import Ideal

from tcelab.errors import GuestLost, Unsupported
from tcelab.logs import NOTE, PHASE
from tcelab.program import Program
from tcelab.program.topology import topology

_LOG = logging.getLogger("tcelab.stand")


class StandSession(Ideal):
    """A session of the plugin; tests reach it as `pseries.session`."""

    def __init__(self, name, folder):
        super().__init__(Program(name="stand", topology=topology(name), ops=[]))
        self.folder = folder
        self.lost = False
        self.renewed = 0
        self.closed = False

    def perform(self, ops):
        if self.lost:
            raise GuestLost("the agent stopped answering", next_step="see console.log")
        return super().perform(ops)

    def tail(self, _lines):
        return ["[ 1.0] last words"]

    def renew(self):
        self.renewed += 1

    def close(self):
        self.closed = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class StandGuests:
    """Takes the place of `tcelab.job.pool.Guests`; what it was given and asked is in `said`."""

    said = []  # noqa: RUF012 - one for all
    sessions = []  # noqa: RUF012 - likewise

    def __init__(self, choice, folder, *, limits=None, boot=False, ahead=None, recording=None):
        self._folder = folder
        self.said.append(("made", choice, boot, ahead))

    def expect(self, name, needs):
        if needs == "vof":
            raise Unsupported("QEMU 7.2 cannot do what the test needs: vof")

    def fresh(self, name, more):
        self.said.append(("fresh", name, more))
        _LOG.info("booting", extra=PHASE)
        _LOG.warning("a fork is replaced", extra=NOTE)
        self.sessions.append(StandSession(name, self._folder()))
        return self.sessions[-1]

    def close(self):
        self.said.append(("closed",))
