"""`tcelab run`: one program on one guest, judged."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console

from tcelab import artefacts, inject, report, scenarios, setup
from tcelab.cli.options import choice, machine_options
from tcelab.errors import HarnessError, TcelabError, UsageError
from tcelab.judge import Judge
from tcelab.program import Program, load
from tcelab.qemu.limits import Limits
from tcelab.qemu.limits import limits as limits_of
from tcelab.qemu.session import QemuSession
from tcelab.run import Run, Step, run
from tcelab.topology import topology
from tcelab.validate import validate

FILES: Final = {
    "program": "program.json",
    "console": "console.log",
    "qemu log": "qemu.log",
    "qemu messages": "qemu.err",
    "qemu command": "qemu.cmd",
    "junit": "junit.xml",
}
"""What is in the folder of a run, beside result.json."""

_SEEDS: Final = 1 << 32


def _scenario_list() -> str:
    return "; ".join(f"{name}: {each.about}" for name, each in scenarios.SCENARIOS.items())


@click.command("run", epilog=f"Scenarios: {_scenario_list()}.")
@click.argument("target", default=scenarios.DEFAULT, metavar="[SCENARIO|PROGRAM.json]")
@machine_options
@click.option("--seed", type=click.IntRange(0), help="Of the scenario; one is drawn if not given, and told.")
@click.option("--inject", "lie", type=click.Choice(inject.LIES), help="Self-test: tell a lie that must be found.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for artefacts; new or empty.")
@click.option(
    "--json",
    "json_to",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write result.json there too; - is stdout.",
)
@click.option(
    "--keep", is_flag=True, help="After the verdict, leave the guest running for a look: its console is yours."
)
def command(
    target: str,
    seed: int | None,
    lie: str | None,
    out: Path | None,
    json_to: Path | None,
    *,
    keep: bool,
    limits: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - click's options
) -> None:
    """Run a scenario or a program on a guest, and judge it.

    Exit codes: 0 pass, 1 finding, 2 wrong usage, 125 could not judge.
    """
    if keep and not sys.stdin.isatty():
        raise UsageError("--keep needs a terminal: it gives the guest's console to you")
    if json_to is not None and not json_to.absolute().parent.is_dir():
        raise UsageError(f"--json {json_to}: there is no folder {json_to.absolute().parent}")
    program = _program(target, seed, lie, str(options["topology_name"]))
    bounds = limits_of(limits)
    # A program from a file brings its own topology.
    chosen = msgspec.structs.replace(choice(**options), topology=program.topology)
    # The text goes where the JSON does not.
    text = Console(stderr=json_to is not None and str(json_to) == "-")
    job = Job(program, bounds, {"target": target, "inject": lie, "limits": limits, **options}, out, text)
    try:
        job.perform(chosen, keep=keep)
    except KeyboardInterrupt:
        if job.result is None:
            raise  # else it was judged: an interrupt while all is put away changes nothing
    assert job.result is not None
    if json_to is not None:
        _write_json(report.to_json(job.result), json_to)
    raise click.exceptions.Exit(job.result.verdict.exit_code)


def _write_json(data: bytes, to: Path) -> None:
    if str(to) != "-":
        to.write_bytes(data)
        return
    with _reader_may_leave():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """`tcelab run | head` must end with the verdict's exit code; rich ends the program when its reader leaves."""
    try:
        yield
    except (BrokenPipeError, SystemExit):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _program(target: str, seed: int | None, lie: str | None, topology_name: str) -> Program:
    """:raise UsageError: no scenario of that name, or a file that is no program."""
    if target.endswith(".json") or os.sep in target:
        program = load(Path(target))
    else:
        drawn = secrets.randbelow(_SEEDS) if seed is None else seed
        program = scenarios.build(target, topology(topology_name), drawn)
    program = inject.flip(program) if lie == "flip" else program
    validate(program)
    return program


