"""L0, L1 and L2 as one session: programs are done in L2, tables are read at L0, L1 is asked by the host alone."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tcelab.errors import HarnessError, TcelabError, Unsupported
from tcelab.logs import PHASE
from tcelab.papr import window
from tcelab.passthrough import innerqemu
from tcelab.passthrough.chain import Chain, ChainRam
from tcelab.passthrough.innerviews import InnerViews
from tcelab.program import GuestOp, HostOp
from tcelab.qemu import machine, probe
from tcelab.qemu.conversation import Conversation
from tcelab.qemu.guest import Guest
from tcelab.qemu.innerguest import QEMU_ENDED, SAID, InnerGuest, keep
from tcelab.qemu.limits import Limits
from tcelab.qemu.nested import PORTS
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.record import Event, Outcome, Parting, Snapshot

_LOG: Final = logging.getLogger(__name__)

_LAST: Final = 3
"""Lines of it in a message."""
_TERMINATION: Final = 60.0
"""Seconds of L1's clock for its QEMU to end; it takes some 2."""
_LOOK: Final = 5.0
"""Seconds of L1's clock in which its QEMU, which closed its ports, must be gone."""


class Inner(Conversation):
    """The conversation with L2's agent."""

    def __init__(
        self, qemu: probe.Qemu, abilities: probe.Abilities, options: machine.QemuOptions, guest: InnerGuest
    ) -> None:
        super().__init__(qemu, abilities, options, None)
        self.guest = self.inner = guest


