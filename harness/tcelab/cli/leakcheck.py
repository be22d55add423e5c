"""`tcelab leakcheck -- COMMAND`: does a command, run on the kernel's own drivers, leave mappings behind?"""

from __future__ import annotations

import re
import shlex
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console

import tcelab
from tcelab.cli.coverageoptions import coverage_options, enough, recorded
from tcelab.cli.options import boot_option, choice, guest_options, json_option, tap_option
from tcelab.commandline import typed as typed_line
from tcelab.errors import GuestLost, HarnessError, Interrupted, TcelabError, UsageError, died
from tcelab.job import artefacts, output, replayline, setup
from tcelab.job.keeping import Keeper
from tcelab.job.output import note
from tcelab.job.recording import Recording, kept, onto
from tcelab.leakcheck import drivers
from tcelab.leakcheck.check import LeakCheck, LeakPlan
from tcelab.leakcheck.leakresult import LeakResult
from tcelab.leakcheck.tracefollower import LIMIT
from tcelab.program.topology import DRIVERS
from tcelab.qemu.driven import DrivenGuest
from tcelab.qemu.fork import opened
from tcelab.qemu.limits import Limits
from tcelab.qemu.limits import limits as limits_of
from tcelab.report.junit import junit_of_leak_check
from tcelab.report.ktap import ktap_of_leak_check
from tcelab.report.leakchecktext import render
from tcelab.run.resultfile import to_json

NOT_FOUND: Final = 127
"""Status of a shell that does not find what it is to run."""
FILES: Final = {"command": "command.log", "junit": "junit.xml"}
"""What is in the folder, beside result.json and what QEMU leaves."""
_SECONDS: Final = click.FloatRange(0, min_open=True)


@click.command("leakcheck")
@click.argument("words", nargs=-1, metavar="[-- COMMAND...]")
@guest_options
@click.option("--timeout", type=_SECONDS, default=300.0, show_default=True, help="Seconds that COMMAND may take.")
@click.option(
    "--settle",
    type=_SECONDS,
    default=5.0,
    show_default=True,
    help="Seconds after COMMAND in which entries may still be removed.",
)
@click.option("--any-status", is_flag=True, help="Judge a COMMAND that fails like one that succeeds.")
@click.option("--any-direction", is_flag=True, help="Do not compare entries with what drivers asked the DMA API for.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for artefacts; new or empty.")
@json_option("result.json")
@tap_option
@boot_option
@coverage_options
def command(
    words: tuple[str, ...],
    timeout: float,
    settle: float,
    out: Path | None,
    json_to: Path | None,
    *,
    tap_to: Path | None,
    any_status: bool,
    any_direction: bool,
    boot: bool,
    limits: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - click's options
) -> None:
    """Run COMMAND in a guest whose kernel drives a disk (/dev/vda, virtio-blk) and a network card (eth0, e1000), and
    report each entry of a TCE table that it leaves. Without COMMAND a built-in exercise drives both, in both
    directions, with transfers of up to 4 MiB.

    The baseline is taken once both drivers are bound and the interface is up, so rings that live as long as the driver
    are no leaks. Several words are a command and its arguments; a single word is a line for the guest's shell. The
    guest's gateway, 10.0.2.2, answers a ping; nothing else can be reached. Exit codes: 0 no leak; 1 a leak, or a law
    of the tables is broken; 2 wrong usage, or the guest does not have COMMAND; 125 could not judge, for example because
    COMMAND failed.
    """
    covered = recorded(options)
    line = typed(words) if words else drivers.exercise(DRIVERS.driven)
    bounds = limits_of(limits)
    piped = output.check_files(json=json_to, tap=tap_to)
    chosen = msgspec.structs.replace(choice(**options), topology=DRIVERS)
    setup.check(chosen)
    asked = {"any_status": any_status, "any_direction": any_direction}
    plan = LeakPlan(
        command=line,
        title="" if words else "the built-in exercise",
        limit=timeout,
        settle=settle,
        expect_entries=0 if words else LIMIT,
        any_size=not chosen.papr,
        **asked,
    )
    told = options | {"timeout": timeout, "settle": settle, **asked, "boot": boot}
    result, recording = LeakResult(tcelab=tcelab.__version__, command=line, options=told), Recording.of(covered, bounds)
    ready = onto(recording, setup.prepare(chosen))
    result.versions["provenance"] = ready.provenance
    folder = artefacts.folder(out)
    keeper = Keeper(folder)
    began = time.monotonic()

    def work() -> None:
        with opened(ready.qemu, ready.options, folder, digest=ready.digest, limits=bounds, boot=boot) as session:
            result.versions |= session.facts.versions
            result.timings["start"] = round(time.monotonic() - began, 3)
            check = LeakCheck(DrivenGuest(session, DRIVERS), plan)
            try:
                check.perform()
            except GuestLost as error:
                if not died(error):
                    raise
                check.died(error)
            finally:
                check.fill(result)
                keeper.write(FILES["command"], "".join(f"{each}\n" for each in check.output).encode())

    with keeper.log():
        interrupted = _guarded(work, result)
    if words and not any_status:
        expect_command(words, result)
    result.timings["whole"] = round(time.monotonic() - began, 3)
    result.replay = _again(words, chosen, told, bounds)
    result.artefacts = dict(FILES)
    result.coverage = kept(recording, keeper)
    verdict = result.conclude()
    keeper.write("result.json", data := to_json(result))
    keeper.write(FILES["junit"], junit_of_leak_check(result, verdict))
    text = Console(stderr=piped)
    render(text, result, verdict, folder)
    output.unkept(text, keeper)
    code = output.deliver(data, json_to, enough(covered, result.coverage, result.exit_code))
    code = output.deliver(ktap_of_leak_check(result, verdict), tap_to, code)
    if interrupted and not result.findings:
        raise KeyboardInterrupt
    raise click.exceptions.Exit(code)


