"""`tcelab nightly`: a matrix of cells, each a command of its own, on all cores."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from tcelab.cli import bench, fuzz, leakcheck, run
from tcelab.cli.options import json_option
from tcelab.cli.workeroptions import worker_options, workers
from tcelab.cluster import crew as crews
from tcelab.cluster.board import Board
from tcelab.cluster.crew import Workers
from tcelab.errors import TcelabError, UsageError
from tcelab.history import nightfile
from tcelab.history.nightfile import Night
from tcelab.history.store import History
from tcelab.job import output
from tcelab.job.keeping import Keeper
from tcelab.job.output import note
from tcelab.nightly import folder as folders
from tcelab.nightly import matrixfile, nightjunit, nighttext, plan, process
from tcelab.nightly.matrixfile import AXES, Matrix, Vocabulary
from tcelab.nightly.night import NightRun, begin
from tcelab.nightly.plan import PlannedCell
from tcelab.nightly.provision import needs
from tcelab.nightly.schedule import slots as usual_slots
from tcelab.run import exitcode

_OWN_KEYS: Final = frozenset({*AXES, "kernel", "modules", "initrd", "out", "json", "keep", "verbose"})
"""Options that a cell says in another way, or cannot have."""
_MACHINE: Final = frozenset({"--qemu", "--image", "--cpu", "--seed"})
"""Options with a value on which it does not depend whether a program can be run."""


@click.command("nightly")
@click.argument("matrix", required=False, type=click.Path(path_type=Path), metavar="[MATRIX.toml]")
@click.option(
    "--resume",
    is_flag=False,
    flag_value=folders.LAST,
    metavar="[NIGHT]",
    help="Go on with a night: its folder or id; by default the last one.",
)
@click.option("--dry-run", is_flag=True, help="List the cells with their commands, and run nothing.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Time of the night, instead of the matrix's.")
@click.option("--slots", type=click.IntRange(1), help="Cells side by side; by default one more than there are cores.")
@click.option("--no-wait", is_flag=True, help="End with 125 if another night goes on, instead of waiting for its end.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the night; new or empty.")
@worker_options
@json_option(nightfile.NAME)
@click.option("--report", "report_to", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML report.")
def command(
    matrix: Path | None,
    resume: str | None,
    *,
    minutes: float | None,
    slots: int | None,
    out: Path | None,
    json_to: Path | None,
    report_to: Path | None,
    dry_run: bool,
    no_wait: bool,
    **options: Any,  # noqa: ANN401 - click's options
) -> None:
    """Run every cell of a matrix, by default a moderate one that comes with tcelab: longest first, on all cores, each
    in a folder of its own. A cell that does not end as it must, or not as the last time, is run again with the same
    seed; if it then ends otherwise, it is flaky.

    Exit codes: 0 all cells ended as they must, 1 one did not or is flaky, 2 wrong usage, 125 one could not be judged or
    was not run.
    """
    crew = workers(options)
    if crew is not None and slots is not None:
        raise UsageError("--slots and --workers say the same", next_step="leave one of them out")
    output.check("--json", json_to)
    output.check("--report", report_to)
    if resume is not None and (given := [name for name, value in (("MATRIX", matrix), ("--out", out)) if value]):
        raise UsageError(f"{given[0]} is about a new night, and --resume about one that there is")
    if resume is not None:
        folder = folders.find(resume)
        night = folders.load(folder)
        read = _same_matrix(night, folder)
    else:
        read = matrixfile.read(matrix or matrixfile.DEFAULT, vocabulary())
    began = time.time() if resume is None else night.began
    cells = plan.cells(read, began)
    check(read, cells)
    for line in matrixfile.missing(read):
        note(line)
    if dry_run:
        _list(cells)
        return
    with folders.one_at_a_time(wait=not no_wait), History() as history:
        if resume is None:
            night, folder = begin(cells, read.path, read.sha256, out, began)
        else:
            night = folders.load(folder)  # whoever held the lock may have gone on with it
            cells = _continued(cells, night)
            process.kill_all(f"{night.id}/")
        history.begin(night)
        for cell in night.cells if resume is not None else ():
            if cell.attempts:  # a night that was killed may not have got that far
                history.record(night, cell)
        job = NightRun(
            night,
            folder,
            cells,
            history,
            slots or usual_slots(),
            where=read.folder,
            minutes=minutes or read.file.minutes,
        )
        code = _tell(night, folder, json_to, _perform(job, crew))
    raise click.exceptions.Exit(code if report_to is None else _report(folder, report_to, code))


def _perform(job: NightRun, workers: Workers | None) -> int:
    """Run the cells, by whoever is to do it.

    :return: the exit code.
    """
    night = job.night
    said = f"night {night.id}: {len(job.plan)} cells, in {job.folder}"
    if workers is None:
        note(said)
        return job.perform()
    board = Board()
    wanted = list(dict.fromkeys(need for each in job.plan for need in needs(each)))
    with crews.opened(workers, wanted, night.id) as crew, board.shown():
        note(f"{said}, on {crew.told}")
        code = replace(job, slots=crew.slots, starts=crew.starts, shows=board.cells).perform()
    if crew.lost():
        note(f"lost with their workers and run again: {crew.lost()}")
    return code


def vocabulary() -> Vocabulary:
    """What the command line knows."""
    verbs: dict[str, click.Command] = {"run": run.command, "leakcheck": leakcheck.command, "fuzz": fuzz.command}
    # Those that run a guest; of the others, no axis of a matrix is about.
    benches = {
        name: each
        for name, each in bench.command.commands.items()
        if any("--qemu" in option.opts for option in each.params)
    }
    verbs |= {f"bench {name}": each for name, each in benches.items()}
    options = {
        verb: [name for each in command.params for option in each.opts if (name := option.lstrip("-")) not in _OWN_KEYS]
        for verb, command in verbs.items()
    }
    return Vocabulary(list(benches), options)


def check(matrix: Matrix, cells: Sequence[PlannedCell]) -> None:
    """Check each cell's command as the command line would, also whether its program can be run so.

    :raise UsageError: it would not take one of them.
    """
    environment = dict(os.environ)  # some options are there for all that a process starts
    settled: set[tuple[str, ...]] = set()
    verbs = {"run": run.command, "leakcheck": leakcheck.command, "fuzz": fuzz.command}
    try:
        for planned in cells:
            cell = planned.cell
            if cell.kind == "command":
                continue
            verb = bench.command.commands[cell.scenario] if cell.kind == "bench" else verbs[cell.kind]
            words = cell.command[3 if cell.kind == "bench" else 2 :]
            try:
                context = verb.make_context(cell.kind, list(words))
                if cell.kind == "run" and (said := _without_machine(words)) not in settled:
                    run.check(context)
                    settled.add(said)
            except click.UsageError as error:
                raise matrix.wrong((*planned.place, "options"), error.format_message()) from None
            except UsageError as error:
                raise matrix.wrong((*planned.place, "scenario"), error.message) from None
    finally:
        os.environ.clear()
        os.environ.update(environment)


def _without_machine(words: Sequence[str]) -> tuple[str, ...]:
    """A command's words without what its program is independent of."""
    return tuple(
        word
        for before, word in zip(("", *words), words, strict=False)
        if word not in _MACHINE and before not in _MACHINE
    )


