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
from tcelab.errors import HarnessError, Interrupted, TcelabError, UsageError
from tcelab.job import artefacts, output, platforms, replay, setup
from tcelab.job.keeping import Keeper, expecting_room
from tcelab.job.parallel import Guest, ParallelRun
from tcelab.judge.laws.difference import References
from tcelab.logs import PHASE, of_guest
from tcelab.logs.logfile import NAME
from tcelab.program import Program
from tcelab.program.parts import Part
from tcelab.qemu.limits import Limits
from tcelab.qemu.session import QemuSession
from tcelab.report import tabledump
from tcelab.run.fits import require
from tcelab.run.record import Facts, RunRecord, Step

_LOG: Final = logging.getLogger(__name__)

FILES: Final = {
    "program": "program.json",
    "console": "console.log",
    "qemu log": "qemu.log",
    "qemu messages": "qemu.err",
    "qemu command": "qemu.cmd",
    "junit": "junit.xml",
    "log": NAME,
    "isolations": "isolation.log",
    "hypercalls": "hcalls.txt",
    "hypercalls as data": "hcalls.json",
    "tables": tabledump.NAME,
}
"""What is in the folder of a run, beside result.json."""


class Job:
    """One run from its folder to its verdict.

    :ivar against: whom to compare it with, in place of the emulator.
    :ivar verb: `run`, or `diff`, which prints differences and verdict alone.
    :ivar brief: what it prints is one of several: without the tables, and without the verdict's witnesses.
    :ivar result: what `perform` leaves, also when the guest never came up.
    :ivar interrupted: somebody wanted it to end.
    :ivar folder: of its artefacts.
    :ivar kept_tables: number of the checkpoint whose tables are kept there; None: of none.
    :ivar progress: makes what shows how far it is; `observer` is given each guest as soon as there is one, by the
        thread of its part.
    """

    def __init__(
        self, program: Program, limits: Limits, options: dict[str, Any], out: Path | None, text: Console
    ) -> None:
        self.against: setup.MachineChoice | None = None
        self.verb = "run"
        self.brief = False
        self.interrupted = False
        self.result: report.Result | None = None
        self.kept_tables: int | None = None
        self.progress: Callable[[], report.Progress] = report.Progress
        self.observer: Callable[[Guest], None] = lambda _: None
        self._chosen: setup.MachineChoice | None = None
        self._text = text
        self._program = program
        self._limits = limits
        self._options = options
        self.folder = artefacts.folder(out)
        self._timings: dict[str, float] = {}
        self._provenance: dict[str, Any] = {}
        self._keeper = Keeper(self.folder)
        with expecting_room(self.folder):
            (self.folder / FILES["program"]).write_bytes(program.to_json())

    def perform(self, chosen: setup.MachineChoice, *, keep: bool) -> None:
        """Provision, boot, run, judge, write down, print.

        :raise UsageError: what was chosen cannot be.
        """
        self._chosen = chosen
        platforms.check(self._options["platform"], chosen, boot=bool(self._options["boot"]))
        with self._keeper.log(), ExitStack() as stack:
            try:
                with self.progress() as progress:
                    beside = self._prepare(chosen, progress, stack, keep=keep)
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
                record.facts.versions["provenance"] = self._provenance
                self._log(report.timeline(record))
                self._conformance(report.hypercall_rows(record, verdict))
                self._tables(record, verdict.findings[0].step if verdict.findings else None)
                _LOG.info("verdict: %s", verdict.result)
                self._write(report.make(record, verdict, **self._common()))
                if beside.kept is not None:
                    stack.callback(beside.kept.close)
                    self._give(beside.kept)

    def _prepare(
        self, chosen: setup.MachineChoice, progress: report.Progress, stack: ExitStack, *, keep: bool
    ) -> ParallelRun:
        """All that is needed before the first guest."""
        total = len(self._program.ops)
        _LOG.info("%s, seed %d, %d operations", self._program.name, self._program.seed, total, extra=PHASE)
        began = time.monotonic()
        boot = bool(self._options["boot"])
        platform = platforms.prepare(self._options["platform"], chosen, limits=self._limits, boot=boot)
        stack.callback(platform.close)
        self._provenance = platform.provenance
        self._timings["provision"] = time.monotonic() - began

        def watch(step: Step, findings: int) -> None:
            progress.findings = findings
            progress.step(step, total)

        def opening(part: Part) -> Guest:
            began = time.monotonic()
            with expecting_room(self.folder):
                session = platform.open(self._own(part))
            self._timings.setdefault("start", time.monotonic() - began)
            self.observer(session)
            return session

        oracles = None if self.against is None else self._other(self.against, stack)
        return ParallelRun(self._program, opening, watch, give_up=platform.close, keep=keep, oracles=oracles)

    def _other(self, chosen: setup.MachineChoice, stack: ExitStack) -> Callable[[Part, Facts], References]:
        """Guests to compare with: one for each part."""
        other = platforms.QemuPlatform(chosen, limits=self._limits)
        stack.callback(other.close)
        self._provenance["against"] = other.provenance

        def oracles(part: Part, facts: Facts) -> References:
            folder = self.folder / f"against-{part.number + 1}"
            with expecting_room(folder):
                folder.mkdir(mode=0o700)
                with of_guest(f"against {part.number + 1}"):
                    guest = stack.enter_context(closing(other.open(folder)))
            require(self._program, guest.facts)
            return GuestReferences(guest, self._program.topology, facts)

        return oracles

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
        """The tables of one checkpoint, see `tabledump`."""
        step = tabledump.telling(record, finding)
        if step is not None and step.snapshot is not None:
            tables = tabledump.of_snapshot(step.snapshot)
            if self._keeper.write(FILES["tables"], tabledump.encode(tables, "npz")):
                self.kept_tables = step.number

    def _failed(self, error: TcelabError) -> None:
        self.interrupted = isinstance(error, Interrupted)
        if error.scene.artefacts is None:
            error.scene.artefacts = self.folder
        _LOG.info("no verdict: %s", error.report())
        self._write(report.failed(error, self._program, versions={"provenance": self._provenance}, **self._common()))

    def _common(self) -> dict[str, Any]:
        there = {what: name for what, name in FILES.items() if (self.folder / name).exists() or what == "junit"}
        told = {"options": self._options, "timings": self._timings, "artefacts": there}
        return told | {"replay": self._replay()}

    def _write(self, result: report.Result) -> None:
        self.result = result
        self._keeper.write("result.json", report.to_json(result))
        self._keeper.write(FILES["junit"], report.junit(result))
        extent: report.Extent = "part" if self.brief else "differences" if self.verb == "diff" else "whole"
        report.render(self._text, result, folder=self.folder, extent=extent)
        output.unkept(self._text, self._keeper)

    def _replay(self) -> str:
        assert self._chosen is not None
        return replay.line(
            self.verb,
            self.folder / FILES["program"],
            self._chosen,
            program=self._program,
            platform=self._options["platform"],
            boot=bool(self._options["boot"]),
            limits=self._limits,
            against=self._options.get("against"),
        )

    def _give(self, guest: Guest) -> None:
        from tcelab.qemu.interact import interact  # noqa: PLC0415 - only here

        self._text.print("the guest goes on; Ctrl-] ends it")
        assert isinstance(guest, QemuSession)
        interact(guest)
