"""`tcelab report`: a run or a night as one HTML file."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import click

from tcelab.errors import HarnessError
from tcelab.job import output

_FOLDER = click.Path(path_type=Path)


@click.command("report")
@click.argument("target", default="last", metavar="[RUN|NIGHT]")
@click.option(
    "-o", "--output", "to", type=_FOLDER, required=True, metavar="FILE", help="HTML file; - is standard output."
)
@click.option(
    "--nights",
    multiple=True,
    type=_FOLDER,
    metavar="FOLDER",
    help="Nights for the trends: one's folder, or one of several.",
)
def command(target: str, to: Path, nights: tuple[Path, ...]) -> None:
    """Write a report on RUN, a folder, a name of `tcelab runs list` or `last` (the default), or on NIGHT, the folder of
    a night: one HTML file that needs no network.

    Exit code 0 whatever the verdict: `tcelab runs show` and the night's own exit code tell it.
    """
    from tcelab import htmlreport  # noqa: PLC0415 - after the options were checked

    output.check("-o", to)
    folder = Path(target) if Path(target).is_dir() else _find(target)
    others = [night for each in nights for night in htmlreport.nights(each)]
    _write(htmlreport.build(folder, others), to)
    if not output.to_stdout(to):
        output.note(f"report of {folder} in {to}")


def _find(name: str) -> Path:
    """A run or a night of the default places.

    :raise UsageError: there is none of that name.
    """
    from tcelab.cli import runs  # noqa: PLC0415 - after the options were checked
    from tcelab.nightly import folder as nights  # noqa: PLC0415 - likewise

    if name != runs.LAST and (nights.root() / name).is_dir():
        return nights.root() / name
    return runs.find(name)


def _write(data: bytes, to: Path) -> None:
    """All of it or nothing: a reader never sees half a report, and what was there stays until the new one is whole.

    :raise HarnessError: it cannot be written.
    """
    if output.to_stdout(to) or (to.exists() and not to.is_file()):
        output.write(data, to)
        return
    path = to.resolve()  # of a link, its end
    new = ""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            new = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(new).chmod(_mode(path))
        Path(new).replace(path)
    except OSError as error:
        with suppress(OSError):
            Path(new).unlink()
        raise HarnessError(f"cannot write {to}: {error.strerror}", next_step="make room there") from None


def _mode(path: Path) -> int:
    """Of the file that was there, else as the user's mask has it."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