class PassthroughSession(QemuSession):
    """A guest in a guest, with the device passed through and the innermost agent ready. See `QemuSession`.

    :ivar chain: where L2's memory is.
    """

    chain: Chain

    def __init__(
        self,
        qemu: probe.Qemu,
        options: machine.QemuOptions,
        folder: Path,
        *,
        limits: Limits | None = None,
        abilities: probe.Abilities | None = None,
        digest: str = "",
        on_spawn: Callable[[Guest], None] = lambda _: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """Boot L1, have it start L2.

        :param on_close: called when all three have ended, perhaps more than once.
        :raise Unsupported: this host, QEMU or L1's kernel cannot.
        :raise TcelabError: as `QemuSession`; it says of which level.
        """
        self._inner: Inner | None = None
        self._pins = 0
        self._on_close = on_close
        super().__init__(
            qemu,
            options,
            folder,
            limits=limits,
            abilities=abilities,
            digest=digest,
            on_spawn=on_spawn,
        )

    # -- the beginning

    def greet(self, digest: str, **how: Any) -> None:  # noqa: ANN401 - as `Conversation.greet`
        """Greet L1's agent, have it start L2, and greet L2's."""
        if self._inner is not None:
            self._inner.greet(digest, **how)
            self._levels()
            return
        super().greet(digest, **how)
        _LOG.info("L1 is up, starting its QEMU", extra=PHASE)
        guest = portal().call(_made(self.guest, self.guest.limits, self.folder))
        inner = Inner(self._qemu, self._abilities, innerqemu.inner_options(self.options), guest)
        self._inner = inner
        try:
            self._start()
            self._map(inner.inner)
            inner.greet(digest)
        except TcelabError as error:
            raise self._explained(error) from None
        views, self._hostviews = self._hostviews, self._views()
        views.close()
        self._levels()

    def _start(self) -> None:
        """L1's QEMU.

        :raise Unsupported: L1's kernel has no KVM that this machine can run.
        :raise HarnessError: it did not take the device, or could not start the QEMU.
        """
        (phb,) = self.options.topology.phbs
        (device,) = phb.devices
        told = self.outer(
            "start",
            argv=innerqemu.argv(self.options, self.facts.page_size),
            buid=window.buid(phb.index),
            slot=device.slot,
            channels=list(PORTS.values()),
        )
        self._pins = int(told.get("pins", 0))
        if told["errno"]:
            if str(told["step"]).startswith("load"):
                raise Unsupported(
                    f"L1's kernel has no KVM for a guest of this machine: {told['step']} gives {told['errno']}",
                    next_step="L1 needs CONFIG_KVM_BOOK3S_64_HV and a machine with nested-hv; nested-papr is not used",
                )
            raise HarnessError(
                f"L1 cannot start a guest: {told['step']} gives {told['errno']}", next_step="see console.log there"
            )

    def _map(self, guest: InnerGuest) -> None:
        """Where L2's RAM is: as soon as L1's QEMU has it registered with VFIO, which is before L2 says anything."""
        portal().call(guest.spoke())
        size = innerqemu.MEMORY << 20
        told = self.outer("memory", name=innerqemu.RAM, size=size)
        self.chain = Chain(str(told["frames"]), int(told["page_size"]), size)
        guest.ram = ChainRam(self.guest.ram, self.chain)

    def _views(self) -> InnerViews:
        return InnerViews(self.guest, self.options.topology, self.chain, self.trouble)

    def _levels(self) -> None:
        """What the result says of the session: L2 is the guest, L1 what runs it."""
        assert self._inner is not None
        outer, facts = self.facts, self._inner.facts
        if "levels" not in outer.versions:
            said = self.outer("look")
            keep(self.folder, SAID, str(said["said"]))
            levels = {"L1": outer.versions["guest"], "L2": facts.versions["guest"]}
            facts.versions["levels"] = levels | {"qemu": self.outer("version")["version"], "vmlck": said["vmlck"]}
        else:
            facts.versions["levels"] = outer.versions["levels"]
        self.facts = facts

    # -- L1

    def outer(self, do: str, **what: object) -> dict[str, Any]:
        """Ask L1's agent about its guest; see `tceagent.inner`.

        :raise TcelabError: as `Conversation.request`.
        """
        answer = self.request("inner", {"do": do, **what})
        if not isinstance(answer, dict):
            raise HarnessError(f"malformed answer of L1's agent: {answer!r}", scene=self.scene())
        return answer

    def _explained(self, error: TcelabError) -> TcelabError:
        """An error of a wait for L2; if L1's QEMU has ended, with how, and with what it said."""
        if not error.message.endswith(QEMU_ENDED):
            return error
        told = self.outer("end", signal=0, limit=_LOOK)
        keep(self.folder, SAID, str(told["said"]))
        how = f"with status {told['status']}" if told["signal"] is None else f"by signal {told['signal']}"
        if told["running"]:
            how = "no more to its ports"
        said = "; ".join(str(told["said"]).strip().splitlines()[-_LAST:]) or "it printed nothing"
        return HarnessError(f"L1's QEMU ended {how}: {said}", next_step=f"see {SAID} there", scene=error.scene)

    # -- Session

    def ask(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        """Have L2's agent do operations; before there is one, L1's."""
        if self._inner is None:
            return super().ask(ops)
        try:
            return self._inner.ask(ops)
        except TcelabError as error:
            raise self._explained(error) from None

    def perform(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        """As `QemuSession.perform`: what the guard saw, in L2's addresses."""
        return [self._told(outcome) for outcome in super().perform(ops)]

    def intervene(self, op: HostOp, frames: Sequence[int]) -> Outcome | Snapshot:
        """As `QemuSession.intervene`."""
        done = super().intervene(op, frames)
        return self._told(done) if isinstance(done, Outcome) else done

    def happened(self) -> list[Event]:
        """As `QemuSession.happened`."""
        return list(map(self._in_l2, super().happened()))

    def _told(self, outcome: Outcome) -> Outcome:
        if not outcome.events:
            return outcome
        return msgspec.structs.replace(outcome, events=list(map(self._in_l2, outcome.events)))

    def _in_l2(self, event: Event) -> Event:
        """The guard reads L0's table; its entries lead to L0's memory."""
        if event.pe not in {phb.index for phb in self.options.topology.phbs}:
            return event
        entry = None if event.entry is None else self.chain.word(event.entry)
        return msgspec.structs.replace(event, entry=entry, neighbours=list(map(self.chain.word, event.neighbours)))

    def trouble(self) -> tuple[str, ...]:
        """Lines of trouble of both kernels."""
        own = tuple(f"L1: {line}" for line in super().trouble())
        return own if self._inner is None else (*own, *portal().call(self._inner.inner.trouble()))

    def leave(self) -> Parting:
        """End L1's QEMU by SIGTERM, as whoever runs a guest does; see `tcelab.run.session.Leaving`."""
        told = self.outer("end", signal=int(signal.SIGTERM), limit=_TERMINATION)
        keep(self.folder, SAID, str(told["said"]))
        problem = f"L1's QEMU did not end within {_TERMINATION:.0f} s of SIGTERM" if told["running"] else ""
        if told["signal"] or told["status"]:
            how = f"status {told['status']}" if told["signal"] is None else f"signal {told['signal']}"
            problem = f"L1's QEMU ended with {how} of SIGTERM"
        self.guest.log.drain()
        with self._stopped():
            tables = tuple(each for each in self._hostviews.streamed() if each.liobn in self._passed())
            said = tuple(f"L1: {line}" for line in super().trouble())
        return Parting("SIGTERM", problem, tables, int(told["pins"]), self._pins, said)

    def _passed(self) -> set[int]:
        return {phb.liobn | number for phb in self.options.topology.phbs for number in (0, 1)}

    def end(self) -> None:
        """End all three."""
        super().end()
        if self._inner is not None:
            portal().call(self._inner.inner.close())
        self._on_close()


async def _made(outer: Guest, limits: Limits, folder: Path) -> InnerGuest:
    return InnerGuest(outer, limits, folder)
