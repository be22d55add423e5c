"""A guest as a test drives it, call by call: every call is an operation of a program that is recorded, judged as it
happens, and can be replayed by `tcelab run`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from tcelab.emulator.reference import second_opinion
from tcelab.errors import HarnessError, Interrupted, TcelabError, UsageError
from tcelab.judge import Finding, Judge, Verdict, conclude
from tcelab.judge.laws.outcome import as_expected
from tcelab.papr import tce
from tcelab.program import Checkpoint, Dma, Fresh, GuestOp, Ioctl, Op, Page, Program
from tcelab.program.topology import Topology
from tcelab.program.validate import Checker
from tcelab.run.loop import Recorder
from tcelab.run.record import Facts, Outcome, Snapshot, Step, TableView
from tcelab.run.session import Session
from tcelab.scenarios import vocabulary as b
from tcelab.testing.expectedtable import TceTable
from tcelab.testing.transferred import EXPECTED, Expected, Transferred, transferred

PROGRAM: Final = "program.json"


class UnexpectedOutcomeError(AssertionError):
    """An operation did not give what it was to give: a test that does not look for it fails."""


class Driven(Session, Protocol):
    """A session that can be driven by a test.

    :ivar folder: its artefacts.
    """

    @property
    def folder(self) -> Path: ...

    def tail(self, lines: int) -> list[str]:
        """The console's last lines."""
        ...


