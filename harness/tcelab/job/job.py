"""One run of a command, from its folder to its verdict."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from tcelab import report
from tcelab.emulator.reference import GuestReferences
from tcelab.errors import HarnessError, Interrupted, TcelabError, UsageError, counted
from tcelab.job import artefacts, output, platforms, replayline, setup
from tcelab.job.keeping import Keeper, expecting_room
from tcelab.job.parallel import EndableSession, ParallelRun
from tcelab.job.recording import FILES as COVERAGE
from tcelab.job.recording import Recording, kept
from tcelab.job.runoptions import RunOptions
from tcelab.judge.laws.difference import References
from tcelab.logs import PHASE, of_guest
from tcelab.logs.logfile import NAME
from tcelab.program import Program
from tcelab.program.parts import Part
from tcelab.qemu import innerguest
from tcelab.qemu.qemusession import QemuSession
from tcelab.report import tabledump
from tcelab.run.guestfits import require
from tcelab.run.record import Facts, RunRecord, Step
from tcelab.ssh import agentlink
from tcelab.ssh.sshsession import KERNEL_LOG

_LOG: Final = logging.getLogger(__name__)

FILES: Final = {
    "program": "program.json",
    "console": "console.log",
    "inner console": innerguest.CONSOLE,
    "inner messages": innerguest.SAID,
    "qemu log": "qemu.log",
    "qemu messages": "qemu.err",
    "qemu command": "qemu.cmd",
    "junit": "junit.xml",
    "log": NAME,
    "agent log": agentlink.LOG,
    "kernel log": KERNEL_LOG,
    "isolations": "isolation.log",
    "hypercalls": "hcalls.txt",
    "hypercalls as data": "hcalls.json",
    "tables": tabledump.NAME,
    "tables before": tabledump.BEFORE,
    **COVERAGE,
}
"""What is in the folder of a run, beside result.json."""


class Job:
    """One run from its folder to its verdict.

    :ivar brief: its text is one of several: without tables and witnesses.
    :ivar result: the result after `perform`, even if the guest never came up.
    :ivar interrupted: somebody wanted it to end.
    :ivar folder: of its artefacts.
    :ivar kept_tables: number of the checkpoint whose tables are kept there; None: of none.
    :ivar progress: makes the progress display; `observer` is called with each guest as soon as it exists, in the thread
        of its part.
    """

    def __init__(self, program: Program, options: RunOptions, out: Path | None, text: Console) -> None:
        """:param program: as `settle` has made it, and the options.

        :raise UsageError: a limit, or the folder, cannot be.
        """
        self._limits = options.bounds()
        self.brief = False
        self.interrupted = False
        self.result: report.Result | None = None
        self.kept_tables: int | None = None
        self.progress: Callable[[], report.Progress] = report.Progress
        self.observer: Callable[[EndableSession], None] = lambda _: None
        self._text = text
        self._program = program
        self._options = options
        self.folder = artefacts.folder(out)
        self._timings: dict[str, float] = {}
        self._provenance: dict[str, Any] = {}
        self._keeper = Keeper(self.folder)
        self._recording = Recording.of(options.coverage, self._limits)
        with expecting_room(self.folder):
            (self.folder / FILES["program"]).write_bytes(program.to_json())

    def perform(self, *, keep: bool) -> None:
        """Provision, boot, run, judge, write down, print.

        :raise UsageError: what was chosen cannot be.
        """
        with artefacts.of_a_run(self.folder):
            asked = self._options
            platforms.check(asked.platform, asked.machine, boot=asked.boot, ssh=asked.ssh)
            self._perform(keep=keep)

    def _perform(self, *, keep: bool) -> None:
        with self._keeper.log(), ExitStack() as stack:
            try:
                with self.progress() as progress:
                    beside = self._prepare(progress, stack, keep=keep)
                    began = time.monotonic()
                    record, verdict = beside.run()
                    self._timings["run"] = time.monotonic() - began
                    self.interrupted = record.ending is not None and isinstance(record.ending.error, Interrupted)
            except UsageError:
                raise
            except KeyboardInterrupt:
                self._failed(Interrupted())
            except TcelabError as error:
                self._failed(error)
            except Exception as error:
                self._failed(HarnessError(f"internal error: {error!r}", next_step="please report it"))
                raise
            else:
                if isinstance(beside.kept, QemuSession):
                    beside.kept.guest.cover.ended()  # what its user does with it is none of its program's
                record.facts.versions["provenance"] = self._provenance
                self._log(report.timeline(record))
                self._conformance(report.hypercall_rows(record, verdict))
                self._tables(record, verdict.findings[0].step if verdict.findings else None)
                _LOG.info("verdict: %s", verdict.result)
                self._write(report.make(record, verdict, **self._common()))
                if beside.kept is not None:
                    stack.callback(beside.kept.close)
                    self._give(beside.kept)

    def _prepare(self, progress: report.Progress, stack: ExitStack, *, keep: bool) -> ParallelRun:
        """Prepare everything that is needed before the first guest."""
        total = len(self._program.ops)
        operations = counted(total, "operation")
        _LOG.info("%s, seed %d, %s", self._program.name, self._program.seed, operations, extra=PHASE)
        began = time.monotonic()
        asked = self._options
        platform = platforms.prepare(
            asked.platform,
            asked.machine,
            limits=self._limits,
            boot=asked.boot,
            ssh=asked.ssh,
            recording=self._recording,
        )
        stack.callback(platform.close)
        self._provenance = platform.provenance
        self._timings["provision"] = time.monotonic() - began

        def watch(step: Step, findings: int) -> None:
            progress.findings = findings
            progress.step(step, total)

        def opening(part: Part) -> EndableSession:
            began = time.monotonic()
            with expecting_room(self.folder):
                session = platform.open(self._own(part))
            self._timings.setdefault("start", time.monotonic() - began)
            self.observer(session)
            return session

        other = asked.other_machine()
        references = None if other is None else self._other(other, stack)
        return ParallelRun(self._program, opening, watch, give_up=platform.close, keep=keep, references=references)

    def _other(self, chosen: setup.MachineChoice, stack: ExitStack) -> Callable[[Part, Facts], References]:
        """Guests to compare with: one for each part."""
        other = platforms.QemuPlatform(chosen, limits=self._limits)
        stack.callback(other.close)
        self._provenance["against"] = other.provenance

        def references(part: Part, facts: Facts) -> References:
            folder = self.folder / f"against-{part.number + 1}"
            with expecting_room(folder):
                folder.mkdir(mode=0o700)
                with of_guest(f"against {part.number + 1}"):
                    guest = stack.enter_context(closing(other.open(folder)))
            require(self._program, guest.facts)
            return GuestReferences(guest, self._program.topology, facts)

        return references

    def _own(self, part: Part) -> Path:
        """The folder for the artefacts of a part's guest: the first one's are the run's."""
        if part.number == 0:
            return self.folder
        folder = self.folder / f"guest-{part.number + 1}"
        folder.mkdir(mode=0o700)
        return folder

    def _log(self, moments: Sequence[report.Moment]) -> None:
        """A line for each event, if there are any."""
        if lines := list(report.log_lines(moments)):
            self._keeper.write(FILES["isolations"], "".join(f"{line}\n" for line in lines).encode())

    def _conformance(self, rows: Sequence[report.HypercallRow]) -> None:
        """The table of hypercalls, if there is one."""
        if rows:
            text = "".join(f"{line}\n" for line in report.conformance_lines(rows))
            self._keeper.write(FILES["hypercalls"], text.encode())
            data = msgspec.json.format(msgspec.json.encode(rows), indent=1)
            self._keeper.write(FILES["hypercalls as data"], data + b"\n")

    def _tables(self, record: RunRecord, finding: int | None) -> None:
        """The tables of one checkpoint, see `tabledump`; with a finding, those of the checkpoint before it as well."""
        step = tabledump.telling(record, finding)
        if step is None or not record.facts.views:
            return
        if self._keeper.write(FILES["tables"], tabledump.of_step(step)):
            self.kept_tables = step.number
        last = None if finding is None else tabledump.before(record, step)
        if last is not None:
            self._keeper.write(FILES["tables before"], tabledump.of_step(last))

    def _failed(self, error: TcelabError) -> None:
        self.interrupted = isinstance(error, Interrupted)
        if error.scene.artefacts is None:
            error.scene.artefacts = self.folder
        _LOG.info("no verdict: %s", error.report())
        self._write(report.failed(error, self._program, versions={"provenance": self._provenance}, **self._common()))

    def _common(self) -> dict[str, Any]:
        coverage = kept(self._recording, self._keeper)
        there = {what: name for what, name in FILES.items() if (self.folder / name).exists() or what == "junit"}
        told = {"options": self._options.recorded(), "timings": self._timings, "artefacts": there}
        return told | {"replay": self._replay(), "coverage": coverage}

    def _write(self, result: report.Result) -> None:
        self.result = result
        self._keeper.write("result.json", report.to_json(result))
        self._keeper.write(FILES["junit"], report.junit(result))
        extent: report.Extent = "part" if self.brief else "differences" if self._options.verb == "diff" else "whole"
        report.render(self._text, result, folder=self.folder, extent=extent)
        output.unkept(self._text, self._keeper)

    def _replay(self) -> str:
        asked = self._options
        return replayline.line(
            "diff" if asked.verb == "diff" else "run",
            self.folder / FILES["program"],
            asked.machine,
            program=self._program,
            platform=asked.platform,
            boot=asked.boot,
            limits=self._limits,
            ssh=asked.ssh,
            against=asked.against,
        )

    def _give(self, guest: EndableSession) -> None:
        from tcelab.qemu.interact import interact  # noqa: PLC0415 - only here

        self._text.print("the guest goes on; Ctrl-] ends it")
        assert isinstance(guest, QemuSession)
        interact(guest)
