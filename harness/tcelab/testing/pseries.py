"""A guest that a test drives call by call. Every call is an operation of a recorded program, which is judged as it
happens and can be replayed by `tcelab run`.
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
from tcelab.program import Checkpoint, Dma, Fresh, GuestOp, Op, Program
from tcelab.program.topology import Topology
from tcelab.program.validate import Checker
from tcelab.run.loop import Recorder
from tcelab.run.record import Facts, Outcome, Snapshot, Step, TableView
from tcelab.run.session import Session
from tcelab.scenarios import vocabulary as b
from tcelab.testing.container import Buffer, Pe, UnexpectedOutcomeError
from tcelab.testing.expectedtable import TceTable

PROGRAM: Final = "program.json"


class Driven(Session, Protocol):
    """A session that a test can drive: that of a guest or of the emulator.

    :ivar folder: its artefacts.
    """

    @property
    def folder(self) -> Path: ...

    def tail(self, lines: int) -> list[str]:
        """The console's last lines.

        :param lines: how many, at most.
        :return: the oldest first, without line ends.
        """
        ...


class Pseries:
    """A pseries guest with the agent in it, or the emulator in its place. The fixture `pseries` gives one.

    Each call is an operation of `program`. It is judged as it happens, by the same laws as `tcelab run`.

    :ivar topology: its PHBs and devices.
    :ivar folder: its artefacts: console.log, qemu.log, and program.json once a test has failed.
    :ivar program: all operations so far.
    :ivar unseen: after `conclude`, why something could not be judged; empty if all could.
    """

    def __init__(self, session: Driven, topology: Topology, name: str, *, test: str = "", shared: bool = False) -> None:
        """:param session: that performs the operations.
        :param topology: of that session's machine.
        :param name: of the program, in reports.
        :param test: the full name of the test that drives it.
        :param shared: other tests use the guest before or after this one.
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
        """The guest's page size and RAM in bytes, its views, quirks and versions."""
        return self.session.facts

    # -- operations

    def perform(self, *ops: Op) -> list[Step]:
        """Do operations in order. Guest operations in a row cost one round trip to the agent, some 2 ms.

        :param ops: operations of `tcelab.program`.
        :return: a step for each, with its outcome or, for a checkpoint, its snapshot.
        :raise UnexpectedOutcomeError: an operation with `expect` gave something else. A transfer that should pass or
            be refused did not end; whether it passed is judged with everything else that the test did.
        :raise UsageError: an operation cannot be done; none of them is done then.
        :raise TcelabError: the guest or QEMU is lost.
        :raise KeyboardInterrupt: somebody interrupted the run.
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
        """Do one guest operation.

        :param op: an operation of `tcelab.program`.
        :return: its value or errno, its fields and page frames.
        :raise UnexpectedOutcomeError: see `perform`, as for its other errors.
        """
        (step,) = self.perform(op)
        assert step.outcome is not None
        return step.outcome

    def checkpoint(self, *, stream: bool = False) -> Snapshot:
        """Stop the guest, read every table and the RAM that entries lead to, judge it, and let the guest go on.

        :param stream: read the state stream as well as live memory, which takes some 40 ms more.
        :return: the tables, and what was read of guest RAM.
        """
        (step,) = self.perform(Checkpoint(stream=stream))
        assert step.snapshot is not None
        return step.snapshot

    def tables(self) -> dict[int, TceTable]:
        """Read every table of the machine, as it is now in QEMU's memory.

        :return: by LIOBN.
        :raise HarnessError: they could not be read.
        """
        snapshot = self.checkpoint()
        if why := snapshot.missing.get(self.facts.views[0]):
            raise HarnessError(f"the tables in QEMU's memory cannot be seen: {why}")
        return {view.liobn: TceTable.of(view) for view in self._first(snapshot)}

    def table(self, pe: Pe) -> TceTable:
        """Read the table of a PE's default window, as it is now in QEMU's memory.

        :param pe: of this guest.
        :return: a table without entries if the PE has no such window.
        :raise HarnessError: it could not be read, or is missing although its window must be there.
        """
        found = self.tables().get(pe.liobn)
        if found is None and pe.liobn in self._judge.fold.tables:
            raise HarnessError(f"QEMU's memory shows no table of LIOBN {pe.liobn:#x}, whose window must be there")
        return TceTable(pe.liobn, 0, {}) if found is None else found

    def expected(self, liobn: int) -> TceTable:
        """The table that the operations so far should have produced, by the judge's fold.

        :param liobn: of the table.
        :return: to compare with `table`.
        :raise KeyError: no window has that LIOBN.
        """
        model = self._judge.fold.tables[liobn]
        words = zip(*model.arrays(), strict=True)
        live = {model.ioba(int(i)): int(word) for i, word in words}
        return TceTable(liobn, model.entries, live, start=model.start, page_shift=model.page_shift)

    # -- things

    def pe(self, name: str) -> Pe:
        """Find a PE by its device. Each call gives new names to the files that it will open.

        :param name: of a device of the topology, as `pe1`.
        :return: the PE. Nothing was opened on it.
        :raise LookupError: no such device.
        """
        for phb in self.topology.phbs:
            if any(device.name == name for device in phb.devices):
                return Pe(self, b.Pe(phb, self._name("t")))
        raise LookupError(f"no device {name!r}; there are: {', '.join(each.name for each in self.topology.devices)}")

    def buffer(self, pages: int, *, seed: int = 1) -> Buffer:
        """Allocate memory in the agent.

        :param pages: IOMMU pages of 4 KiB.
        :param seed: pages are touched in an order that depends on it, so that neighbours have scattered frames.
        :return: the buffer, with the guest physical address of each page.
        :raise UnexpectedOutcomeError: the guest has no memory for it.
        """
        name = self._name("buffer")
        steps = self.perform(*b.buffer(name, pages, seed))
        assert steps[-1].outcome is not None
        return Buffer(name, tuple(steps[-1].outcome.frames))

    def _name(self, kind: str) -> str:
        self._names[kind] = self._names.get(kind, -1) + 1
        return f"{kind}{self._names[kind]}"

    # -- the end

    def look(self) -> list[Finding]:
        """Look once more by every view, unless nothing was done since the last checkpoint.

        :return: all findings so far.
        """
        ops = self.program.ops
        if self._recorder.run.ending is None and ops and not isinstance(ops[-1], Checkpoint):
            op = Checkpoint(stream=not set(self.facts.views) & self.facts.cannot.keys())
            ops.append(op)
            self._recorder.perform([op])
        return list(self._judge.ledger.findings)

    def conclude(self) -> Verdict:
        """Judge everything that was done. Call it last; the fixtures do so after the test.

        :return: the verdict; the same one when it is called again.
        """
        if self._concluded is None:
            # Look once more, whatever was done last: changes without an operation must not go unseen.
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
        """The error that ended the run early, or None."""
        ending = self._recorder.run.ending
        return None if ending is None else ending.error

    @property
    def frames(self) -> Collection[int]:
        """Guest physical addresses of all pages of all buffers."""
        return self._recorder.frames

    def last_tables(self) -> Sequence[TableView]:
        """Every table as live memory showed it at the last checkpoint, without looking again."""
        for step in reversed(self._recorder.run.steps):
            if step.snapshot is not None:
                return self._first(step.snapshot)
        return []

    def _first(self, snapshot: Snapshot) -> list[TableView]:
        """As the view of every checkpoint shows them: live memory, in a guest."""
        return [table for table in snapshot.tables if table.view == self.facts.views[0]]

    def saved(self) -> Program:
        """Everything that was done, as a program for a replay. It ends with a checkpoint by every view, without which
        it could not be judged.
        """
        ops = self.program.ops
        looked = bool(ops) and isinstance(ops[-1], Checkpoint)
        streamed = any(isinstance(op, Checkpoint) and op.stream for op in ops)
        last = [] if looked and streamed else [Checkpoint(stream=True)]
        return msgspec.structs.replace(self.program, ops=[*ops, *last])

    def write_program(self) -> Path:
        """Write `saved` into the folder.

        :return: the file, for `tcelab run`.
        """
        path = self.folder / PROGRAM
        path.write_bytes(self.saved().to_json())
        return path
