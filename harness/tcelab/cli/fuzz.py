"""`tcelab fuzz`: random programs on guests, held against the emulator."""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.text import Text

import tcelab
from tcelab.cli import fuzzsplit
from tcelab.cli.coverageoptions import coverage_options, enough, recorded
from tcelab.cli.options import boot_option, choice, machine_options, on_platforms, topology_text
from tcelab.cli.workeroptions import worker_options, workers
from tcelab.commandline import typed
from tcelab.coverage.text import unit_lines
from tcelab.errors import Interrupted, TcelabError, UsageError, counted
from tcelab.fuzz import campaign, fuzzresult, piece
from tcelab.fuzz.tally import Found, Ran, Tally
from tcelab.fuzz.turns import plan
from tcelab.job import artefacts, output, platforms, replayline, setup
from tcelab.job.keeping import expecting_room
from tcelab.job.pool import Emulators, Guests
from tcelab.job.recording import Recording, kept
from tcelab.judge import Finding
from tcelab.logs import NOTE, shown_on
from tcelab.program import load
from tcelab.qemu.limits import Limits
from tcelab.qemu.limits import limits as limits_of
from tcelab.report.text import WORDS, finding_lines, numbers
from tcelab.run import exitcode
from tcelab.run.resultfile import to_json

_LOG: Final = logging.getLogger(__name__)
_SEEDS: Final = 1 << 32
_STEPS: Final = 20000
_SHRINKING: Final = 60.0
"""Minutes that a process may shrink one finding for the campaign that asks it to."""


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
@on_platforms
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
@click.option(
    "--resume",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Go on with a campaign of --workers: the folder of its artefacts. All other options are as they were.",
)
@click.option("--into", type=click.Path(path_type=Path), hidden=True, help="A campaign's folder, with what is there.")
@click.option("--program", "only", type=click.IntRange(0), hidden=True, help="That program alone, not shrunk.")
@click.option("--shrink", type=click.Path(path_type=Path), hidden=True, help="Shrink what another process found.")
@boot_option
@worker_options
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
    resume: Path | None,
    into: Path | None,
    only: int | None,
    shrink: Path | None,
    **options: Any,  # noqa: ANN401 - click's options
) -> None:
    """Make random programs of legal and illegal operations, run them on fresh guests, and compare every outcome and
    every whole table with the emulator. A difference is shrunk to a small program and saved.

    Exit codes: 0 no difference, 1 a finding, 2 wrong usage, 125 could not judge.
    """
    console = Console()
    crew = workers(options)
    if resume is not None:
        fuzzsplit.resume(command, resume, crew)
    covered = recorded(options)
    if crew is not None and covered is not None:
        raise UsageError("--coverage adds up one process's guests", next_step="leave --workers or --coverage out")
    chosen = choice(**{name: value for name, value in options.items() if name != "platform"})
    given = click.get_current_context().get_parameter_source("topology_name") is click.core.ParameterSource.COMMANDLINE
    _check_topology(chosen)
    bounds = limits_of(limits)
    number = secrets.randbelow(_SEEDS) if seed is None else seed
    began = time.monotonic()

    platform: str = options["platform"]
    platforms.check(platform, chosen, boot=boot)
    spoken = _words(chosen, bounds, platform=platform, boot=boot)
    words = ["fuzz", *spoken, *(["--topology", chosen.topology.name] if given else [])]
    words += ["--seed", str(number), "--steps", str(steps), "--every", str(every)]

    def again(found: Found) -> str:
        if found.file.exists():
            return _replay(chosen, bounds, found, platform=platform, boot=boot)
        return typed(words)

    click.get_current_context().with_resource(shown_on(_Timed(began)))
    if crew is not None:
        programs = plan(steps, usual=chosen.topology.name if given else None)
        needs = [("qemu", chosen.qemu), ("image", chosen.image)] if platform == platforms.QEMU else []
        split = fuzzsplit.Split(crew, words, programs, minutes, needs)
        code = split.run(console, number, fuzzsplit.folder(out, into), again, _tell)
        raise click.exceptions.Exit(code)
    folder = artefacts.folder(out)
    piecemeal = only is not None or shrink is not None
    said = "seed %d, %s operations in programs on guests of their own, some at a time"
    _LOG.info(said, number, f"{steps:,}", extra=NOTE)
    recording = Recording.of(covered, bounds)
    guests = _guests(platform, chosen, folder, bounds, recording, boot=boot, piecemeal=piecemeal)
    job = campaign.Campaign(
        number,
        lambda name: guests.fresh(name, None if only is None else 0),
        folder,
        every=every,
        usual=chosen.topology.name if given else None,
        only=only,
        give_up=guests.close,
    )
    _perform(job, guests, lambda: _do(job, steps, minutes, shrink))

    replays = [again(found) for found in job.tally.found]
    seen = kept(recording, job.keeper)
    job.keeper.write("result.json", to_json(fuzzresult.make(job.tally, number, replays, tcelab.__version__, seen)))
    if piecemeal:
        _leave_piece(job)
    for line in unit_lines(seen) if seen is not None else ():
        _line(console, line)
    code = _tell(console, job.tally, number, folder, replays)
    output.unkept(console, job.keeper)
    raise click.exceptions.Exit(enough(covered, seen, code))


