"""Options that say which machine is judged over ssh, and how it is reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from tcelab.errors import UsageError
from tcelab.job.platforms import SSH
from tcelab.program.topology import PROBE
from tcelab.ssh.choice import PORT, PYTHON, SshChoice

F = TypeVar("F", bound=Callable[..., Any])

_FILE: Final = click.Path(path_type=Path)
_OPTIONS: Final = [
    click.option("--host", default="", metavar="HOST", help="With --platform ssh: the machine that is judged."),
    click.option("--port", type=int, default=PORT, show_default=True, help="With --platform ssh: its sshd's port."),
    click.option("--user", default="", metavar="NAME", help="With --platform ssh: who logs in; by default as here."),
    click.option(
        "--key",
        "keys",
        type=_FILE,
        multiple=True,
        metavar="FILE",
        help="With --platform ssh: a private key; by default the ssh agent's keys and those in ~/.ssh.",
    ),
    click.option(
        "--host-key",
        type=_FILE,
        metavar="FILE",
        help="With --platform ssh: the machine's host key, as its .pub file or as lines of known_hosts;"
        " by default the user's known_hosts. A key that is not known is never accepted.",
    ),
    click.option(
        "--jump",
        "jumps",
        multiple=True,
        metavar="[USER@]HOST[:PORT]",
        help="With --platform ssh: go by this machine; several: in this order.",
    ),
    click.option(
        "--python",
        default=PYTHON,
        show_default=True,
        metavar="COMMAND",
        help="With --platform ssh: the agent's Python there, 3.9 or newer; 'sudo -n python3' where root cannot log in.",
    ),
    click.option(
        "--device",
        "devices",
        multiple=True,
        metavar="probe|[NAME=]ADDRESS",
        help=f"probe: what does DMA is tcelab's own process on the host, which is told each change of a table (topology"
        f" {PROBE}). With --platform ssh: which PCI device is that of the topology, in its order or by its name;"
        " by default those at the places that they have in a guest of tcelab's own."
        " A device that has another driver than vfio-pci is left alone.",
    ),
    click.option(
        "--behaviour-only",
        is_flag=True,
        help="With --platform ssh: ask for the laws alone that need no view from outside; without it there is no pass.",
    ),
    click.option(
        "--exclusive",
        is_flag=True,
        help="With --platform ssh: nobody else uses the machine, so its page pins can be judged.",
    ),
    click.option(
        "--ask-password",
        is_flag=True,
        help="With --platform ssh: ask for a password, or for the key's passphrase, at the terminal.",
    ),
]
_NAMES: Final = tuple(SshChoice.__struct_fields__)


def ssh_options(function: F) -> F:
    """Add the options to a command; `take` takes them out again."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take(options: dict[str, Any], *, probed: bool = False) -> SshChoice | None:
    """The choice, taken out of a command's options; None on other platforms.

    :param probed: the option --device was about another thing.

    :raise UsageError: they were given for another platform.
    """
    given = {name: options.pop(name) for name in _NAMES}
    if options["platform"] == SSH:
        return SshChoice(**given)
    context = click.get_current_context()
    names = {*_NAMES} - ({"devices"} if probed else set())
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            step = f"add --platform {SSH}, or leave it out"
            if parameter.name == "devices":
                step += f"; --device {PROBE} is a device of a guest of tcelab's own"
            raise UsageError(f"{parameter.opts[0]} is about a machine over ssh", next_step=step)
    return None
