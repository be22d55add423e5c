"""`tcelab watch`: the tables of a running guest, live."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tcelab import scenarios
from tcelab.cli.options import (
    OF_SCENARIO,
    boot_option,
    guard_option,
    machine_options,
    run_options,
    seed_option,
    topology_text,
)
from tcelab.cli.run import program_of, typed
from tcelab.errors import UsageError
from tcelab.job.job import Job
from tcelab.job.output import note
from tcelab.job.runoptions import settle
from tcelab.qemu.livesample import FolderLooker
from tcelab.report.livedisplay import EVERY, LiveDisplay
from tcelab.run import exitcode
from tcelab.run.record import Guarding


@click.command("watch")
@click.argument("target", default=scenarios.DEFAULT, metavar="[SCENARIO|PROGRAM.json|RUNFOLDER]")
@machine_options
@guard_option
@seed_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for artefacts; new or empty.")
@boot_option
def command(
    target: str,
    seed: int | None,
    out: Path | None,
    *,
    guard: Guarding | None,
    boot: bool,
    limits: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - click's options
) -> None:
    """Run a scenario or a program on a guest, show its tables four times a second without stopping it, then print the
    verdict as run does. Given the folder of a run in another terminal, show the tables of that run until it ends.

    Without a terminal: a line every second. What is mapped and unmapped between two looks is not seen, so rates are
    lower bounds. Exit codes as for run; for a folder 0, or 125 if no table was ever seen.
    """
    if Path(target).is_dir():
        if given := [name for name in ("seed", "out", "guard", "boot") if typed(name)]:
            raise UsageError(f"--{given[0]} is about a run of our own, and {target} is the folder of one")
        _follow(Path(target))
        return
    scenario = scenarios.SCENARIOS.get(target)
    if scenario is not None and scenario.topologies and not typed("topology_name"):
        options["topology_name"] = scenario.topologies[0]
        if len(scenario.topologies) > 1:
            note(f"on topology {scenario.topologies[0]}: the scenario has others, see --topology")
    program = program_of(target, seed, None, str(options["topology_name"]))
    asked = run_options("watch", target, guard=guard, boot=boot, limits=limits, **options)
    job = Job(*settle(program, asked), out, Console())
    watcher = LiveDisplay(Console(stderr=True), program.topology)
    job.progress = lambda: watcher
    job.observer = watcher.give
    job.perform(keep=False)
    assert job.result is not None
    raise click.exceptions.Exit(job.result.verdict.exit_code)


topology_text(command, f"{OF_SCENARIO} By default the first that run has.")


def _follow(folder: Path, make: Callable[[Path], FolderLooker] = FolderLooker) -> None:
    """Until the run ends, or the user has seen enough."""
    found = make(folder)
    watcher = LiveDisplay(Console(stderr=True), found.topology)
    watcher.phase(f"the run in {folder}")
    try:
        with watcher:
            watcher.take(found)
            while not watcher.ended:
                time.sleep(EVERY)
    except KeyboardInterrupt:
        note("left; the run goes on")
    if not watcher.watching.seen:
        raise click.exceptions.Exit(exitcode.COULD_NOT_JUDGE)
