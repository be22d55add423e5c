"""`tcelab report`: a run or a night as one HTML file."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tcelab.errors import HarnessError
from tcelab.job import output

if TYPE_CHECKING:
    from tcelab.history.store import History

_PATH = click.Path(path_type=Path)


@click.command("report")
@click.argument("target", default="last", metavar="[RUN|NIGHT]")
@click.option(
    "-o", "--output", "to", type=_PATH, required=True, metavar="FILE", help="HTML file; - is standard output."
)
@click.option(
    "--nights",
    multiple=True,
    type=_PATH,
    metavar="FOLDER",
    help="Nights for the trends: one's folder, or one of several.",
)
@click.option(
    "--history",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The history's file, for trends and changes; by default history.sqlite in the user's folder of state.",
)
def command(target: str, to: Path, nights: tuple[Path, ...], path: Path | None) -> None:
    """Write a report on RUN, a folder, a name of `tcelab runs list` or `last` (the default), or on NIGHT, a folder or a
    name in the default place: one HTML file that needs no network.

    Exit code 0 whatever the verdict: `tcelab runs show`, and the exit code of the night, tell that.
    """
    from tcelab import htmlreport  # noqa: PLC0415 - after the options were checked

    output.check("-o", to)
    folder = Path(target) if Path(target).is_dir() else _find(target)
    others = [night for each in nights for night in htmlreport.nights(each)]
    with ExitStack() as stack:
        _write(htmlreport.build(folder, others, _history(path, stack)), to)
    if not output.to_stdout(to):
        output.note(f"report of {folder} in {to}")


def _history(path: Path | None, stack: ExitStack) -> History | None:
    """None: nobody asked for one, and there is none yet."""
    from tcelab.history.database import default_path  # noqa: PLC0415 - after the options were checked
    from tcelab.history.store import History  # noqa: PLC0415 - likewise

    return None if path is None and not default_path().exists() else stack.enter_context(History(path, create=False))


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
