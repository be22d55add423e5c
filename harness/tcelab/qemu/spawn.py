"""Starts QEMU as a process that ends with tcelab."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import IO

from tcelab.errors import Unsupported
from tcelab.qemu import machine
from tcelab.qemu.probe import Abilities, Qemu, environment


async def spawned(  # noqa: PLR0917 - all that a process is made of
    qemu: Qemu,
    abilities: Abilities,
    options: machine.QemuOptions,
    fds: machine.Descriptors,
    folder: Path,
    said: IO[bytes],
) -> asyncio.subprocess.Process:
    """The process, just begun; its command line is in the folder's `qemu.cmd`.

    :param said: what it prints goes there.
    :raise Unsupported: it cannot be executed.
    """
    before, own = machine.parent_death(abilities)
    command = [*before, *qemu.argv]
    arguments = [*own, *machine.arguments(options, abilities, fds), *options.cover.option(qemu.argv, fds.coverage)]
    (folder / "qemu.cmd").write_text(machine.loggable(command, arguments) + "\n")
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=fds.all(),
            env=environment(qemu),
            start_new_session=True,  # Ctrl-C is the harness's to handle
        )
    except OSError as error:
        raise Unsupported(
            f"cannot execute {error.filename or command[0]}: {error.strerror}",
            next_step="see qemu.cmd there; setpriv comes with util-linux",
        ) from None
