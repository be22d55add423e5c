"""Files that a verb is asked to write besides what it prints: checked before the work, written after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from tcelab.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def json_option(what: str) -> Callable[[F], F]:
    """The option `--json FILE`, given to the command as `json_to`.

    :param what: is written, for the help.
    """
    kind = click.Path(path_type=Path, allow_dash=True)
    return click.option("--json", "json_to", type=kind, help=f"Write {what} there too; - is stdout.")


def to_stdout(path: Path | None) -> bool:
    return path is not None and str(path) == "-"


def check(option: str, path: Path | None) -> None:
    """:raise UsageError: no file can be written there."""
    if path is None or to_stdout(path):
        return
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.absolute().parent}")
    if path.is_dir():
        raise UsageError(f"{option} {path}: that is a folder")


def write(data: bytes, to: Path) -> None:
    """Write to a file, or to standard output."""
    if not to_stdout(to):
        to.write_bytes(data)
        return
    with reader_may_leave():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """`tcelab run | head` must end with the verdict's exit code; rich ends the program when its reader leaves."""
    try:
        yield
    except (BrokenPipeError, SystemExit):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