class Pseries:
    """A pseries guest with the agent in it, or the emulator in its place.

    :ivar topology: what hangs where.
    :ivar folder: its artefacts: program.json once it is written, console.log, qemu.log.
    :ivar program: all that was done so far.
    :ivar unseen: once it is concluded: what could not be judged.
    """

    def __init__(self, session: Driven, topology: Topology, name: str, *, test: str = "", shared: bool = False) -> None:
        """:param name: of the program, for reports; `test`: in full, of the test that drives it.
        :param shared: other tests have the guest before or after this one.
        """
        self._shared = shared
        self.topology = topology
        self.folder = session.folder
        isolation = session.facts.isolates
        self.program = Program(name=name, topology=topology, ops=[], isolation=isolation, test=test or name)
        self.session = session
        self._judge = Judge(self.program, session.facts, references=second_opinion(topology, session.facts))
        self._recorder = Recorder(self.program, session, self._judge)
        self._checker = Checker(self.program)
        self._names: dict[str, int] = {}
        self._concluded: Verdict | None = None
        self.unseen: list[str] = []

    @property
    def facts(self) -> Facts:
        """Page size, RAM, versions."""
        return self.session.facts

    # -- operations

    def perform(self, *ops: Op) -> list[Step]:
        """Do operations in order; guest operations without a host operation between them cost one request.

        :raise UnexpectedOutcomeError: one with `expect` gave something else. Of a transfer that is to be passed or
            refused: it did not end; what became of it is judged with all else that the test did.
        :raise UsageError: one that cannot be done; those before it are not done either.
        :raise TcelabError: the guest is lost, or QEMU.
        """
        __tracebackhide__ = True
        for op in ops:
            if isinstance(op, Fresh) or (self._shared and isinstance(op, Dma)):
                why = "a test has one guest" if isinstance(op, Fresh) else "a device's own buffer outlives a test"
                raise UsageError(
                    f"{type(op).__name__} cannot be done here: {why}", next_step="take the fixture pseries"
                )
            self._checker.check(op)
        self.program.ops.extend(ops)
        steps = self._recorder.perform(ops)
        ending = self._recorder.run.ending
        if ending is not None:
            if isinstance(ending.error, Interrupted):
                raise KeyboardInterrupt
            raise ending.error.with_traceback(None)
        for step in steps:
            if step.outcome is not None and step.op.expect is not None and not as_expected(step, step.outcome):
                seen = step.outcome.errno or step.outcome.value
                text = msgspec.json.encode(step.op).decode()
                raise UnexpectedOutcomeError(f"operation {step.number} gave {seen}, not {step.op.expect}: {text}")
        return steps

    def do(self, op: GuestOp) -> Outcome:
        """One guest operation: what it gave, see `perform`."""
        (step,) = self.perform(op)
        assert step.outcome is not None
        return step.outcome

    def checkpoint(self, *, stream: bool = False) -> Snapshot:
        """Stop the guest, read every table, judge all, and let it go on.

        :param stream: by the state stream as well as by live memory; some 40 ms.
        """
        (step,) = self.perform(Checkpoint(stream=stream))
        assert step.snapshot is not None
        return step.snapshot

    def tables(self) -> dict[int, TceTable]:
        """Every table of the machine as it is now in QEMU's memory, by LIOBN.

        :raise HarnessError: they could not be read.
        """
        snapshot = self.checkpoint()
        if why := snapshot.missing.get(self.facts.views[0]):
            raise HarnessError(f"the tables in QEMU's memory cannot be seen: {why}")
        return {view.liobn: TceTable.of(view) for view in self._first(snapshot)}

    def table(self, pe: Pe) -> TceTable:
        """The table of a PE as it is now in QEMU's memory; without a window it has no entries.

        :raise HarnessError: it could not be read, or is not there although its window must be.
        """
        found = self.tables().get(pe.liobn)
        if found is None and pe.liobn in self._judge.fold.tables:
            raise HarnessError(f"QEMU's memory shows no table of LIOBN {pe.liobn:#x}, whose window must be there")
        return TceTable(pe.liobn, 0, {}) if found is None else found

    def expected(self, liobn: int) -> TceTable:
        """A table as the operations so far must have left it, by the judge's reckoning."""
        model = self._judge.fold.tables[liobn]
        words = zip(*model.arrays(), strict=True)
        live = {model.ioba(int(i)): int(word) for i, word in words}
        return TceTable(liobn, model.entries, live, start=model.start, page_shift=model.page_shift)

    # -- things

    def pe(self, name: str) -> Pe:
        """A PE by the name of its device; each call has names of its own for its files.

        :raise LookupError: no such device.
        """
        for phb in self.topology.phbs:
            if any(device.name == name for device in phb.devices):
                return Pe(self, b.Pe(phb, self._name("t")))
        raise LookupError(f"no device {name!r}; there are: {', '.join(each.name for each in self.topology.devices)}")

    def buffer(self, pages: int, *, seed: int = 1) -> Buffer:
        """Memory of `pages` IOMMU pages (4 KiB), its frames scattered by the seed."""
        name = self._name("buffer")
        steps = self.perform(*b.buffer(name, pages, seed))
        assert steps[-1].outcome is not None
        return Buffer(name, tuple(steps[-1].outcome.frames))

    def _name(self, kind: str) -> str:
        self._names[kind] = self._names.get(kind, -1) + 1
        return f"{kind}{self._names[kind]}"

    # -- the end

    def look(self) -> list[Finding]:
        """Look once more by every view, unless nothing was done since the last look: all findings so far."""
        ops = self.program.ops
        if self._recorder.run.ending is None and ops and not isinstance(ops[-1], Checkpoint):
            op = Checkpoint(stream=not set(self.facts.views) & self.facts.cannot.keys())
            ops.append(op)
            self._recorder.perform([op])
        return list(self._judge.ledger.findings)

    def conclude(self) -> Verdict:
        """The verdict on all that was done. After it, nothing more is to be done."""
        if self._concluded is None:
            # Once more, whatever was the last thing done: what came without an operation must not go unseen.
            if self._recorder.run.ending is None and self.program.ops:
                self.look()
                self.program.ops.append(Checkpoint())
                self._recorder.perform(self.program.ops[-1:])
            self._recorder.finish()
            self._judge.end(self._recorder.run)
            self.unseen = list(self._judge.ledger.reasons)
            self._concluded = conclude([self._judge.ledger], self._recorder.run)
        return self._concluded

    @property
    def ending(self) -> TcelabError | None:
        """What ended it early."""
        ending = self._recorder.run.ending
        return None if ending is None else ending.error

    @property
    def frames(self) -> Collection[int]:
        """Guest physical addresses of all pages of its buffers."""
        return self._recorder.frames

    def last_tables(self) -> Sequence[TableView]:
        """Every table as live memory showed it at the last checkpoint."""
        for step in reversed(self._recorder.run.steps):
            if step.snapshot is not None:
                return self._first(step.snapshot)
        return []

    def _first(self, snapshot: Snapshot) -> list[TableView]:
        """As the view of every checkpoint shows them: live memory, in a guest."""
        return [table for table in snapshot.tables if table.view == self.facts.views[0]]

    def saved(self) -> Program:
        """What was done, for a replay: with a last look by every view behind it, without which it cannot be judged."""
        ops = self.program.ops
        looked = bool(ops) and isinstance(ops[-1], Checkpoint)
        streamed = any(isinstance(op, Checkpoint) and op.stream for op in ops)
        last = [] if looked and streamed else [Checkpoint(stream=True)]
        return msgspec.structs.replace(self.program, ops=[*ops, *last])

    def write_program(self) -> Path:
        """Write `saved` down."""
        path = self.folder / PROGRAM
        path.write_bytes(self.saved().to_json())
        return path


class Pe:
    """A PE under test: one PHB, its IOMMU group, its window and its device.

    :ivar guest: whose it is.
    """

    def __init__(self, guest: Pseries, names: b.Pe) -> None:
        self.guest = guest
        self.names = names

    @property
    def name(self) -> str:
        return self.names.name

    @property
    def liobn(self) -> int:
        return self.names.liobn

    @property
    def entries(self) -> int:
        """Of the default window."""
        return self.names.entries

    @property
    def window_start(self) -> int:
        """Bus address of the default window."""
        return self.names.phb.window_start

    @property
    def window_size(self) -> int:
        """Bytes of the default window."""
        return self.names.phb.window_size

    def open(self, *, enable: bool = True) -> Container:
        """Bind the device to vfio-pci and put its group into a new v1 container."""
        ops = [*b.bind(self.names), *b.open_container(self.names)]
        self.guest.perform(*ops, *(b.enable(self.names) if enable else []))
        return Container(self.guest, self)


