"""The platform `emulator` as a `Session`: the agent's own code on an emulated kernel, in this process."""

from __future__ import annotations

import dataclasses
import platform
import secrets
import threading
import time
from collections.abc import Collection, Sequence
from operator import is_not
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import msgspec
import numpy as np

import tcelab
from tceagent import ops as agent
from tceagent.huge import HUGE_PAGE
from tceagent.state import State
from tcelab.emulator import life
from tcelab.emulator.addressspaces import Space
from tcelab.emulator.drivertable import Profile
from tcelab.emulator.emulatedkernel import EmulatedChild, EmulatedKernel
from tcelab.emulator.growth import RAM, Growth
from tcelab.emulator.platform import Machine
from tcelab.emulator.preset_states import arrange
from tcelab.emulator.process import Process
from tcelab.emulator.profiles import DEFAULT, ProfileWithQuirks, profile
from tcelab.emulator.syscallerrors import KernelDiedError, NotModelledError
from tcelab.errors import GuestLost, HarnessError, Scene, TcelabError, Unsupported
from tcelab.papr import window
from tcelab.papr.tcetable import Table
from tcelab.program import ENDS_KERNEL, Buffer, Checkpoint, Ddw, Flip, GuestOp, HostOp, Ioctl, LifeOp, Open, Rtas
from tcelab.program.topology import Topology
from tcelab.quirks import NOTHING_DIRECT, check
from tcelab.run.record import Facts, Guarding, Outcome, QuirkHit, Snapshot, TableView

VIEW: Final = "emulator"
_NONCE: Final = 16
_LINES: Final = 20
_FRAME: Final = np.uint64((1 << 64) - window.PAGE_SIZE)


class Shown(NamedTuple):
    """A table at one of its versions, and the pages that its entries lead to."""

    source: Table
    version: int
    table: TableView
    led_to: frozenset[int]


class Wanted(NamedTuple):
    """Pages that a snapshot shows: those asked for, and those that entries of the tables lead to."""

    frames: list[int]
    led_to: list[frozenset[int]]
    addresses: frozenset[int]


