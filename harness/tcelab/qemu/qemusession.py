"""The platform `qemu` as a `Session`: handshake, requests to the agent, checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from tcelab.errors import GuestLost, Interrupted, Unsupported
from tcelab.image.bases import Held, SavedRegister
from tcelab.logs import PHASE
from tcelab.papr import isolationrules
from tcelab.program import Burst, Checkpoint, Ddw, Dma, Engine, Flip, GuestOp, HostOp, Ioctl, LifeOp, Rtas, Together
from tcelab.program.plugged import Plugged
from tcelab.qemu import conduct, machine, probe, rtaswindows
from tcelab.qemu.guard import Guard, chunks
from tcelab.qemu.guest import Guest
from tcelab.qemu.hostviews import HostViews
from tcelab.qemu.limits import Limits
from tcelab.qemu.movable import MovableSession
from tcelab.qemu.portal import portal
from tcelab.qemu.racing import Racing
from tcelab.qemu.second import serialqueue
from tcelab.run.record import Event, Outcome, Snapshot

_LOG: Final = logging.getLogger(__name__)


class QemuSession(MovableSession):
    """A guest with its agent ready. Use as a context manager: QEMU ends with it, whatever happens.

    Methods run in their caller's thread, one at a time, and hand everything that waits to the loop
    (`tcelab.qemu.portal`). Tables and guest RAM are large and are read in the caller's thread, while the guest is
    stopped. Only `close` may be called from another thread at any time: it ends QEMU on the loop, so that the caller's
    wait raises, and then closes the views, once.

    :ivar folder: of its artefacts.
    :ivar plugged: what is plugged in.
    :ivar began: when opening it began, by `time.monotonic`.
    :ivar reached: seconds from the start at which each phase of the boot, or of the fork, was reached.
    """

    def __init__(
        self,
        qemu: probe.Qemu,
        options: machine.QemuOptions,
        folder: Path,
        *,
        limits: Limits | None = None,
        abilities: probe.Abilities | None = None,
        base: Held | None = None,
        digest: str = "",
        events: Mapping[type, Callable[[Any, Any], Outcome]] | None = None,
        on_spawn: Callable[[Guest], None] = lambda _: None,
        loaded: Callable[[Guest], None] = lambda _: None,
    ) -> None:
        """Boot, or fork a base: `tcelab.qemu.fork.Forks` chooses.

        :param folder: artefacts go there; it exists, private.
        :param abilities: QEMU's, if they are known.
        :param base: of a guest of the same QEMU and machine; None: boot.
        :param digest: of the agent's sources that the handshake must show; empty: any.
        :param events: how the events in the life of a table are gone through, by the operation's class; see
            `tcelab.qemu.life`.
        :param on_spawn: given the guest as soon as there is one, so that another thread can end it.
        :param loaded: called once a fork is loaded, before anything is asked of its agent.
        :raise Unsupported: this host or QEMU cannot.
        :raise HarnessError: QEMU fails, or the agent in the image is not the one of this tcelab.
        :raise GuestLost: the guest does not come up.
        """
        self.began = time.monotonic()
        self.folder = folder
        self._events = events or {}
        self._devices: dict[str, str] = {}
        self._racing: Racing | None = None
        self.plugged = Plugged(options.topology)
        if abilities is None:
            _LOG.info("probing QEMU", extra=PHASE)
            abilities = probe.probe(qemu)
        super().__init__(qemu, abilities, options, base)
        self.begin(Guest(qemu, abilities, options, limits or Limits(), folder, base=base))
        try:
            on_spawn(self.guest)
            doing = "booting" if base is None else "forking"
            firmware = machine.firmware(options, abilities)
            _LOG.info("%s under QEMU %s, %s", doing, abilities.version, firmware, extra=PHASE)
            portal().call(self.guest.start())
            self._hostviews = HostViews(self.guest, options.topology, papr=options.papr)
            self.reached = {}
            if base is not None:
                self.reached["loaded"] = self.guest.waiter.elapsed()
                loaded(self.guest)
            self.greet(digest)
            self.guest.probes.heard()  # of the boot
            if options.topology.raced:
                self._racing = Racing(
                    self.guest, self._hostviews, options.topology, self.places([], symbols=True).symbols
                )
            if base is None:
                self.reached |= self.guest.console.reached
                self.guest.log.drain()
                self.guest.console.heard.booted()
            if not options.papr:
                for name in conduct.TRACES:
                    off = {"name": name, "enable": False, "ignore-unavailable": True}
                    portal().call(self.guest.qmp("trace-event-set-state", **off))
            if options.guard != "off":
                self._guard = Guard(self.guest, self._hostviews.live, options.topology, options.guard)
                self._guard.start()
            self.reached["ready"] = self.guest.waiter.elapsed()
        except KeyboardInterrupt:
            scene = self.scene()
            self.close()
            raise Interrupted(scene=scene) from None
        except BaseException:
            self.close()
            raise

    def tail(self, lines: int) -> list[str]:
        """The console's last lines."""
        return self.guest.console.tail(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End QEMU. May be called twice, and from two threads at once."""
        _LOG.debug("closing the guest in %s", self.folder)
        self.end()

    # -- the handshake

    def renew(self, nonce: bytes | None = None) -> None:
        """Begin anew on the same guest: everything that programs left there is closed and forgotten.

        So are QEMU's refusals so far, but not trouble on the console.

        :param nonce: of another session, to be compared with this one; by default a fresh one.
        """
        self.greet(self.facts.versions["agent"]["digest"], renew=True, nonce=nonce)
        self.guest.probes.heard()  # as everything was closed
        self.guest.disks.renew()  # nobody who could write to them is left
        if self._guard is not None:
            self._guard.reset()
        self.guest.log.drain()
        self.guest.log.take_refusals()
        self.guest.console.heard.renew()

    # -- another kernel

    @property
    def boot(self) -> int:
        """See `tcelab.run.session.Session`."""
        return self.guest.waiter.boot

    @contextmanager
    def restart(self, *, closes: bool = False, machine_stays: bool = False) -> Iterator[Guest]:
        """In the block, the guest's kernel ends; after it, the agent of the next one is awaited.

        :param closes: the next agent is greeted only once the one before has lost its port, and cannot hear it. QEMU
            tells at once that a port was closed, and up to a second late that it was opened again (VSERPORT_CHANGE).
        :param machine_stays: it is not reset: devices, and PEs that are isolated, are as they were.
        :raise GuestLost: no agent comes up.
        """
        guest = self.guest
        guest.restarts.on = True
        guest.restarts.closed.clear()
        guest.console.begin_boot()
        yield guest
        guest.cover.ended()
        guest.waiter.boot += 1
        self._devices.clear()
        self.greet(self.facts.versions["agent"]["digest"], nonce=self.facts.nonce, booting=True, closes=closes)
        guest.restarts.on = False
        if self._guard is not None and not machine_stays:
            self._guard.meet()

    def happened(self) -> list[Event]:
        """What the guard has seen since it was asked last, and has done about it."""
        return [] if self._guard is None else self._guard.settle()

    def forget(self) -> None:
        """The machine was reset, and stands still: nothing that was known of its devices is so any more."""
        self.plugged.reset()
        if self._guard is not None:
            self._guard.restarted(self.plugged.devices)

    @property
    def views(self) -> HostViews:
        """Of its tables."""
        return self._hostviews

    @property
    def guard(self) -> Guard | None:
        """Of its PEs, if they are guarded."""
        return self._guard

    def _serial_queue(self) -> int:
        return portal().call(serialqueue.length(self.guest)) if self.options.topology.crashkernel else 0

    # -- Session

    def perform(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        """See `tcelab.run.session.Session`. With a guard, waits for the consequences of each operation that may touch a
        device.
        """
        if self.guest.probes.servers:
            return self._overhear(ops)
        if self._guard is None:
            return self.ask(ops)
        outcomes: list[Outcome] = []
        for chunk in chunks(ops):
            self._announce(chunk[-1])
            try:
                done = self.ask(chunk)
            except GuestLost as error:
                error.in_flight = None if error.in_flight is None else error.in_flight + len(outcomes)
                raise
            if events := self._guard.settle():
                done[-1] = msgspec.structs.replace(done[-1], events=events)
            outcomes += done
        return outcomes

    def _overhear(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for op in ops:
            try:
                outcomes.append(self._overheard(op))
            except GuestLost as error:
                error.in_flight = None if error.in_flight is None else error.in_flight + len(outcomes)
                raise
        return outcomes

    def _overheard(self, op: GuestOp) -> Outcome:
        """Do one operation alone: what the probes are told meanwhile, and what they do, belongs to it."""
        if self._guard is not None:
            self._announce(op)
        race = None
        if self._racing is None or (where := self._racing.concerned(op)) is None:
            (done,) = self.ask([op])
        else:
            (done,) = self.ask_by(self._racing.at(where), [op])
            race = self._racing.race
        if self._racing is not None:
            self._racing.follow(op)
        limit = self.guest.limits.control
        while not portal().call(self.guest.waiter.run(self.guest.probes.at_rest(limit / 2), "control", limit)):
            pass  # it does more than that takes, page by page
        if self._guard is not None and (events := self._guard.settle()):
            done = msgspec.structs.replace(done, events=self._ordered(op, events))
        return msgspec.structs.replace(done, race=race, told=self.guest.probes.heard(), apart=self.guest.probes.apart())

    def _ordered(self, op: GuestOp, events: list[Event]) -> list[Event]:
        """Probes that begin together are blocked in any order: in that of the operation."""
        if not isinstance(op, Together) or any(event.kind != "blocked" for event in events):
            return events
        places = {self._devices.get(each.file, ""): i for i, each in enumerate(op.ops)}
        return sorted(events, key=lambda event: places.get(event.device, len(places)))

    def _announce(self, op: GuestOp) -> None:
        assert self._guard is not None
        if isinstance(op, Ioctl) and op.into:
            self._devices[op.into] = str(op.fields.get("name"))
        elif isinstance(op, Dma | Burst | Engine):
            self._guard.announce(op, self._devices.get(op.file, ""))

    def intervene(self, op: HostOp, frames: Sequence[int]) -> Outcome | Snapshot:
        """See `tcelab.run.session.Session`."""
        if isinstance(op, Rtas | Ddw):
            late = self.guest.probes.heard()
            outcome = self._rtas(op)
            self.guest.probes.heard()  # firmware's own
            return msgspec.structs.replace(outcome, told=late) if any(late.values()) else outcome
        if isinstance(op, LifeOp) and type(op) in self._events:
            return self._events[type(op)](self, op)
        if not isinstance(op, Checkpoint | Flip):
            raise Unsupported(f"nobody knows how to do operation {type(op).__name__}", scene=self.scene())
        began = time.perf_counter()
        with self._stopped():
            stopped = time.perf_counter()
            views = self._hostviews
            result = views.flip(op) if isinstance(op, Flip) else views.snapshot(op, frames, self.facts.cannot)
            read = time.perf_counter()
        if isinstance(result, Snapshot):
            result.seconds["stop and cont"] = stopped - began + time.perf_counter() - read
        return result

    def save(self) -> tuple[bytes, list[SavedRegister]]:
        """Once it is at rest, stop the guest, and save the state of its devices; see `Guest.save`."""
        portal().call(self.guest.rest())
        portal().call(self.guest.standstill.begin())
        self.guest.log.drain()
        return portal().call(self.guest.save())

    def go_on(self) -> None:
        """After `save`: the guest goes on after all."""
        portal().call(self.guest.standstill.end())

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        """Stop the guest, and read all that QEMU has logged until then."""
        self.stay()
        portal().call(self.guest.standstill.begin())
        try:
            self.guest.log.drain()
            yield
        finally:
            portal().call(self.guest.standstill.end())

    def finish(self) -> tuple[str, ...]:
        """See `tcelab.run.session.Session`."""
        with self._stopped():
            return self.trouble()

    def trouble(self) -> tuple[str, ...]:
        """See `tcelab.run.session.Session`."""
        return portal().call(self.guest.trouble())

    def _rtas(self, op: Rtas | Ddw) -> Outcome:
        if isinstance(op, Ddw):
            phbs = self.options.topology.phbs
            phb, slot = next((p.index, d.slot) for p in phbs for d in p.devices if d.name == op.device)
            work = rtaswindows.call(self.guest.qtest, op, phb, slot)
            return portal().call(self.guest.waiter.run(work, "control", self.guest.limits.control))
        if self._guard is None:
            return Outcome(value=isolationrules.PARAMETER_ERROR)  # as QEMU answers for a PHB that it emulates
        outcome = self._guard.call(op)
        return msgspec.structs.replace(outcome, events=self._guard.settle())
