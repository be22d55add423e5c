"""The emulator as reference: it repeats a run of another platform, operation by operation."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from tceagent.huge import HUGE_PAGE
from tcelab.emulator.drivertable import Profile
from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.emulator.followingsession import FollowingSession, Renewable
from tcelab.emulator.growth import Growth
from tcelab.emulator.hcallfile import tables
from tcelab.errors import Unsupported
from tcelab.papr.hcallnumbers import H_PUT_TCE_INDIRECT, LIST_MOST, LIST_PAGE
from tcelab.program import AtOnce, DmaAlloc, DmaMap, DmaMapSg, DmaRepeat, Hcall, HcallBatch, MemoryRemove, Op, is_guest
from tcelab.program.lifeops import KEPT
from tcelab.program.topology import Topology
from tcelab.quirks import NOTHING_DIRECT, QUIRKS
from tcelab.run.record import Facts, QuirkHit, Step
from tcelab.run.serialorder import reading, serial, single

_INDIRECT: Final = ("H_PUT_TCE_INDIRECT", H_PUT_TCE_INDIRECT)
_PAGES: Final = range(1, LIST_MOST + 1)


class EmulatorReference(FollowingSession):
    """A reference that also reports the quirks it met."""

    def __init__(self, session: EmulatorSession, ram: int) -> None:
        """:param ram: bytes of the RAM of the guest that it follows."""
        super().__init__(session)
        self._emulator, self._ram = session, ram
        self._left = 0
        self._group: list[Step] = []

    def follow(self, step: Step) -> Step:
        """Repeat one operation, with buffers at the same addresses and files with the same descriptors, so that structs
        that name either have the same bytes.

        :raise TcelabError: as `FollowingSession`; or a hypercall read what only the other has in its RAM.
        """
        self._as_there(step)
        if step.outcome is not None and not step.outcome.errno and self._reads_elsewhere(step.op):
            raise Unsupported("it does not know what the other's RAM holds where a hypercall read a list of TCEs")
        if is_guest(step.op) and step.outcome is not None and step.outcome.value is not None:
            self._emulator.place(step.op, step.outcome.value)
        if isinstance(step.op, DmaAlloc | DmaMap | DmaMapSg) and step.outcome is not None:
            self._emulator.handles(step.outcome)
        if isinstance(step.op, DmaRepeat) and step.outcome is not None and step.outcome.errno:
            self._emulator.handles(step.outcome)
        if isinstance(step.op, MemoryRemove) and step.outcome is not None and step.outcome.errno == KEPT:
            return step  # whether it keeps memory that is in use is the guest's to say
        return super().follow(step)

    def _as_there(self, step: Step) -> None:
        """Of hypercalls that were made at once, do the last ones again in an order that explains what the other has."""
        if isinstance(step.op, AtOnce):
            self._left, self._group = step.op.count, []
        elif self._left:
            self._left -= 1
            self._group.append(step)
        elif self._group and step.snapshot is not None:
            done = [(each.op, each.outcome) for each in self._group if each.outcome is not None]
            for lane, position in serial(done, *reading(step.snapshot.tables)).order:
                self._session.perform([single(done[lane][0], position)])
            self._group = []
        else:
            self._group = []

    def _reads_elsewhere(self, op: Op) -> bool:
        """H_PUT_TCE_INDIRECT reads RAM by its address: there each guest has something of its own."""
        calls = op.calls if isinstance(op, HcallBatch) else [op.call] if isinstance(op, Hcall) else ()
        if isinstance(op, Hcall) and op.problem_state:
            return False
        indirect = (each.args for each in calls if each.opcode in _INDIRECT and each.tces is None)
        return any(self._reads_at(*args) for args in indirect if len(args) == 4)  # noqa: PLR2004 - r4 to r7

    def _reads_at(self, liobn: object, _ioba: object, address: object, npages: object) -> bool:
        in_ram = isinstance(address, int) and address < self._ram and address % LIST_PAGE == 0
        return in_ram and npages in _PAGES and liobn in tables(self._emulator.machine)

    def take_quirk_hits(self) -> list[QuirkHit]:
        """Quirks that made a difference since the last call."""
        return self._emulator.take_quirk_hits()


class EmulatorReferences:
    """Oracles with the profile, page size and nonce of the run that they follow."""

    def __init__(self, topology: Topology, facts: Facts, driver: Profile | None = None) -> None:
        """:param driver: a profile in place of the one that the facts name."""
        self._topology, self._facts, self._driver = topology, facts, driver

    @property
    def known(self) -> Collection[str]:
        """Names of all quirks."""
        return QUIRKS

    def open(self, quirks: frozenset[str]) -> EmulatorReference:
        """A reference that has these quirks."""
        facts = self._facts
        blind = NOTHING_DIRECT in quirks
        memory = Growth(self._topology, facts.ram, facts.usable, facts.limit, blind=blind)
        session = EmulatorSession(
            self._topology,
            profile_name=self._facts.profile,
            quirks=quirks,
            nonce=self._facts.nonce,
            page_size=self._facts.page_size,
            huge_page=self._facts.huge or HUGE_PAGE,
            driver=self._driver,
            isolates=self._facts.isolates,
            guard="freeze" if self._facts.isolates else self._facts.guard,
            memory=memory,
        )
        return EmulatorReference(session, self._facts.ram)


class GuestReference(FollowingSession):
    """A guest as reference in place of the emulator, which then only reports the effects of declared quirks."""

    def __init__(self, guest: Renewable, emulator: EmulatorReference) -> None:
        super().__init__(guest)
        self._emulator = emulator

    def follow(self, step: Step) -> Step:
        """See `FollowingSession`."""
        self._emulator.follow(step)
        return super().follow(step)

    def take_quirk_hits(self) -> list[QuirkHit]:
        """Quirks that made a difference since the last call."""
        return self._emulator.take_quirk_hits()


class GuestReferences:
    """A guest to compare a run with: `tcelab.judge.laws.difference.References`."""

    known: Final = ()

    def __init__(self, guest: Renewable, topology: Topology, facts: Facts) -> None:
        """:param facts: of the session that it is to be compared with: the guest takes its nonce."""
        self._guest = guest
        self._emulators = EmulatorReferences(topology, facts)
        guest.renew(facts.nonce)

    def open(self, quirks: frozenset[str]) -> GuestReference:
        """There is only one guest, and its defects are its own."""
        return GuestReference(self._guest, self._emulators.open(quirks))


def second_opinion(topology: Topology, facts: Facts) -> EmulatorReferences | None:
    """Oracles for the run of a real kernel. The emulator needs none against itself, but to tell what its quirks did."""
    asked = facts.platform in {"qemu", "ssh"} or (facts.platform == "emulator" and facts.quirks)
    return EmulatorReferences(topology, facts) if asked else None
