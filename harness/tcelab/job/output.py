"""Files that a verb is asked to write besides what it prints: checked before the work, written after it."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from tcelab.commandline import spelled
from tcelab.errors import HarnessError, UsageError
from tcelab.job.keeping import Keeper
from tcelab.run import exitcode


def note(line: str) -> None:
    """Print a line of progress to standard error."""
    click.echo(spelled(line), err=True)


def to_stdout(path: Path | None) -> bool:
    return path is not None and str(path) == "-"


def check(option: str, path: Path | None) -> None:
    """:raise UsageError: no file can be written there."""
    if path is None or to_stdout(path):
        return
    try:
        if not path.absolute().parent.is_dir():
            raise UsageError(f"{option} {path}: there is no folder {path.absolute().parent}")
        if path.is_dir():
            raise UsageError(f"{option} {path}: that is a folder")
        _try(path)
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be written: {error.strerror}") from None


def check_files(**files: Path | None) -> bool:
    """Check the files that a verb was asked to write, by the names of their options.

    :return: one of them is standard output: what is for people goes to standard error.
    :raise UsageError: one cannot be written, or two are the same.
    """
    given = {f"--{name}": path for name, path in files.items() if path is not None}
    for option, path in given.items():
        check(option, path)
    if len(set(given.values())) < len(given):
        raise UsageError(f"{' and '.join(given)} name the same file: {next(iter(given.values()))}")
    return any(map(to_stdout, given.values()))


def _try(path: Path) -> None:
    """Open it for writing, and leave it as it was. A pipe or a device is not opened twice.

    :raise OSError: it cannot be written.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except FileExistsError:
        if path.is_file():
            os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        elif not path.exists():  # a link to a file that is not there yet
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
            path.resolve().unlink()
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
    else:
        path.unlink()


def write(data: bytes, to: Path) -> None:
    """Write to a file, or to standard output.

    :raise HarnessError: the file cannot be written; no half of it is left.
    """
    if to_stdout(to):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        to.write_bytes(data)
    except OSError as error:
        if to.is_file():
            to.unlink()
        raise HarnessError(f"cannot write {to}: {error.strerror}", next_step="make room there") from None


def deliver(data: bytes, to: Path | None, code: int) -> int:
    """Write the requested file, after the verdict was printed.

    :param code: of the verdict.
    :return: the exit code: a finding stands, and a pass that could not be delivered is none, which is said last.
    """
    if to is None:
        return code
    try:
        write(data, to)
    except HarnessError as error:
        note(error.report())
        untold = exitcode.of_untold(code)
        if not code:
            click.echo(f"COULD NOT JUDGE (exit code {untold}): {to} was to tell it, and could not be written")
        return untold
    return code


def unkept(text: Console, keeper: Keeper) -> None:
    """Print a line about files that could not be written, after the verdict."""
    if line := keeper.lost():
        text.print(Text(line, "yellow"), soft_wrap=True, highlight=False)
