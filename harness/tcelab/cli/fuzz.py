"""`tcelab fuzz`: random programs on guests, held against the emulator."""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.text import Text

import tcelab
from tcelab.cli.coverageoptions import coverage_options, enough, recorded
from tcelab.cli.options import boot_option, choice, machine_options, topology_text
from tcelab.commandline import typed
from tcelab.coverage.text import unit_lines
from tcelab.errors import Interrupted, TcelabError, UsageError, counted
from tcelab.fuzz import campaign, fuzzresult
from tcelab.fuzz.tally import Found, Tally
from tcelab.job import artefacts, output, replayline, setup
from tcelab.job.keeping import expecting_room
from tcelab.job.pool import Guests
from tcelab.job.recording import Recording, kept
from tcelab.logs import NOTE, shown_on
from tcelab.qemu.limits import Limits
from tcelab.qemu.limits import limits as limits_of
from tcelab.report.text import WORDS, finding_lines, numbers
from tcelab.run import exitcode
from tcelab.run.resultfile import to_json

_LOG: Final = logging.getLogger(__name__)
_SEEDS: Final = 1 << 32
_STEPS: Final = 20000


class _Timed:
    """A display of lines that begin with the time."""

    def __init__(self, began: float) -> None:
        self._began = began

    def note(self, text: str) -> None:
        """See `tcelab.logs.Display`."""
        click.echo(f"[{time.monotonic() - self._began:6.1f} s] {text}", err=True)

    phase = note


