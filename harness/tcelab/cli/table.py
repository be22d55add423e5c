"""`tcelab table`: the TCE tables of a run in a file, and two such files compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console

from tcelab import scenarios
from tcelab.cli.options import (
    OF_SCENARIO,
    boot_option,
    json_option,
    machine_options,
    on_platforms,
    run_options,
    seed_option,
    topology_text,
)
from tcelab.cli.run import program_of
from tcelab.errors import TcelabError, UsageError
from tcelab.job import output
from tcelab.job.job import Job
from tcelab.job.output import note
from tcelab.job.runoptions import RunOptions, settle
from tcelab.program import Checkpoint, Program
from tcelab.program.parts import parts
from tcelab.report import tabledump
from tcelab.run import exitcode
from tcelab.run.record import TableView

SHOWN: Final = 200
"""Entries that `diff` spells out; with --json it tells all."""

_PATH = click.Path(path_type=Path)


@click.group("table", epilog="Exit codes of diff: 0 the same, 1 different, 2 wrong usage.")
def command() -> None:
    """Write TCE tables to a file, and compare two of them."""


@command.command("dump")
@click.argument("source", metavar="RUNFOLDER|DUMP|SCENARIO|PROGRAM.json")
@click.option("--liobn", "liobns", multiple=True, metavar="NUMBER", help="Only this table; may be given several times.")
@click.option(
    "--format", "form", type=click.Choice(tabledump.FORMATS), help="By default as the name of -o ends, else text."
)
@click.option("-o", "to", type=click.Path(path_type=Path, allow_dash=True), help="A file; - is stdout, as by default.")
@click.option(
    "--after",
    type=click.IntRange(0),
    metavar="N",
    help="Dump the tables as they are after N operations of the program.",
)
@seed_option
@on_platforms
@machine_options
@boot_option
def dump(
    source: str,
    liobns: tuple[str, ...],
    form: tabledump.Format | None,
    to: Path | None,
    *,
    after: int | None,
    seed: int | None,
    boot: bool,
    limits: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - click's options
) -> None:
    """Write tables: those that a run kept (of the checkpoint of its first finding, else of its last checkpoint), those
    of another dump, or those of a fresh guest after a program or its first N operations.
    """
    to = to or Path("-")
    output.check("-o", to)
    form = form or _by_name(to)
    wanted = [_number(each) for each in liobns]
    path = Path(source)
    if path.is_dir() or path.suffix == ".npz" or _is_dump(path):
        if after is not None or seed is not None:
            raise UsageError("--after and --seed are about a program, and this is a dump")
        tables = tabledump.load(path)
    else:
        program = _program_of(source, seed, str(options["topology_name"]))
        tables = _made(program, after, run_options("table", source, boot=boot, limits=limits, **options))
    known = [each.liobn for each in tables]
    if missing := [each for each in wanted if each not in known]:
        there = ", ".join(f"{each:#x}" for each in known) or "none"
        raise UsageError(f"no table of LIOBN {missing[0]:#x}", next_step=f"there are: {there}")
    chosen = [each for each in tables if not wanted or each.liobn in wanted]
    output.write(tabledump.encode(chosen, form), to)


topology_text(dump, f"{OF_SCENARIO} By default two-pe.")


def _by_name(to: Path) -> tabledump.Format:
    return {".json": "json", ".npz": "npz"}.get(to.suffix, "text")  # type: ignore[return-value]


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"--liobn {text}: a LIOBN is a number, as in 0x80000100") from None


def _is_dump(path: Path) -> bool:
    """A JSON file that holds tables; anything else that ends so is taken for a program."""
    if path.suffix != ".json":
        return False
    try:
        whole = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return False
    return isinstance(whole, dict) and "tables" in whole


def _program_of(source: str, seed: int | None, topology_name: str) -> Program:
    """:raise UsageError: no such program."""
    if os.sep not in source and not source.endswith(".json") and source not in scenarios.SCENARIOS:
        names = ", ".join(scenarios.SCENARIOS)
        raise UsageError(f"{source} is no folder of a run, no dump and no scenario", next_step=f"scenarios: {names}")
    return program_of(source, seed, None, topology_name)


def _made(program: Program, after: int | None, asked: RunOptions) -> tuple[TableView, ...]:
    """The tables after a program, which is run and judged on a machine of its own.

    :raise UsageError: it cannot be done, or has not so many operations. :raise TcelabError: it came to no checkpoint.
    """
    program, asked = settle(program, asked)
    if after is not None and after > len(program.ops):
        raise UsageError(f"--after {after}: the program has {len(program.ops)} operations")
    if len(parts(program)) > 1:
        raise UsageError("the program asks for several guests, and a dump is of one")
    ops = [*program.ops[:after], Checkpoint(label="dump")]
    job = Job(msgspec.structs.replace(program, ops=ops), asked, None, Console(stderr=True, quiet=True))
    job.perform(keep=False)
    assert job.result is not None
    if job.kept_tables != len(ops) - 1:
        reasons = "; ".join([*job.result.verdict.could_not, *job.result.ended.report])
        raise TcelabError(f"there are no tables after the program: {reasons or 'see ' + str(job.folder)}")
    if job.result.verdict.exit_code:
        note(f"the program itself ended with exit code {job.result.verdict.exit_code}: see {job.folder}")
    return tabledump.load(job.folder)


@command.command("diff")
@click.argument("first", type=_PATH)
@click.argument("second", type=_PATH)
@json_option("what differs")
def diff(first: Path, second: Path, json_to: Path | None) -> None:
    """Compare two dumps (npz or JSON) or the folders of two runs: print the entries that differ, by LIOBN and IOBA."""
    output.check("--json", json_to)
    words, changes = tabledump.compare(tabledump.load(first), tabledump.load(second))
    for line in [*words, *map(tabledump.tell, changes[:SHOWN])]:
        click.echo(line, err=output.to_stdout(json_to))
    if len(changes) > SHOWN:
        click.echo(f"and {len(changes) - SHOWN:,} more entries", err=output.to_stdout(json_to))
    data = msgspec.json.format(msgspec.json.encode({"tables": words, "entries": changes})) + b"\n"
    if code := output.deliver(data, json_to, exitcode.FINDING if words or changes else exitcode.PASS):
        raise click.exceptions.Exit(code)
