"""`tcelab runs`: what runs have left in the default place; what was put elsewhere by --out is its owner's."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from tcelab import report, userconfig
from tcelab.errors import UsageError, counted
from tcelab.job import artefacts
from tcelab.job.output import note
from tcelab.report.text import say

_MB = 1e6
LAST = "last"


@click.group("runs")
def command() -> None:
    """List, show and remove the folders of runs. Beyond the limits in config.toml (runs_kept, runs_size) the oldest
    without a finding are removed by themselves; a run with a finding never is.
    """


@command.command("list")
@click.option("--findings", is_flag=True, help="Only those with a finding.")
def list_(*, findings: bool) -> None:
    """List all runs, oldest first, with the result and size on disk of each."""
    shown = [artefacts.look(run) for run in artefacts.runs()]
    shown = [each for each in shown if not findings or each.word == "finding"]
    for each in shown:
        click.echo(f"{each.path.name:26} {each.word:15} {each.size / _MB:7.1f} MB  {_about(each.path)}".rstrip())
    total = sum(each.size for each in shown) / _MB
    count, size = artefacts.limits()
    click.echo(
        f"{counted(len(shown), 'run')}, {total:.1f} MB, in {artefacts.root()}; of those without a finding {count}"
        f" or {size / _MB:.0f} MB are kept"
    )


@command.command("show")
@click.argument("run", default=LAST, metavar="[RUN]")
def show(run: str) -> None:
    """Print the report of RUN again: a name of the list, a folder, or `last` (the default), the last one that has
    ended. Exit code 0.
    """
    folder = Path(run) if (Path(run) / "result.json").is_file() else find(run)
    result = _result(folder)
    console = Console()
    if result is None:
        word = artefacts.look(folder).word
        say(console, f"{folder.name}: {word}")
    elif result.runs:
        for each in result.runs:
            report.render(console, each, extent="part")
        report.render_series(console, result, folder=folder)
    else:
        report.render(console, result, folder=folder)
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        say(console, f"  {path.relative_to(folder)}")


@command.command("prune")
@click.argument("names", nargs=-1, metavar="[RUN]...")
@click.option("--count", type=click.IntRange(0), help="How many may stay; by default that of config.toml.")
@click.option(
    "--size", metavar="SIZE", help="Disk space that they may take, as in 500MB; by default that of config.toml."
)
@click.option("--findings", is_flag=True, help="Count and remove runs with a finding as well.")
def prune(names: tuple[str, ...], count: int | None, size: str | None, *, findings: bool) -> None:
    """Remove each named RUN, whatever it found; without a name, the oldest beyond the limits. A run that goes on
    stays.
    """
    if names:
        if findings or count is not None or size is not None:
            raise UsageError("limits are for runs that are not named")
        asked = [artefacts.look(find(name)) for name in names]
        if going := [each.path.name for each in asked if each.word == "running"]:
            raise UsageError(f"{going[0]} goes on: nothing is removed")
        gone = [each for each in asked if artefacts.remove(each.path)]
    else:
        most = artefacts.limits()
        gone = artefacts.prune(
            most[0] if count is None else count, most[1] if size is None else _bytes(size), findings=findings
        )
    for each in gone:
        note(f"removed {each.path.name} ({each.word})")
    click.echo(f"{counted(len(gone), 'run')} removed, {sum(each.size for each in gone) / _MB:.1f} MB freed")


def _bytes(text: str) -> int:
    try:
        return userconfig.size(text)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None


def find(name: str) -> Path:
    """The folder of a run in the default place.

    :raise UsageError: there is none of that name.
    """
    there = artefacts.runs()
    if name == LAST and there:
        return next((each for each in reversed(there) if not _goes_on(each)), there[-1])
    found = next((each for each in there if each.name == name or each.resolve() == Path(name).resolve()), None)
    if found is None:
        raise UsageError(f"there is no run {name} in {artefacts.root()}", next_step="tcelab runs list names them")
    return found


def _goes_on(run: Path) -> bool:
    """Somebody else's run, of which nothing can be told yet."""
    return not (run / "result.json").is_file() and artefacts.look(run).word == "running"


def _result(folder: Path) -> report.Result | None:
    """None: it left none that can be told again."""
    try:
        return report.load((folder / "result.json").read_bytes())
    except (OSError, UsageError):
        return None


def _about(folder: Path) -> str:
    result = _result(folder)
    if result is None or result.program is None:
        return "fuzz" if any(folder.glob("finding-*.json")) else ""
    program = result.program
    return f"{program.name} on {program.topology}, seed {program.seed}"