class Job:
    """One run from its folder to its verdict.

    :ivar result: what `perform` leaves, also when the guest never came up.
    """

    def __init__(
        self, program: Program, limits: Limits, options: dict[str, Any], out: Path | None, text: Console
    ) -> None:
        self.result: report.Result | None = None
        self._text = text
        self._program = program
        self._limits = limits
        self._options = options
        self._folder = artefacts.folder(out)
        self._timings: dict[str, float] = {}
        self._provenance: dict[str, Any] = {}
        (self._folder / FILES["program"]).write_bytes(program.to_json())

    def perform(self, chosen: setup.Choice, *, keep: bool) -> None:
        """Provision, boot, run, judge, write down, print.

        :raise UsageError: what was chosen cannot be.
        """
        with ExitStack() as stack:
            try:
                with report.Progress() as progress:
                    session = stack.enter_context(self._boot(chosen, progress))
                    record, judge = self._run(session, progress)
            except UsageError:
                raise
            except KeyboardInterrupt:
                self._failed(HarnessError("interrupted"))
            except TcelabError as error:
                self._failed(error)
            except Exception as error:
                self._failed(HarnessError(f"internal error: {error!r}", next_step="please report it"))
                raise
            else:
                self._done(record, judge)
                if keep and record.ending is None:
                    self._keep(session)

    def _boot(self, chosen: setup.Choice, progress: report.Progress) -> QemuSession:
        progress.phase(f"{self._program.name}, seed {self._program.seed}")
        began = time.monotonic()
        ready = setup.prepare(chosen, progress.note)
        self._provenance = ready.provenance
        self._timings["provision"] = time.monotonic() - began
        began = time.monotonic()
        session = QemuSession(
            ready.qemu, ready.options, self._folder, limits=self._limits, digest=ready.digest, note=progress.phase
        )
        self._timings["boot"] = time.monotonic() - began
        return session

    def _run(self, session: QemuSession, progress: report.Progress) -> tuple[Run, Judge]:
        progress.phase(f"running {len(self._program.ops)} operations")
        began = time.monotonic()
        judge = Judge(self._program, session.facts)

        def watch(step: Step) -> bool:
            suspicious = judge.feed(step)
            progress.findings = judge.findings
            progress.step(step, len(self._program.ops))
            return suspicious

        record = run(self._program, session, watch)
        if record.ending is not None and not record.ending.scene.phase:
            record.ending.error.scene = session.scene()
        self._timings["run"] = time.monotonic() - began
        return record, judge

    def _done(self, record: Run, judge: Judge) -> None:
        record.facts.versions["provenance"] = self._provenance
        self._write(report.make(record, judge.verdict(record), **self._common()))

    def _failed(self, error: TcelabError) -> None:
        if error.scene.artefacts is None:
            error.scene.artefacts = self._folder
        self._write(report.failed(error, self._program, versions={"provenance": self._provenance}, **self._common()))

    def _common(self) -> dict[str, Any]:
        there = {what: name for what, name in FILES.items() if (self._folder / name).exists() or what == "junit"}
        return {"options": self._options, "timings": self._timings, "artefacts": there}

    def _write(self, result: report.Result) -> None:
        self.result = result
        report.write(result, self._folder / "result.json")
        report.write_junit(result, self._folder / FILES["junit"])
        with _reader_may_leave():
            report.render(self._text, result, replay=self._replay(), folder=self._folder)

    def _replay(self) -> str:
        words = ["tcelab", "run", str(self._folder / FILES["program"])]
        for name, default in _REPLAYED.items():
            value = self._options.get(name)
            if value is not None and str(value) != default:
                words += [f"--{name}", str(value)]
        words += [word for limit in self._options["limits"] for word in ("--limit", limit)]
        return shlex.join(words)

    def _keep(self, session: QemuSession) -> None:
        from tcelab.qemu.interact import interact  # noqa: PLC0415 - only here

        self._text.print("the guest goes on; Ctrl-] ends it")
        interact(session)


_REPLAYED: Final = {
    "qemu": setup.DEFAULT_QEMU,
    "image": setup.DEFAULT_IMAGE,
    "kernel": None,
    "initrd": None,
    "append": "",
    "memory": "512",
    "firmware": "auto",
}
"""Options that a replay needs, and the value that need not be said."""
