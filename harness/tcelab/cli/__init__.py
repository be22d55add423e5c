"""The command `tcelab`. Each verb is a module that is imported only when it is called: `--help` stays fast.

- `bench`: `tcelab bench`
- `commandspage`: `docs/commands.md`, made from the commands
- `coverage`: `tcelab coverage`
- `coverageoptions`: options that record what is executed of the kernel
- `diff`: `tcelab diff`
- `doctor`: `tcelab doctor`
- `export`: `tcelab export`
- `fuzz`: `tcelab fuzz`
- `fuzzsplit`: `tcelab fuzz --workers`
- `history`: `tcelab history`
- `image`: `tcelab image`
- `leakcheck`: `tcelab leakcheck`
- `nightly`: `tcelab nightly`
- `options`: options that several verbs share
- `replay`: `tcelab replay`
- `report`: `tcelab report`
- `run`: `tcelab run`
- `runs`: `tcelab runs`
- `shell`: `tcelab shell`
- `sshoptions`: options that say which machine is judged over ssh, and how it is reached
- `streams`: standard output and standard error that may be closed or full
- `table`: `tcelab table`
- `watch`: `tcelab watch`
- `workeroptions`: options that say who does the work
"""

from __future__ import annotations

import importlib
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

import click

import tcelab
from tcelab import logs
from tcelab.cli import streams
from tcelab.commandline import spelled
from tcelab.errors import TcelabError, meant
from tcelab.run import exitcode

VERBS: Final = {
    "run": "Run a scenario or a program on a guest or on the emulator, and judge it.",
    "diff": "Run a program on a guest, and compare it with the emulator or with another guest.",
    "fuzz": "Make random programs, run them on guests, and shrink each difference.",
    "replay": "Run a saved program, on either platform.",
    "watch": "Run a program, or attach to a run in another terminal, and show its tables live.",
    "table": "Write TCE tables to a file, and compare two of them.",
    "leakcheck": "Run a command on the kernel's own drivers, and report the TCEs that it leaves.",
    "coverage": "Add up what runs executed of their kernels, and compare it with others.",
    "doctor": "Check this host: what works, what is missing, and the fix.",
    "runs": "List, show and remove the folders of runs.",
    "nightly": "Run a matrix of cells on all cores: QEMUs, kernels, CPUs, topologies, scenarios, seeds.",
    "history": "List nights, compare two, and tell since when a finding is there.",
    "report": "Write a report on a run or a night as one HTML file.",
    "export": "Write a program as a C file that needs nothing of tcelab.",
    "image": "Build, list and clean guest images and QEMU builds.",
    "shell": "Give you a guest's console; Ctrl-] ends it.",
    "bench": "Measure, side by side in one run.",
}
"""Verb to its one-line help, in the order of `tcelab --help`."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"tcelab.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        _talkative(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and (hint := meant(args[0], VERBS)):
            ctx.fail(f"No such command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _more(_context: click.Context, _option: click.Parameter, times: int) -> None:
    logs.verbose(times)


_verbose = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=_more,
    help="Show what tcelab does, -vv each step of it; log.txt in a run's folder has all of it anyway.",
)


def _talkative(command: click.Command) -> None:
    """Have -v also after the verb, and after a verb's verb."""
    if all(each.name != "verbose" for each in command.params):
        _verbose(command)
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        _talkative(each)


class Lines:
    """The display of a command that has no other: lines on standard error."""

    def note(self, text: str) -> None:
        """See `tcelab.logs.Display`."""
        click.echo(spelled(text), err=True)

    phase = note


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes of run: 0 pass, 1 finding, 2 wrong usage, 125 could not judge.",
)
@click.version_option(tcelab.__version__, prog_name="tcelab")
@_verbose
def cli() -> None:
    """Tests the POWER paravirtual IOMMU (sPAPR TCE) end to end, without POWER hardware."""


def main() -> NoReturn:
    """The entry point: whatever goes wrong ends in lines that a person can use, and in an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    with streams.tolerant() as told, logs.shown_on(Lines()):
        code = _code()
    sys.exit(told.code(code))


def _code() -> int:
    try:
        return int(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        error.show()
        return exitcode.WRONG_USAGE
    except TcelabError as error:
        click.echo(error.report(), err=True)
        return exitcode.of_error(error)
    except (KeyboardInterrupt, click.Abort) as interrupt:
        click.echo("tcelab: interrupted", err=True)
        return exitcode.of_error(interrupt)
    except Exception as error:  # noqa: BLE001 - an error of ours is no finding, whatever it is
        import traceback  # noqa: PLC0415 - never on the way to --help

        click.echo(f"{traceback.format_exc()}tcelab: internal error, please report it", err=True)
        return exitcode.of_error(error)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """A time limit of CI is an interrupt as well: everything is closed and written down."""
    raise KeyboardInterrupt