def typed(words: tuple[str, ...]) -> str:
    """The line for the guest's shell.

    :raise UsageError: there is nothing to run.
    """
    if not words[0].strip():
        raise UsageError("nothing to run: tcelab leakcheck -- COMMAND...")
    return words[0] if len(words) == 1 else shlex.join(words)


def expect_command(words: tuple[str, ...], result: LeakResult) -> None:
    """:raise UsageError: the guest has no such command, and nothing was found."""
    first = words[0].split()[0]
    missing = re.compile(rf"(^|[\s:]){re.escape(first)}: (command )?not found$")
    unknown = result.status == NOT_FOUND and any(missing.search(line) for line in result.output)
    if unknown and not result.findings:
        raise UsageError(f"command not found in the guest: {first}", next_step="tcelab shell shows what it has")


def _again(words: tuple[str, ...], chosen: setup.MachineChoice, told: dict[str, Any], limits: Limits) -> str:
    """The command that does the same again."""
    own = [word for name in ("timeout", "settle") for word in (f"--{name}", f"{told[name]:g}")]
    own += [
        f"--{name.replace('_', '-')}" for name, value in told.items() if value is True and name not in {"boot", "papr"}
    ]
    guest = [*replayline.chosen(chosen), *replayline.opening(limits, boot=told["boot"])]
    return typed_line(["leakcheck", *guest, *own, *(["--", *words] if words else [])])


def _guarded(work: Callable[[], None], result: LeakResult) -> bool:
    """Whatever goes wrong is a reason for no pass, and the result is told all the same.

    :return: somebody wanted it to end.
    """
    try:
        work()
    except UsageError:
        raise
    except KeyboardInterrupt:
        result.could_not.append(Interrupted().message)
        return True
    except TcelabError as error:
        note(error.report())
        result.could_not.append(error.message)
        return isinstance(error, Interrupted)
    except Exception as error:  # noqa: BLE001 - an error of ours is no finding, and takes none away
        note(f"{traceback.format_exc()}tcelab: internal error, please report it")
        result.could_not.append(HarnessError(f"internal error: {error!r}").message)
    return False
