"""What is said between the host and a guest's agent: the handshake, operations, and requests of the host's own."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

from tcelab.coverage.cover import CoveredGuest, Places
from tcelab.errors import GuestLost, HarnessError, Scene
from tcelab.image.bases import Held
from tcelab.papr import window
from tcelab.program import GuestOp, Read
from tcelab.program.topology import KERNEL_DRIVERS
from tcelab.qemu import machine, probe, sessionfacts
from tcelab.qemu.channel import PROTOCOL, AgentChannel, Cell, Hello, decode
from tcelab.qemu.limits import Limits
from tcelab.qemu.portal import portal
from tcelab.qemu.ram import Ram
from tcelab.qemu.waiter import GuestWaiter
from tcelab.run.record import Facts, Outcome

T = TypeVar("T")
Asking = Callable[[bytes, Callable[[], object]], Coroutine[Any, Any, bytes]]

_LOG: Final = logging.getLogger(__name__)
_AGAIN: Final = 0.02
"""Seconds until a counter is asked for again."""
_NONCE: Final = 16
_ENTROPY: Final = 32
_CLOCK_STEP: Final = 0.05
"""Seconds by which two clocks may differ that were read one after the other."""


class Spoken(Protocol):
    """A guest as a conversation sees it: one that QEMU of this host runs, or one inside it."""

    @property
    def waiter(self) -> GuestWaiter: ...
    @property
    def channel(self) -> AgentChannel: ...
    @property
    def folder(self) -> Path: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def ram(self) -> Ram: ...
    @property
    def cover(self) -> CoveredGuest: ...

    async def hello(self, request: bytes, *, booting: bool | None = None, closes: bool = False) -> bytes: ...
    async def ask(self, request: bytes, progress: Callable[[], object]) -> bytes: ...


class Conversation:
    """With the agent of one guest.

    :ivar guest: which.
    :ivar options: of its machine.
    :ivar facts: by the last handshake.
    :ivar drawn: what its random generator gave then.
    """

    guest: Spoken
    facts: Facts
    drawn: str

    def __init__(
        self, qemu: probe.Qemu, abilities: probe.Abilities, options: machine.QemuOptions, base: Held | None
    ) -> None:
        self._qemu, self._abilities, self.options, self._base = qemu, abilities, options, base
        self._number = 0
        self._cell: Cell

    @property
    def forked(self) -> bool:
        """It began where its base stood."""
        return self._base is not None

    def scene(self) -> Scene:
        """Where the session is now."""
        if hasattr(self.guest, "waiter"):
            return self.guest.waiter.now()
        return Scene("launch", artefacts=self.guest.folder)

    def greet(
        self,
        digest: str,
        *,
        renew: bool = False,
        nonce: bytes | None = None,
        booting: bool = False,
        closes: bool = False,
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
        answer = decode(portal().call(self.guest.hello(request, booting=booting, closes=closes)), self._number)
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
        parts = self._qemu, self._abilities, self.options, self._base
        known = sessionfacts.facts(parts, self.guest.ram.size, nonce, hello, self._serial_queue())
        self.facts = self._with_memory(known)
        if not renew:
            self._locate()

    def _serial_queue(self) -> int:
        """Entries of the channel's queues, if it matters; see `tcelab.qemu.second.serialqueue`."""
        return 0

    def _locate(self) -> None:
        """Where the kernel lies, for who records what it executes."""
        cover = self.guest.cover
        if cover.fd is None:
            return
        try:
            cover.located(self.places(cover.modules))
        except HarnessError as error:
            cover.located(None, f"the agent does not say where the kernel lies: {error.message}")

    def places(self, modules: Sequence[str], *, symbols: bool = False) -> Places:
        """Where modules lie, and the kernel.

        :param symbols: those of the kernel as well, which takes seconds.
        :raise HarnessError: the agent does not say.
        """
        answer = self.request("places", {"modules": list(modules), "symbols": symbols})
        try:
            return msgspec.convert(answer, Places)
        except msgspec.ValidationError as error:
            raise HarnessError(f"malformed frame from the agent: {error}", scene=self.scene()) from None

    def _expect_now(self, clock: float, asked: float) -> None:
        if not asked - _CLOCK_STEP <= clock <= time.time() + _CLOCK_STEP:
            raise HarnessError(
                f"the fork's clock could not be set: it shows {clock:.3f}, asked at {asked:.3f}", scene=self.scene()
            )

    def _with_memory(self, facts: Facts) -> Facts:
        """What a topology is about whose memory grows, or is mapped as a whole."""
        topology = self.options.topology
        if not topology.slots and not topology.mapped and not (topology.wide and "testdev" in topology.models):
            return facts
        online, limit = (self.counter(what) for what in ("memory", "limit"))
        why = "" if online else "its kernel has no blocks of memory in /sys/devices/system/memory"
        return replace(
            facts,
            limit=limit,
            direct=frozenset(phb.liobn | 1 for phb in topology.mapped),
            impossible=facts.impossible | ({"MemoryAdd": why, "MemoryRemove": why} if why else {}),
        )

    def counter(self, what: str) -> int:
        """A counter of the guest's."""
        return self.ask([Read(what=what)])[0].value or 0

    def await_counter(self, what: str, value: int) -> None:
        """Wait until a counter of the guest's has a value, within the limit of the phase `plug`.

        :raise GuestLost: it does not come to have it.
        """

        async def reached() -> None:
            while True:
                request = msgspec.json.encode({"id": self._next(), "ops": [Read(what=what)]})
                (outcome,) = self._part(decode(await self.guest.channel.ask(request), self._number), "outcomes", list)
                if outcome.get("value") == value:
                    return
                await asyncio.sleep(_AGAIN)

        portal().call(self.guest.waiter.run(reached(), "plug", self.guest.limits.plug))

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

    def request(self, name: str, told: Mapping[str, object]) -> Any:  # noqa: ANN401 - as it came
        """A request of the host's own to the agent, which no program can make; its answer.

        :raise TcelabError: as `perform`.
        """
        answer = decode(portal().call(self.guest.ask(self.message(name, told), self._cell.read)), self._number)
        return self._part(answer, name, object)

    def message(self, name: str, told: Mapping[str, object]) -> bytes:
        """Such a request as it is sent."""
        return msgspec.json.encode({"id": self._next(), name: told})

    def ask(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        """Have the agent do operations in order, an outcome for each.

        :raise GuestLost: see `tcelab.run.session.Session.perform`.
        """
        return self.ask_by(self.guest.ask, ops)

    def ask_by(self, how: Asking, ops: Sequence[GuestOp]) -> list[Outcome]:
        """The same.

        :param how: the request is made.
        :raise GuestLost: see `tcelab.run.session.Session.perform`.
        """
        number = self._next()
        request = msgspec.json.encode({"id": number, "ops": ops})
        _LOG.debug("request %d to the agent: %d operations, %d bytes", number, len(ops), len(request))
        try:
            answer = decode(portal().call(how(request, self._cell.read)), number)
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
