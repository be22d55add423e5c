"""The options `--workers` and `--scheduler`, and the workers that they mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tcelab.cluster.address import scheduler
from tcelab.cluster.crew import Workers
from tcelab.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)
_OPTIONS = [
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Split the work among as many processes of this machine; with --scheduler, among as many workers at most.",
    ),
    click.option(
        "--scheduler",
        metavar="tls://HOST:PORT",
        help="Split the work among the workers of a dask scheduler; tcp:// only on this machine.",
    ),
    click.option("--tls-ca", type=_FILE, metavar="FILE", help="Certificate of who signed those of --scheduler."),
    click.option("--tls-cert", type=_FILE, metavar="FILE", help="Certificate for --scheduler."),
    click.option("--tls-key", type=_FILE, metavar="FILE", help="Key of --tls-cert."),
]


def worker_options(function: F) -> F:
    """Add the options to a command; `workers` takes them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def workers(options: dict[str, Any]) -> Workers | None:
    """Take the options out of all that were given. None: neither of them was.

    :raise UsageError: they cannot be.
    """
    count, address = options.pop("workers"), options.pop("scheduler")
    files = [options.pop(name) for name in ("tls_ca", "tls_cert", "tls_key")]
    if address is not None:
        return Workers(count, scheduler(address, *files))
    if any(files):
        raise UsageError("--tls-ca, --tls-cert and --tls-key are about --scheduler", next_step="give that too")
    return None if count is None else Workers(count, None)