class Container:
    """A VFIO container of type v1 (SPAPR_TCE_IOMMU) with one group. `expect` as in programs: "ok", an errno's name, or
    a number; None takes any outcome. A word that is none of these is a UsageError.
    """

    def __init__(self, guest: Pseries, pe: Pe) -> None:
        self._guest = guest
        self.pe = pe
        self._maps = 0
        self._device = False

    def map(
        self,
        buffer: Buffer,
        iova: int,
        *,
        page: int = 0,
        pages: int = 1,
        permissions: int = tce.PERMISSIONS,
        expect: str | int | None = "ok",
    ) -> Outcome:
        """Map `pages` pages from page `page` of a buffer on at bus address `iova`.

        They are tagged before, so that each entry is proven by what is found where it leads.
        """
        __tracebackhide__ = True
        self._maps += 1
        place = Page(buffer.name, page)
        fits = page + pages <= buffer.pages
        tags = b.tag(place, pages, self.pe.liobn, iova, self._maps) if fits else []
        (op,) = b.map_dma(self.pe.names, place, iova, pages, permissions)
        *_, step = self._guest.perform(*tags, msgspec.structs.replace(op, expect=expect))
        return _outcome(step)

    def unmap(self, iova: int, pages: int = 1, *, expect: str | int | None = "ok") -> Outcome:
        __tracebackhide__ = True
        (op,) = b.unmap_dma(self.pe.names, iova, pages)
        return self._do(op, expect)

    def ioctl(self, request: str | int, *, expect: str | int | None = "ok", **fields: int) -> Outcome:
        """Any ioctl on the container; see `tcelab.program.Ioctl`."""
        __tracebackhide__ = True
        return self._do(Ioctl(file=self.pe.names.container, request=request, fields=dict(fields)), expect)

    def dma(
        self, iova: int, size: int, *, to_memory: bool, offset: int = 0, expect: Expected | None = "ok"
    ) -> Transferred:
        """Have the device move bytes between memory at a bus address and its own buffer at `offset`; 0.1 s.

        :param expect: `"ok"`: all of it goes through; `"refused"`: nothing of it does; None: whatever comes. The host
            looks at the guest before and after it, so that what is told of it is what was seen.
        :raise UnexpectedOutcomeError: something else became of it.
        :raise UsageError: no transfer can be that.
        """
        __tracebackhide__ = True
        if expect not in (None, *EXPECTED):
            raise UsageError(f"a transfer is expected to be {' or '.join(map(repr, EXPECTED))}, not {expect!r}")
        if not size:
            raise UsageError("a transfer of 0 bytes is none", next_step="give it a size of at least 1 byte")
        if not self._device:
            self._guest.perform(*b.open_device(self.pe.names))
            self._device = True
        (op,) = b.dma(self.pe.names, iova, size, to_memory=to_memory, offset=offset)
        # In the program's words: so that a replay, which has no looks of the test's own to go by, finds it as well.
        op = msgspec.structs.replace(op, expect="passed" if expect == "ok" else expect)
        assert isinstance(op, Dma)
        before = self._guest.checkpoint()
        done, look = self._guest.perform(op, Checkpoint())
        assert look.snapshot is not None
        phb = self.pe.names.phb
        mask, start = phb.devices[0].mask, phb.window_start
        looks = before, look.snapshot
        seen = transferred(op, _outcome(done), looks, self._guest.frames, mask=mask, window_start=start)
        if expect is not None and not seen.gave(expect):
            what = f"the {'write' if to_memory else 'read'} of {size} bytes at {iova:#x} by {self.pe.name}"
            raise UnexpectedOutcomeError(f"operation {done.number}, {what}, {seen.describe()}; expected: {expect}")
        return seen

    def close(self) -> None:
        """Close device, group and container: the kernel gives the window back, which takes it 0.3 s for 1 GiB."""
        device = [self.pe.names.device] if self._device else []
        self._guest.perform(*b.close(*device, self.pe.names.group, self.pe.names.container))

    def _do(self, op: Op, expect: str | int | None) -> Outcome:
        __tracebackhide__ = True
        (step,) = self._guest.perform(msgspec.structs.replace(op, expect=expect))
        return _outcome(step)


class Buffer:
    """Memory of the agent. `pages` IOMMU pages, whose guest physical addresses are `frames`."""

    def __init__(self, name: str, frames: tuple[int, ...]) -> None:
        self.name, self.frames = name, frames

    @property
    def pages(self) -> int:
        return len(self.frames)

    def tce(self, page: int = 0, permissions: int = tce.PERMISSIONS) -> int:
        """The entry that leads to one of its pages."""
        return tce.pack(self.frames[page], permissions)


def _outcome(step: Step) -> Outcome:
    assert step.outcome is not None
    return step.outcome
