"""`tcelab replay`: a saved program, again."""

from __future__ import annotations

from typing import Final

import click

from tcelab.cli.run import command as run

_ABOUT: Final = """Run a saved program (program.json of a run, a finding of fuzz) on a guest, or with --platform
emulator on the emulator, and judge it.

Exit codes as for run.
"""

command = click.Command(
    "replay",
    callback=run.callback,
    params=[click.Argument(["target"], metavar="PROGRAM.json|RUNFOLDER"), *run.params[1:]],
    help=_ABOUT,
)