@click.command("fuzz")
@machine_options
@click.option("--seed", type=click.IntRange(0), help="Seed of the programs; drawn and printed if not given.")
@click.option("--steps", type=click.IntRange(1), default=_STEPS, show_default=True, help="Operations in total.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Stop after this many minutes, at a checkpoint. A finding is still shrunk, for ten minutes at most.",
)
@click.option(
    "--every", type=click.IntRange(1), default=campaign.EVERY, show_default=True, help="Operations per checkpoint."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for what is found; new or empty.")
@boot_option
@coverage_options
def command(
    *,
    seed: int | None,
    steps: int,
    minutes: float | None,
    every: int,
    out: Path | None,
    boot: bool,
    limits: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - click's options
) -> None:
    """Make random programs of legal and illegal operations, run them on fresh guests, and compare every outcome and
    every whole table with the emulator. A difference is shrunk to a small program and saved.

    Exit codes: 0 no difference, 1 a finding, 2 wrong usage, 125 could not judge.
    """
    console = Console()
    covered = recorded(options)
    chosen = choice(**options)
    given = click.get_current_context().get_parameter_source("topology_name") is click.core.ParameterSource.COMMANDLINE
    if any(phb.restricted for phb in chosen.topology.phbs):
        raise UsageError(
            f"topology {chosen.topology.name} is for the kernel's own drivers: firmware offers its PEs fewer page sizes"
            " than the rules of VFIO are written for",
            next_step="name another one with --topology",
        )
    bounds = limits_of(limits)
    number = secrets.randbelow(_SEEDS) if seed is None else seed
    began = time.monotonic()

    click.get_current_context().with_resource(shown_on(_Timed(began)))
    setup.check(chosen)
    folder = artefacts.folder(out)
    said = "seed %d, %s operations in programs on guests of their own, some at a time"
    _LOG.info(said, number, f"{steps:,}", extra=NOTE)
    recording = Recording.of(covered, bounds)
    guests = Guests(chosen, artefacts.numbered(folder / "guests"), limits=bounds, boot=boot, recording=recording)
    job = campaign.Campaign(
        number,
        lambda name: guests.fresh(name, None),
        folder,
        every=every,
        usual=chosen.topology.name if given else None,
        give_up=guests.close,
    )
    try:
        with job.keeper.log(), expecting_room(folder):
            job.run(steps, minutes)
    except KeyboardInterrupt:  # once more, while all was ended
        job.tally.could_not.append(Interrupted().report())
    except TcelabError as error:
        if isinstance(error, UsageError) and not job.tally.programs:
            raise  # of an option: nothing was run that could be lost
        job.tally.could_not.append(error.report())
    except Exception as error:  # noqa: BLE001 - what was found must not be lost with it
        _LOG.error("internal error", exc_info=error, extra=NOTE)
        job.tally.could_not.append(f"internal error: {error!r}, please report it")
    finally:
        guests.close()
    if not job.tally.could_not:
        shutil.rmtree(folder / "guests", ignore_errors=True)  # a finding is a program, which any guest shows

    def again(found: Found) -> str:
        if found.file.exists():
            return _replay(chosen, bounds, found, boot=boot)
        same = [*replayline.chosen(chosen), *replayline.opening(bounds, boot=boot)]
        same += ["--topology", chosen.topology.name] if given else []
        return typed(["fuzz", "--seed", str(number), "--steps", str(steps), "--every", str(every), *same])

    replays = [again(found) for found in job.tally.found]
    seen = kept(recording, job.keeper)
    job.keeper.write("result.json", to_json(fuzzresult.make(job.tally, number, replays, tcelab.__version__, seen)))
    for line in unit_lines(seen) if seen is not None else ():
        _line(console, line)
    code = _tell(console, job.tally, number, folder, replays)
    output.unkept(console, job.keeper)
    raise click.exceptions.Exit(enough(covered, seen, code))


topology_text(command, "By default two-pe, and now and then another.")


def _replay(chosen: setup.MachineChoice, limits: Limits, found: Found, *, boot: bool) -> str:
    """The command that shows a finding again, on a machine of the same kind: what was known by then is declared."""
    without = tuple(name for name in chosen.without_quirks if name not in found.known)
    chosen = msgspec.structs.replace(chosen, without_quirks=without)
    more = sorted(found.known - setup.quirks_of(chosen))
    chosen = msgspec.structs.replace(chosen, expect_quirks=(*chosen.expect_quirks, *more))
    return replayline.line("replay", found.file, chosen, limits=limits, boot=boot)


def _tell(console: Console, tally: Tally, seed: int, folder: Path, replays: Sequence[str]) -> int:
    """Print what was done and found: the exit code.

    :param replays: for each finding, the command that shows it again.
    """
    rate = tally.operations / tally.spent if tally.spent else 0.0
    _line(
        console,
        f"seed {seed}: {counted(tally.programs, 'program')}, {counted(tally.operations, 'operation')},"
        f" {counted(tally.checkpoints, 'checkpoint')}, {counted(tally.entries, 'entry', 'entries')} compared;"
        f" {rate:,.0f} operations/s, guests and checkpoints included",
    )
    for name, times in sorted(tally.quirks.items()):
        if times:
            _line(console, f"quirk:   {name} made a difference {counted(times, 'time')}")
    for name, times in sorted(tally.left_out.items()):
        _line(console, f"left out: {counted(times, 'operation')} that would hang the kernel, by quirk {name}")
    for number, (found, replay) in enumerate(zip(tally.found, replays, strict=True), 1):
        size, left = counted(len(found.original.ops), "operation"), f"{len(found.program.ops):,}"
        missed = f"cut to {left}, not shrunk: fresh guests did not show it again"
        became = missed if found.missed else f"shrunk to {left}"
        _line(console, f"finding {number}: {size} {became}", "bold red")
        for line in finding_lines(found.finding):
            _line(console, f"  {line}")
        _line(console, f"  {numbers(found.file.name)}")
        _line(console, f"  replay:    {replay}")
    for reason in tally.could_not:
        _line(console, f"could not judge: {reason}", "yellow")
    result = exitcode.result(found=tally.found, undecided=tally.could_not)
    code = exitcode.of_result(result)
    word, style = WORDS[result]
    _line(console, f"{word} (exit code {code}); artefacts in {folder}", style)
    return code


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True, highlight=False)