class EmulatorSession:
    """An emulated machine with the agent on it.

    :ivar boot: number of the guest's boot, from 1 on.
    :ivar machine: for inspection; `kernel`: as the agent sees it.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        profile_name: str = DEFAULT,
        quirks: Collection[str] = (),
        nonce: bytes | None = None,
        page_size: int = 4096,
        huge_page: int = HUGE_PAGE,
        seed: int = 0,
        driver: Profile | None = None,
        preset_states: Collection[str] = (),
        folder: Path | None = None,
        isolates: bool = False,
        guard: Guarding = "off",
        memory: Growth | None = None,
    ) -> None:
        """:param nonce: of the tags; by default a fresh one.
        :param seed: scatters the frames.
        :param driver: a profile of the caller's own, in place of the one of that name.
        :param preset_states: states of the machine that no program can make.
        :param folder: for artefacts of those who drive it; it writes none itself.
        :param isolates: what is asked of it; see `tcelab.run.record.Facts`.
        :param guard: what it does about violations.
        :param memory: how much it has, if not as much as a guest by default.
        :raise UsageError: no such profile, quirk or state.
        """
        used = driver or profile(profile_name)
        self.quirks = check(quirks)
        self._folder = folder
        self._tables: dict[int, Shown] = {}
        self._wanted = Wanted([], [], frozenset())
        self.machine = Machine(topology, page_size, seed, guard, huge_page)
        self.machine.quirks = self.quirks
        self.machine.memory = memory or self.machine.memory
        arrange(self.machine, preset_states)
        self.boot = 0
        self._user = threading.get_ident()
        self._kind, self._topology = ProfileWithQuirks(used, self.quirks), topology
        session = secrets.token_bytes(_NONCE) if nonce is None else nonce
        self._boots(session)
        versions: dict[str, Any] = {
            "tcelab": tcelab.__version__,
            "host": {"python": platform.python_version()},
            "emulator": {"profile": used.name, "quirks": sorted(self.quirks)},
        }
        self.facts = Facts(
            platform="emulator",
            nonce=session,
            page_size=self.machine.page_size,
            ram=RAM,
            huge=huge_page,
            cannot={},
            versions=versions,
            views=(VIEW,),
            profile=used.name,
            quirks=self.quirks,
            isolates=isolates,
            guard=guard,
            hypercalls=True,
            drivers=True,
            direct=frozenset(phb.liobn | 1 for phb in topology.mapped),
        )

    def _boots(self, nonce: bytes) -> None:
        """A kernel comes up, and the agent on it."""
        self.boot += 1
        self.machine.memory.boot(self.machine.windows)
        if self.machine.memory.blind:
            self.machine.hit_quirk(NOTHING_DIRECT)
        self._process = Process(Space(self.machine.ram))
        self.kernel = EmulatedKernel(self.machine, self._kind, self._process)
        self._state = State(self.kernel)
        self._state.nonce = nonce
        added = self._topology.added
        self._state.devices = {
            device.name: (window.buid(phb.index), device.slot) for phb in added for device in phb.devices
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give its RAM back at once: what refers to the machine goes round in a circle, which Python finds late.

        Only for the thread that uses it: to another one, which interrupts it, there is nothing to close.
        """
        if self._user == threading.get_ident():
            self.machine.ram.clear()

    @property
    def folder(self) -> Path:
        """Of artefacts.

        :raise HarnessError: it was made without one.
        """
        if self._folder is None:
            raise HarnessError("this emulator was made without a folder for artefacts")
        return self._folder

    def tail(self, lines: int) -> list[str]:
        """The last lines of the kernel's log."""
        return self.machine.log[-lines:]

    def renew(self, nonce: bytes | None = None) -> None:
        """Begin anew on the same machine: all that programs left there is closed and forgotten.

        :raise Unsupported: closing it does something that the emulator does not model.
        """
        try:
            self._state.renew()
        except Exception as error:
            raise self._told(error, 0) from error
        self._state.nonce = nonce or secrets.token_bytes(_NONCE)
        self.facts = dataclasses.replace(self.facts, nonce=self._state.nonce)
        self.machine.renew()

    def scene(self) -> Scene:
        """Where the session is now."""
        return Scene("emulator", console=self.tail(_LINES))

    # -- Session

    def perform(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        """See `tcelab.run.session.Session`.

        :raise Unsupported: an operation asks for what the emulator does not model.
        """
        self._user = threading.get_ident()
        out: list[Outcome] = []
        for op in ops:
            try:
                outcome = msgspec.convert(agent.perform(self._state, msgspec.to_builtins(op)), Outcome)
            except Exception as error:
                raise self._told(error, len(out)) from error
            events = self.machine.guard.take()
            out.append(msgspec.structs.replace(outcome, events=events) if events else outcome)
        return out

    def _told(self, error: Exception, done: int) -> TcelabError:
        """The error that ended an operation, in whichever process it occurred."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KernelDiedError):
                message = f"the emulated kernel died: {cause}"
                return GuestLost(message, scene=self.scene(), kernel_died=True, in_flight=done, said=str(cause))
            if isinstance(cause, NotModelledError):
                return Unsupported(str(cause), scene=self.scene())
            cause = cause.__cause__
        return HarnessError(f"the agent failed: {error!r}", scene=self.scene())

    def intervene(self, op: HostOp, frames: Sequence[int]) -> Outcome | Snapshot:
        """See `tcelab.run.session.Session`."""
        if isinstance(op, Flip):
            return self._flip(op)
        if isinstance(op, Rtas):
            return self.machine.rtas(op)
        if isinstance(op, Ddw):
            return self.machine.ddw(op)
        if isinstance(op, LifeOp) and type(op) in life.EVENTS:
            outcome = life.EVENTS[type(op)](self.machine, op)
            if events := self.machine.guard.take():
                outcome = msgspec.structs.replace(outcome, events=events)
            for name in self.machine.plugged.missing & self._state.bound.keys():
                del self._state.bound[name]
            if isinstance(op, ENDS_KERNEL):
                self._boots(self.facts.nonce)
                outcome = msgspec.structs.replace(outcome, fields={**outcome.fields, "boot": self.boot})
            return outcome
        if not isinstance(op, Checkpoint):
            raise Unsupported(f"the emulator has no rule for operation {type(op).__name__}", scene=self.scene())
        began = time.perf_counter()
        shown = [self._shown(table) for pe in self.machine.pes.values() for table in pe.windows.active]
        pages = self.machine.ram.iommu_pages(self._addresses(frames, [each.led_to for each in shown]))
        tables = [each.table for each in shown]
        refusals, self.machine.refusals = tuple(self.machine.refusals), []
        return Snapshot(
            tables=tuple(tables),
            missing={},
            pages=pages,
            disks=self.machine.disks(),
            refusals=refusals,
            console=self.trouble(),
            seconds={VIEW: time.perf_counter() - began},
        )

    def _addresses(self, frames: Sequence[int], led_to: list[frozenset[int]]) -> frozenset[int]:
        """The same set for as long as it is asked for the same pages, and no table has changed."""
        known = self._wanted
        if known.frames != frames or len(known.led_to) != len(led_to) or any(map(is_not, known.led_to, led_to)):
            known = self._wanted = Wanted(list(frames), led_to, frozenset().union(frames, *led_to))
        return known.addresses

    def _shown(self, table: Table) -> Shown:
        """A table, read again only if something was stored in it."""
        known = self._tables.get(table.liobn)
        if known is None or known.source is not table or known.version != table.version:
            index, words = table.live()
            view = TableView(table.liobn, VIEW, table.entries, index, words, table.page_shift, table.bus_offset)
            known = Shown(table, table.version, view, frozenset((words & _FRAME).tolist()))
            self._tables[table.liobn] = known
        return known

    def _flip(self, op: Flip) -> Outcome:
        tables = (table for pe in self.machine.pes.values() for table in pe.windows.active)
        table = next((table for table in tables if table.liobn == op.liobn), None)
        index = -1 if table is None else table.index(op.ioba)
        if table is None or not 0 <= index < table.entries:
            raise HarnessError(f"flip: LIOBN {op.liobn:#x} has no bit {op.bit} of an entry for IOBA {op.ioba:#x}")
        before = table.get(index)
        table.put(index, before ^ 1 << op.bit)
        return Outcome(value=before ^ 1 << op.bit, fields={"before": before, "after": before ^ 1 << op.bit})

    def trouble(self) -> tuple[str, ...]:
        """See `tcelab.run.session.Session`."""
        lines, self.machine.trouble = tuple(self.machine.trouble), []
        return lines

    def finish(self) -> tuple[str, ...]:
        """See `tcelab.run.session.Session`."""
        return self.trouble()

    def descriptor(self, file: str) -> int:
        """Of an open file of the agent."""
        return self._state.file(file).fd

    def handles(self, outcome: Outcome) -> None:
        """Have the next mapping of the DMA API get the handles that another one got, or the same refusal."""
        self.machine.dma.want(outcome)

    def place(self, op: GuestOp, value: int) -> None:
        """Have the next operation make its buffer at an address, or its file with a descriptor, if it can be there."""
        child = self._state.children.get(op.by)
        process = child.kernel.process if isinstance(child, EmulatedChild) else self._process
        if isinstance(op, Buffer):
            process.space.wanted = value
        elif isinstance(op, Open) or (isinstance(op, Ioctl) and op.into):
            process.wanted = value

    def take_quirk_hits(self) -> list[QuirkHit]:
        """Quirks that were met since the last call."""
        met, self.machine.quirk_hits = self.machine.quirk_hits, []
        return met
