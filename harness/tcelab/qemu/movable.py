"""What of a session changes when another QEMU takes its guest in: the guest, its views, its guard."""

from __future__ import annotations

import os
import threading
from typing import Any, Protocol

from tcelab.errors import HarnessError, TcelabError
from tcelab.image.bases import Held
from tcelab.qemu import machine, probe
from tcelab.qemu.conversation import Conversation
from tcelab.qemu.guard import Guard
from tcelab.qemu.guest import Guest
from tcelab.qemu.hostviews import HostViews
from tcelab.qemu.portal import portal
from tcelab.qemu.transit import SavedGuest
from tcelab.run.record import TableView


class Aloft(Protocol):
    """A transfer that was under way when the guest was saved; see `tcelab.qemu.life.flight`."""

    def arrive(self) -> dict[str, Any]:
        """Wait for its end, and give what came of it."""
        ...


class MovableSession(Conversation):
    """:ivar guest: in the QEMU that has it now.

    :ivar saved: what was saved of it and is still to be loaded.
    :ivar in_flight: a transfer that was under way then.
    """

    guest: Guest
    _hostviews: HostViews

    def __init__(
        self, qemu: probe.Qemu, abilities: probe.Abilities, options: machine.QemuOptions, base: Held | None
    ) -> None:
        super().__init__(qemu, abilities, options, base)
        self.saved: SavedGuest | None = None
        self.in_flight: Aloft | None = None
        self._guard: Guard | None = None
        self._guests: list[Guest] = []
        self._closing = threading.Lock()
        self._closed = False

    def begin(self, guest: Guest) -> None:
        """The first QEMU is about to have the guest."""
        self.guest = guest
        self._guests.append(guest)

    @property
    def first(self) -> tuple[probe.Qemu, probe.Abilities]:
        """The QEMU that the guest began with."""
        return self._qemu, self._abilities

    @property
    def alive(self) -> bool:
        """No event has ended the guest so far."""
        return not self.guest.waiter.lost.done()

    def loss(self) -> TcelabError:
        """What ended a guest that is not alive."""
        return portal().call(self.guest.waiter.loss())

    def table_views(self) -> list[TableView]:
        """The tables in QEMU's device state, of a guest that stands still; none where that cannot be seen."""
        self.guest.log.drain()
        return [] if "stream" in self.facts.cannot else self._hostviews.streamed()

    def succeed(self, fresh: Guest) -> None:
        """Another QEMU is about to take the guest in.

        :raise HarnessError: the session was closed meanwhile.
        """
        with self._closing:
            gone = self._closed
            owner = fresh if gone else self.guest
            del owner.disks, owner.dma_api  # they are the other one's
            if not gone:
                self._guests.append(fresh)
        if gone:
            portal().call(fresh.close())
            raise HarnessError("closed: the guest is loaded no more")

    def move_in(self, fresh: Guest) -> None:
        """It has taken the guest in, which stands still: views, guard and agent are asked of it from now on."""
        with self._closing:
            if self._closed:
                raise HarnessError("closed: the guest is loaded no more")
            moved = self.guest.cover
            before, self._hostviews = self._hostviews, HostViews(fresh, self.options.topology, papr=self.options.papr)
            self.guest = fresh
        before.close()
        fresh.cover.follow(moved)
        self._cell.move(fresh.ram)
        if self._guard is not None:
            guard = Guard(fresh, self._hostviews.live, self.options.topology, self.options.guard)
            guard.resume(self._guard)
            self._guard = guard

    def go_on_moved(self) -> None:
        """The guest goes on there; the QEMU that had it ends."""
        portal().call(self.guest.standstill.end())
        if self._guard is not None:
            self._guard.prove()
        with self._closing:
            ended = [each for each in self._guests if each is not self.guest]
            self._guests = [self.guest]
        for guest in ended:
            portal().call(guest.close())
        self.drop_saved()

    def stay(self) -> None:
        """Nobody has loaded what was saved: the guest goes on where it is."""
        if self.saved is not None:
            self.drop_saved()
            portal().call(self.guest.standstill.end())

    def drop_saved(self) -> None:
        """Let go of what was saved."""
        saved, self.saved = self.saved, None
        if saved is not None:
            os.close(saved.stream)

    def end(self) -> None:
        """End every QEMU. May be called twice, and from two threads at once."""
        with self._closing:
            self._closed = True
            guests = list(self._guests)
        for guest in guests:
            portal().call(guest.close())
        with self._closing:
            hostviews = self.__dict__.pop("_hostviews", None)
            self.drop_saved()
        if hostviews is not None:
            hostviews.close()
