"""`tcelab export`: a program as a C file for those who have no tcelab."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tcelab.errors import UsageError
from tcelab.job import output

if TYPE_CHECKING:
    from tcelab.program import Program
    from tcelab.report import Result

_PROGRAM = "program.json"
_RESULT = "result.json"


@click.command("export")
@click.argument("target", metavar="RUN|PROGRAM.json")
@click.option("--c", "as_c", is_flag=True, help="As a C file of plain ioctls, with a README: the only form.")
@click.option(
    "-o", "--output", "to", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder; new or empty."
)
@click.option(
    "--page-size",
    type=click.Choice(["4096", "65536"]),
    help="Bytes of a page of the kernel that it is for; by default those of the run's kernel, else 4096.",
)
def command(target: str, to: Path, page_size: str | None, *, as_c: bool) -> None:
    """Write a program as DIR/reproducer.c, with DIR/README.md: a folder or name of a run (`last` is the last one), or a
    program's file. It needs nothing of tcelab: it makes the program's system calls in any guest, compares each answer
    with what it should be, and ends with 0 (all are right), 1 (one is not) or 2 (it could not be tried).

    Exit codes: 0 written, 2 it cannot be exported, and why. What is done from outside of the guest, by the kernel's DMA
    API or by raw hypercalls cannot; a run that ended in the death of the kernel or QEMU never is.
    """
    from tcelab import export  # noqa: PLC0415 - after the options were checked

    if not as_c:
        raise UsageError("say in which form: --c is the only one there is", next_step="add --c")
    _check(to)
    made = export.files(*_read(target), page_size=int(page_size or 0))
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o {to}: cannot be made: {error.strerror}") from None
    for name, data in made.items():
        output.write(data, to / name)
    output.note(f"{' and '.join(made)} in {to}")


def _check(to: Path) -> None:
    """:raise UsageError: it is no folder, or something is in it."""
    try:
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise UsageError(f"-o {to}: not an empty folder")
    except OSError as error:
        raise UsageError(f"-o {to}: {error.strerror}") from None


def _read(target: str) -> tuple[Program, Result | None]:
    """A program, and what a run of it gave.

    :raise UsageError: there is none.
    """
    from tcelab import report  # noqa: PLC0415 - after the options were checked
    from tcelab.cli.run import program_file  # noqa: PLC0415 - likewise
    from tcelab.cli.runs import find  # noqa: PLC0415 - likewise
    from tcelab.program import load  # noqa: PLC0415 - likewise

    path = Path(target)
    if not path.is_dir():
        if path.is_file() or target.endswith(".json") or os.sep in target:
            return load(path), None
        path = find(target)
    program = load(program_file(path))
    try:
        data = (path / _RESULT).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} has no {_RESULT} that can be read ({error.strerror}): how its run ended is not known",
            next_step=f"export {path / _PROGRAM} itself, if it is harmless",
        ) from None
    return program, report.load(data, str(path / _RESULT))
