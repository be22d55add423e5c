"""The platform `qemu` as a `Session`: handshake, requests to the agent, checkpoints."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from tcelab.errors import GuestLost, HarnessError, Interrupted, Scene, Unsupported
from tcelab.image.bases import Held, SavedRegister
from tcelab.logs import PHASE
from tcelab.papr import isolationrules, window
from tcelab.program import Burst, Checkpoint, Ddw, Dma, Engine, Flip, GuestOp, HostOp, Ioctl, LifeOp, Rtas
from tcelab.program.plugged import Plugged
from tcelab.program.topology import KERNEL_DRIVERS
from tcelab.qemu import machine, probe, rtaswindows, sessionfacts
from tcelab.qemu.channel import PROTOCOL, Cell, Hello, decode
from tcelab.qemu.guard import Guard, chunks
from tcelab.qemu.guest import Guest
from tcelab.qemu.hostviews import HostViews
from tcelab.qemu.limits import Limits
from tcelab.qemu.movable import MovableSession
from tcelab.qemu.portal import portal
from tcelab.run.record import Event, Outcome, Snapshot

T = TypeVar("T")

_LOG: Final = logging.getLogger(__name__)
_NONCE: Final = 16
_ENTROPY: Final = 32
_CLOCK_STEP: Final = 0.05
"""Seconds by which two clocks may differ that were read one after the other."""


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
        self._number = 0
        self._events = events or {}
        self._devices: dict[str, str] = {}
        self.plugged = Plugged(options.topology)
        if abilities is None:
            _LOG.info("probing QEMU", extra=PHASE)
            abilities = probe.probe(qemu)
        super().__init__(qemu, abilities, options)
        self._base = base
        self.begin(Guest(qemu, abilities, options, limits or Limits(), folder, base=base))
        try:
            on_spawn(self.guest)
            doing = "booting" if base is None else "forking"
            firmware = machine.firmware(options, abilities)
            _LOG.info("%s under QEMU %s, %s", doing, abilities.version, firmware, extra=PHASE)
            portal().call(self.guest.start())
            self._hostviews = HostViews(self.guest, options.topology)
            self.reached = {}
            if base is not None:
                self.reached["loaded"] = self.guest.waiter.elapsed()
                loaded(self.guest)
            self._greet(digest)
            if base is None:
                self.reached |= self.guest.console.reached
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

    def scene(self) -> Scene:
        """Where the session is now."""
        if hasattr(self.guest, "waiter"):
            return self.guest.waiter.now()
        return Scene("launch", artefacts=self.guest.folder)

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
        self._greet(self.facts.versions["agent"]["digest"], renew=True, nonce=nonce)
        self.guest.disks.renew()  # nobody who could write to them is left
        if self._guard is not None:
            self._guard.reset()
        self.guest.log.drain()
        self.guest.log.take_refusals()

    def request(self, name: str, told: Mapping[str, object]) -> Any:  # noqa: ANN401 - as it came
        """A request of the host's own to the agent, which no program can make; its answer.

        :raise TcelabError: as `perform`.
        """
        answer = decode(portal().call(self.guest.ask(self.message(name, told), self._cell.read)), self._number)
        return self._part(answer, name, object)

    def message(self, name: str, told: Mapping[str, object]) -> bytes:
        """Such a request as it is sent."""
        return msgspec.json.encode({"id": self._next(), name: told})

    # -- another kernel

    @property
    def boot(self) -> int:
        """See `tcelab.run.session.Session`."""
        return self.guest.waiter.boot

    @contextmanager
    def restart(self, *, reopens: bool = False, machine_stays: bool = False) -> Iterator[Guest]:
        """In the block, the guest's kernel ends; after it, the agent of the next one is awaited.

        :param reopens: the agent is greeted only once it has opened its port: the one before could still hear it.
        :param machine_stays: it is not reset: devices, and PEs that are isolated, are as they were.
        :raise GuestLost: no agent comes up.
        """
        guest = self.guest
        guest.restarts.on = True
        guest.restarts.reopened.clear()
        guest.console.begin_boot()
        yield guest
        guest.waiter.boot += 1
        self._devices.clear()
        self._greet(self.facts.versions["agent"]["digest"], nonce=self.facts.nonce, booting=True, reopens=reopens)
        guest.restarts.on = False
        if self._guard is not None and not machine_stays:
            self._guard.start()

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

    def _greet(
        self,
        digest: str,
        *,
        renew: bool = False,
        nonce: bytes | None = None,
        booting: bool = False,
        reopens: bool = False,
    ) -> None:
        booting = booting or (self._base is None and not renew)
        nonce = nonce or secrets.token_bytes(_NONCE)
        devices = {
            device.name: {"buid": window.buid(phb.index), "slot": device.slot}
            for phb in self.options.topology.added
            for device in phb.devices
            if device.model not in KERNEL_DRIVERS
        }
        told: dict[str, Any] = {"nonce": nonce.hex(), "devices": devices, "renew": renew}
        asked = time.time()
        if not booting and not renew:
            # The fork's clock stands at the base's last moment, and its random generator would draw what every other
            # fork's draws.
            told |= {"renew": True, "clock": asked, "entropy": secrets.token_bytes(_ENTROPY).hex()}
        request = msgspec.json.encode({"id": self._next(), "hello": told})
        answer = decode(portal().call(self.guest.hello(request, booting=booting, reopens=reopens)), self._number)
        hello = self._part(answer, "hello", Hello)
        if "clock" in told:
            self._expect_now(hello.clock, asked)
        self.drawn = hello.drawn
        _LOG.debug("the agent of %s answers, protocol %d, renew=%s", hello.kernel, hello.protocol, renew)
        if hello.protocol != PROTOCOL:
            raise HarnessError(
                f"the agent speaks protocol {hello.protocol}, this tcelab {PROTOCOL}",
                next_step="rebuild the image: tcelab image build",
            )
        if digest and hello.digest != digest:
            raise HarnessError(
                f"the initrd carries an agent of other sources ({hello.digest[:12]}) than this tcelab ({digest[:12]})",
                next_step="rebuild the image: tcelab image build",
            )
        self.guest.waiter.handshake_done = True
        self._cell = Cell(self.guest.ram, hello.cell, nonce)
        if self._cell.read() is None:
            raise HarnessError(
                f"the agent's progress cell is not in guest RAM at {hello.cell:#x}, where the agent says that it is",
                scene=self.scene(),
            )
        self.facts = sessionfacts.facts(
            (self.qemu, self.abilities, self.options, self._base), self.guest.ram.size, nonce, hello
        )

    def _expect_now(self, clock: float, asked: float) -> None:
        if not asked - _CLOCK_STEP <= clock <= time.time() + _CLOCK_STEP:
            raise HarnessError(
                f"the fork's clock could not be set: it shows {clock:.3f}, asked at {asked:.3f}", scene=self.scene()
            )

    def _part(self, answer: dict[str, Any], name: str, kind: type[T]) -> T:
        """One part of an answer, checked.

        :raise HarnessError: it is not there, or not of that kind.
        """
        try:
            return msgspec.convert(answer[name], kind)
        except (msgspec.ValidationError, KeyError) as error:
            raise HarnessError(f"malformed frame from the agent: {error}", scene=self.scene()) from None

    def _next(self) -> int:
        self._number += 1
        return self._number

    # -- Session

    def perform(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        """See `tcelab.run.session.Session`. With a guard, waits for the consequences of each operation that may touch a
        device.
        """
        if self._guard is None:
            return self._perform(ops)
        outcomes: list[Outcome] = []
        for chunk in chunks(ops):
            self._announce(chunk[-1])
            try:
                done = self._perform(chunk)
            except GuestLost as error:
                error.in_flight = None if error.in_flight is None else error.in_flight + len(outcomes)
                raise
            if events := self._guard.settle():
                done[-1] = msgspec.structs.replace(done[-1], events=events)
            outcomes += done
        return outcomes

    def _announce(self, op: GuestOp) -> None:
        assert self._guard is not None
        if isinstance(op, Ioctl) and op.into:
            self._devices[op.into] = str(op.fields.get("name"))
        elif isinstance(op, Dma | Burst | Engine):
            self._guard.announce(op, self._devices.get(op.file, ""))

    def _perform(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        number = self._next()
        request = msgspec.json.encode({"id": number, "ops": ops})
        _LOG.debug("request %d to the agent: %d operations, %d bytes", number, len(ops), len(request))
        try:
            answer = decode(portal().call(self.guest.ask(request, self._cell.read)), number)
        except GuestLost as error:
            begun = self._cell.read()
            if begun is not None and begun[0] == number:
                error.in_flight = begun[1]
            raise
        except HarnessError as error:
            error.scene = error.scene if error.scene.phase else self.scene()
            raise
        outcomes = self._part(answer, "outcomes", list[Outcome])
        if len(outcomes) != len(ops):
            raise HarnessError(f"the agent gave {len(outcomes)} outcomes for {len(ops)} operations", scene=self.scene())
        return outcomes

    def intervene(self, op: HostOp, frames: Sequence[int]) -> Outcome | Snapshot:
        """See `tcelab.run.session.Session`."""
        if isinstance(op, Rtas | Ddw):
            return self._rtas(op)
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
