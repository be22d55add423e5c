"""`tcelab replay`: a saved program, again."""

from __future__ import annotations

from typing import Final

import click

from tcelab.cli.options import with_help
from tcelab.cli.run import command as run

_ABOUT: Final = """Run a saved program (program.json of a run, a finding of fuzz) on a guest, or with --platform
emulator on the emulator, and judge it.

Exit codes as for run.
"""
_OWN: Final = {
    "seed": "Wrong with a saved program, which has its own seed: only for a scenario's name in its place.",
    "topology_name": "Wrong with a saved program, which has its own topology: only for a scenario's name in its place.",
}


def _as_here(option: click.Parameter) -> click.Parameter:
    """An option of `run`, with what its help must say of a saved program."""
    return with_help(option, _OWN[option.name]) if option.name in _OWN else option


command = click.Command(
    "replay",
    callback=run.callback,
    params=[click.Argument(["target"], metavar="PROGRAM.json|RUNFOLDER"), *map(_as_here, run.params[1:])],
    help=_ABOUT,
)
