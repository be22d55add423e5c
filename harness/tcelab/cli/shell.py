"""`tcelab shell`: a guest's console, for a person."""

from __future__ import annotations

import sys
from typing import Any

import click

from tcelab.cli.options import boot_option, choice, machine_options
from tcelab.errors import UsageError
from tcelab.job import artefacts, setup
from tcelab.job.output import note
from tcelab.qemu.fork import opened
from tcelab.qemu.interact import interact
from tcelab.qemu.limits import limits as limits_of
from tcelab.qemu.network import ssh_port


@click.command("shell")
@machine_options
@boot_option
def command(limits: tuple[str, ...], *, boot: bool, **options: Any) -> None:  # noqa: ANN401 - click's options
    """Boot or fork a guest with its agent and devices ready, and give you its console. Ctrl-] ends it."""
    if not sys.stdin.isatty():
        raise UsageError("tcelab shell needs a terminal", next_step="for scripts: tcelab run")
    bounds = limits_of(limits)
    ready = setup.prepare(choice(**options))
    folder = artefacts.folder(None)
    with opened(ready.qemu, ready.options, folder, digest=ready.digest, limits=bounds, boot=boot) as session:
        if ready.options.network:
            note(f"port {ssh_port(session)} of 127.0.0.1 leads to the guest's port 22")
        note("the guest is ready; Ctrl-] leaves")
        interact(session)