topology_text(command, "By default two-pe, and now and then another.")


def _check_topology(chosen: setup.MachineChoice) -> None:
    if any(phb.restricted for phb in chosen.topology.phbs):
        raise UsageError(
            f"topology {chosen.topology.name} is for the kernel's own drivers: firmware offers its PEs fewer page sizes"
            " than the rules of VFIO are written for",
            next_step="name another one with --topology",
        )


def _guests(
    platform: str,
    chosen: setup.MachineChoice,
    folder: Path,
    limits: Limits,
    recording: Recording | None,
    *,
    boot: bool,
    piecemeal: bool,
) -> Emulators | Guests:
    make = artefacts.numbered(folder / "guests")
    if platform == platforms.EMULATOR:
        return Emulators(chosen, make)
    ahead = 1 if piecemeal else None  # each process of several has one core
    return Guests(chosen, make, limits=limits, boot=boot, ahead=ahead, recording=recording)


def _do(job: campaign.Campaign, steps: int, minutes: float | None, shrink: Path | None) -> None:
    if shrink is None:
        job.run(steps, minutes)
    else:
        job.shrink(*_handed(shrink), minutes or _SHRINKING)


def _perform(job: campaign.Campaign, guests: Emulators | Guests, work: Callable[[], None]) -> None:
    """Do the work; whatever ends it, what was found until then is in the tally."""
    try:
        with job.keeper.log(), expecting_room(job.keeper.folder):
            work()
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
        shutil.rmtree(job.keeper.folder / "guests", ignore_errors=True)  # a finding is a program, which any guest shows


def _words(chosen: setup.MachineChoice, limits: Limits, *, platform: str, boot: bool) -> list[str]:
    """The options that say on which machine it runs."""
    guest = platform == platforms.QEMU
    words = [] if guest else ["--platform", platform]
    return [*words, *replayline.chosen(chosen, of_a_guest=guest), *replayline.opening(limits, boot=boot)]


def _handed(path: Path) -> tuple[Ran, Finding]:
    """What another process found, with its program beside it."""
    handed = piece.read_found(path)
    program = load(path.with_name(handed.original))
    return Ran(handed.number, program, frozenset(handed.known)), handed.finding


def _leave_piece(job: campaign.Campaign) -> None:
    """Leave what was done for the process that gathers it."""
    for found in job.tally.found:
        job.keeper.write(piece.original_of(found.file).name, found.original.to_json())
    job.keeper.write(piece.NAME, piece.to_json(piece.of(job.tally)))


def _replay(chosen: setup.MachineChoice, limits: Limits, found: Found, *, platform: str, boot: bool) -> str:
    """The command that shows a finding again, on a machine of the same kind: what was known by then is declared."""
    without = tuple(name for name in chosen.without_quirks if name not in found.known)
    chosen = msgspec.structs.replace(chosen, without_quirks=without)
    more = sorted(found.known - setup.quirks_of(chosen))
    chosen = msgspec.structs.replace(chosen, expect_quirks=(*chosen.expect_quirks, *more))
    return replayline.line("replay", found.file, chosen, platform=platform, limits=limits, boot=boot)


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
    result = exitcode.result(found=tally.found or tally.flaky, undecided=tally.could_not)
    code = exitcode.of_result(result)
    word, style = WORDS[result]
    _line(console, f"{word} (exit code {code}); artefacts in {folder}", style)
    return code


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True, highlight=False)
