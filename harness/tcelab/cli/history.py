"""`tcelab history`: what nights have found, since when, and what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from tcelab.cli.options import json_option
from tcelab.commandline import spelled
from tcelab.errors import counted
from tcelab.history import compare as comparing
from tcelab.history import queries, text, upkeep
from tcelab.history.answers import Answer, NightList
from tcelab.history.database import default_path
from tcelab.history.store import History
from tcelab.job import output
from tcelab.run import exitcode

A = TypeVar("A", bound=Answer)

_file = click.option(
    "--history",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The history's file; by default history.sqlite in the user's folder of state.",
)


@click.group("history")
def command() -> None:
    """List nights, compare two of them, and tell when a finding was first and last seen. tcelab nightly writes the
    history, cell by cell.
    """


@command.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="List the last ones, this many.")
@_file
@json_option("the list")
def list_(limit: int, path: Path | None, json_to: Path | None) -> None:
    """List the last nights, oldest first: how many cells ended how, and how many different findings there were. Exit
    code 0.
    """
    output.check("--json", json_to)
    if path is None and not default_path().exists():
        _tell(NightList(history=str(default_path()), nights=[], total=0), text.night_list, json_to)
    _answer(path, lambda history: queries.nights(history, limit), text.night_list, json_to)


@command.command("compare")
@click.argument("before", default="", metavar="[NIGHT]")
@click.argument("after", default="", metavar="[NIGHT]")
@_file
@json_option("the comparison")
def compare(before: str, after: str, path: Path | None, json_to: Path | None) -> None:
    """Compare two nights, the earlier one first; by default the last two, or the one that is named with the last. A
    night is named by its id, by a beginning of it, or as `last`.

    Exit codes: 0 nothing new, 1 a new or returning finding or a cell that is newly not right, 2 wrong usage, 125 it
    could not be compared: there is one night only, or not all cells of the later one were judged.
    """
    output.check("--json", json_to)
    if path is None and not default_path().exists():
        raise comparing.nothing_to_compare()
    _answer(
        path,
        lambda history: comparing.compare(history, before, after),
        text.comparison,
        json_to,
        code=lambda answer: answer.exit_code,
    )


@command.command("finding")
@click.argument("key")
@_file
@json_option("the finding's course")
def finding(key: str, path: Path | None, json_to: Path | None) -> None:
    """Tell of a finding each night that saw it, since when it is there, and how to see it again. KEY is of tcelab
    history compare; its first digits do. Exit code 0.
    """
    _answer(path, lambda history: queries.finding(history, key), text.finding, json_to)


@command.command("cell")
@click.argument("cell")
@_file
@json_option("the cell's course")
def cell(cell: str, path: Path | None, json_to: Path | None) -> None:
    """Tell of a cell how it ended in each night, what it measured, and which versions changed. CELL is its id, its
    name, or words of its name that no other cell has. Exit code 0.
    """
    _answer(path, lambda history: queries.cell(history, cell), text.cell, json_to)


@command.command("import")
@click.argument("nights", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="NIGHTFOLDER...")
@_file
def import_(nights: tuple[Path, ...], path: Path | None) -> None:
    """Add nights that were made elsewhere, e.g. by CI: folders, or their night.json. One that is there already is not
    there twice. Nothing is added if one of them cannot be read. Exit code 0.
    """
    read = [upkeep.read(each) for each in nights]
    with History(path) as history:
        for each in read:
            new = upkeep.bring(history, each)
            click.echo(f"{each.id}: {counted(len(each.cells), 'cell')}{'' if new else ', there already'}")


@command.command("prune")
@click.option("--keep", type=click.IntRange(1), required=True, help="How many nights stay: the last ones.")
@_file
def prune(keep: int, path: Path | None) -> None:
    """Remove the oldest nights from the history; their folders stay. When a finding was first seen is still known. Exit
    code 0.
    """
    with History(path, create=False) as history:
        gone = upkeep.prune(history, keep)
    for each in gone:
        output.note(f"removed {each}")
    click.echo(f"{counted(len(gone), 'night')} removed")


def _answer(
    path: Path | None,
    ask: Callable[[History], A],
    lines: Callable[[A], Iterable[str]],
    json_to: Path | None,
    code: Callable[[A], int] = lambda _: exitcode.PASS,
) -> None:
    output.check("--json", json_to)
    with History(path, create=False) as history:
        answer = ask(history)
    _tell(answer, lines, json_to, code(answer))


def _tell(answer: A, lines: Callable[[A], Iterable[str]], json_to: Path | None, code: int = exitcode.PASS) -> None:
    """The text goes where the JSON does not."""
    for line in lines(answer):
        click.echo(spelled(line), err=output.to_stdout(json_to))
    data = msgspec.json.format(msgspec.json.encode(answer), indent=1) + b"\n"
    raise click.exceptions.Exit(output.deliver(data, json_to, code))
