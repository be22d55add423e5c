"""`tcelab bench`: figures, side by side in one run. Absolute times say little on a shared machine; ratios do."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from tcelab.bench import (
    BenchJob,
    Figure,
    Measured,
    batch,
    boot,
    dma,
    emulator,
    fork,
    isolation,
    life,
    nights,
    plot,
    probe,
    table,
    watch,
)
from tcelab.cli.options import choice, json_option, machine_options
from tcelab.job import output
from tcelab.job.output import note
from tcelab.judge import Verdict
from tcelab.qemu.limits import limits as limits_of
from tcelab.report.text import finding_lines
from tcelab.run import exitcode


@click.group("bench", epilog="Exit codes: 0 measured, 1 what was measured is broken, 2 wrong usage, 125 not measured.")
def command() -> None:
    """Measure, side by side in one run."""


def benchmark(name: str, *, repeat: int, turn: str) -> Callable[[Callable[..., Measured]], click.Command]:
    """Make a function the command `tcelab bench NAME`, with the options that all of them have.

    The function takes a `BenchJob`, and then its own options.

    :param repeat: turns when nothing is said; `turn` is the help for it.
    """

    def decorate(function: Callable[..., Measured]) -> click.Command:
        own = [each for each in inspect.signature(function).parameters if each != "job"]

        @functools.wraps(function)
        def run(limits: tuple[str, ...], repeat: int, json_to: Path | None, **options: Any) -> None:  # noqa: ANN401 - click's
            output.check("--json", json_to)
            mine = {each: options.pop(each) for each in own}
            job = BenchJob(choice(**options), limits_of(limits), repeat)
            _show(function(job, **mine), json_to)

        for option in (
            json_option("the figures"),
            click.option("--repeat", type=click.IntRange(1), default=repeat, show_default=True, help=turn),
            machine_options,
        ):
            run = option(run)
        return command.command(name)(run)

    return decorate


@benchmark("boot", repeat=3, turn="Boots of each firmware, taken in turns.")
def boot_(job: BenchJob) -> Measured:
    """Measure when a boot reaches each phase, under VOF and under SLOF."""
    return boot.measure(job)


@benchmark("fork", repeat=5, turn="Turns, each with a boot.")
def fork_(job: BenchJob) -> Measured:
    """Measure what a fresh guest costs: a boot, a fork, one kept ahead, four at once; and the memory of each."""
    return fork.measure(job)


@benchmark("table", repeat=50, turn="Checkpoints by each view.")
def table_(job: BenchJob) -> Measured:
    """Measure what reading and judging whole tables costs, by live memory and by the state stream."""
    return table.measure(job)


@benchmark("batch", repeat=20, turn="Turns over all sizes.")
@click.option("--sizes", default="1..32", show_default=True, help="Pages per call, as in 1..32 or 1,2,4.")
@click.option("--plot", "plot_to", type=click.Path(path_type=Path), metavar="FILE", help="Draw it: .svg or .png.")
def batch_(job: BenchJob, sizes: str, plot_to: Path | None) -> Measured:
    """Measure what a map and an unmap of n pages cost in the real driver: the call, and each page.

    Everything that is timed is done once before and checked, and all of it is judged.
    """
    pages = batch.sizes(sizes)
    output.check("--plot", plot_to)
    if plot_to is not None:
        plot.check(plot_to)
    measured = batch.measure(job, pages)
    if plot_to is not None and measured.figures:
        plot.draw(measured, plot_to)
    return measured


@benchmark("probe", repeat=5, turn="Turns over both devices and both ways.")
def probe_(job: BenchJob) -> Measured:
    """Measure transfers per second of a probe, judged, beside an edu; by messages, beside shared memory."""
    return probe.measure(job)


@benchmark("emulator", repeat=3, turn="Turns, each with a fork.")
def emulator_(job: BenchJob) -> Measured:
    """Measure the emulator beside a forked guest, its MAP, and the fuzzer's rate on guests."""
    return emulator.measure(job)


@benchmark("isolation", repeat=100, turn="Violations of each size.")
def isolation_(job: BenchJob) -> Measured:
    """Measure the time to isolate a PE, from the first refused access, and transfers per second by the fast engine.

    All of it is judged.
    """
    return isolation.measure(job)


@benchmark("watch", repeat=20, turn="Turns, each with and without.")
def watch_(job: BenchJob) -> Measured:
    """Measure what `tcelab watch` costs a guest that maps and unmaps as fast as it can."""
    return watch.measure(job)


@benchmark("dma", repeat=10, turn="Turns over all ways and devices.")
def dma_(job: BenchJob) -> Measured:
    """Measure lists that the kernel's DMA API maps on command, beside a loop of the driver's, and judged transfers.

    All of it is judged, in one guest with an iommu-testdev (QEMU 11.1).
    """
    return dma.measure(job)


@benchmark("life", repeat=3, turn="Turns, each with a boot.")
def life_(job: BenchJob) -> Measured:
    """Measure what the events in the life of a table cost until the guest answers again, beside a cold boot."""
    return life.measure(job)


@command.command("history")
@click.option("--nights", "count", type=click.IntRange(2), default=100, show_default=True, help="Of 1,000 cells each.")
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True, help="Turns of each question.")
@json_option("the figures")
def history_(count: int, repeat: int, json_to: Path | None) -> None:
    """Measure how fast a history of many nights answers, and what it costs to record a cell. No guest is booted."""
    output.check("--json", json_to)
    _show(nights.measure(count, repeat), json_to)


def _show(measured: Measured, json_to: Path | None) -> None:
    for line in measured.text or _table(measured.figures):
        click.echo(line, err=output.to_stdout(json_to))
    code = exitcode.PASS if measured.verdict is None else measured.verdict.exit_code
    if measured.verdict is not None and code:
        _broken(measured.verdict)
    if code := output.deliver(json.dumps(measured.to_dict(), indent=1).encode() + b"\n", json_to, code):
        raise click.exceptions.Exit(code)


def _table(figures: Sequence[Figure]) -> list[str]:
    if not figures:
        return []
    out = [f"{'figure':34} {'median':>10} {'least':>10} {'most':>10}  {'n':>3}"]
    for figure in figures:
        numbers = f"{figure.median:10.3f} {min(figure.values):10.3f} {max(figure.values):10.3f}"
        out.append(f"{figure.name:34} {numbers}  {len(figure.values):3}  {figure.unit}")
    return out


def _broken(verdict: Verdict) -> None:
    """Why there are no figures."""
    for number, finding in enumerate(verdict.findings, 1):
        note(f"finding {number}")
        for line in finding_lines(finding):
            note(f"  {line}")
    for reason in verdict.could_not:
        note(f"could not judge: {reason}")
    note(f"no figures: what was measured is not known to be right (exit code {verdict.exit_code})")
