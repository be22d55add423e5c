"""`tcelab shell`: a guest's console, for a person."""

from __future__ import annotations

import sys
from typing import Any

import click

from tcelab import artefacts, setup
from tcelab.cli import note
from tcelab.cli.options import choice, machine_options
from tcelab.errors import UsageError
from tcelab.qemu.interact import interact
from tcelab.qemu.limits import limits as limits_of
from tcelab.qemu.session import QemuSession


@click.command("shell")
@machine_options
def command(limits: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401 - click's options
    """Boot a guest, its agent and devices ready, and give its console to you. Ctrl-] leaves and ends it."""
    if not sys.stdin.isatty():
        raise UsageError("tcelab shell needs a terminal", next_step="for scripts: tcelab run")
    bounds = limits_of(limits)
    ready = setup.prepare(choice(**options), note)
    with QemuSession(
        ready.qemu, ready.options, artefacts.folder(None), limits=bounds, digest=ready.digest, note=note
    ) as session:
        note("the guest is ready; Ctrl-] leaves")
        interact(session)