def _same_matrix(night: Night, folder: Path) -> Matrix:
    """The matrix of a night, as it was then.

    :raise UsageError: it is gone, or was changed since.
    """
    read = matrixfile.read(Path(night.matrix), vocabulary())
    if read.sha256 != night.matrix_sha256:
        raise UsageError(
            f"{night.matrix} was changed since the night {folder} began", next_step="begin a new night, or put it back"
        )
    return read


def _continued(cells: Sequence[PlannedCell], night: Night) -> list[PlannedCell]:
    """The plan, about what is known of each cell."""
    known = {plan.key(each): each for each in night.cells}
    if known.keys() != {plan.key(each.cell) for each in cells}:
        raise UsageError(
            f"night {night.id} has other cells: it is of tcelab {night.tcelab}", next_step="begin a new night"
        )
    return [replace(each, cell=known[plan.key(each.cell)]) for each in cells]


def _list(cells: Sequence[PlannedCell]) -> None:
    for number, planned in enumerate(cells, 1):
        cell = planned.cell
        must = "" if cell.expected == "pass" else f", must end with: {plan.words_of(cell.expected)}"
        click.echo(f"{number:03} {plan.title(cell)}{must}")
        click.echo(f"    {nighttext.command(cell)}")
    click.echo(f"{len(cells)} cells")


def _tell(night: Night, folder: Path, json_to: Path | None, code: int) -> int:
    """Print what became of the night, and write the files for others.

    :return: the exit code: `code`, unless it could not be told.
    """
    for line in nighttext.lines(night, folder, code):
        click.echo(line, err=output.to_stdout(json_to))
    keeper = Keeper(folder)
    if not keeper.write(nightjunit.NAME, nightjunit.junit(night)):
        note(keeper.lost())
        code = exitcode.of_untold(code)
    return output.deliver(nightfile.to_json(night), json_to, code)


def _report(folder: Path, to: Path, code: int) -> int:
    """Write the HTML report, with trends and what changed since the night before, by the history."""
    from tcelab import htmlreport  # noqa: PLC0415 - most nights have none

    try:
        with History() as history:
            return output.deliver(htmlreport.build(folder, history=history), to, code)
    except TcelabError as error:
        note(error.report())
        return exitcode.of_untold(code)
