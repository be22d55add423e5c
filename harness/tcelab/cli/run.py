"""`tcelab run`: one program on one guest, or one scenario on each of its topologies, judged."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from click.core import ParameterSource
from rich.console import Console

from tcelab import report, scenarios
from tcelab.cli.coverageoptions import coverage_options, enough, recorded
from tcelab.cli.options import (
    OF_SCENARIO,
    boot_option,
    guard_option,
    json_option,
    machine_options,
    on_any_platform,
    run_options,
    seed_option,
    tap_option,
    topology_text,
)
from tcelab.cli.sshoptions import ssh_options, take
from tcelab.errors import UsageError
from tcelab.job import output, platforms
from tcelab.job.job import FILES, Job
from tcelab.job.runoptions import RunOptions, settle
from tcelab.job.series import Series
from tcelab.passthrough.possible import nest
from tcelab.program import Program, inject, load
from tcelab.program.topology import PASSTHROUGH, PROBE, topology
from tcelab.run.record import Guarding

_SEEDS: Final = 1 << 32
_OUTPUT: Final = frozenset({"out", "json_to", "tap_to", "keep"})
"""Parameters of the command that say nothing of what is run."""


def _scenario_list() -> str:
    return "; ".join(f"{name}: {each.about}" for name, each in scenarios.SCENARIOS.items())


@click.command("run", epilog=f"Scenarios: {_scenario_list()}.")
@click.argument("target", default="", metavar="[SCENARIO|PROGRAM.json|RUNFOLDER]")
@on_any_platform
@ssh_options
@machine_options
@guard_option
@seed_option
@click.option(
    "--passthrough",
    is_flag=True,
    help="Pass the device through to a guest inside the guest, by KVM and VFIO, and run in that one.",
)
@click.option("--inject", "lie", type=click.Choice(inject.LIES), help="Self-test: inject a fault that must be found.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for artefacts; new or empty.")
@json_option("result.json")
@tap_option
@boot_option
@coverage_options
@click.option("--keep", is_flag=True, help="Leave the guest running after the verdict, and give its console to you.")
def command(
    target: str,
    seed: int | None,
    lie: str | None,
    out: Path | None,
    json_to: Path | None,
    *,
    tap_to: Path | None,
    guard: Guarding | None,
    boot: bool,
    keep: bool,
    passthrough: bool,
    limits: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - click's options
) -> None:
    """Run a scenario or a program on a guest, and judge it: the scenario main by default, over ssh behaviour.

    Exit codes: 0 pass, 1 finding, 2 wrong usage, 125 could not judge.
    """
    if keep and options["platform"] != platforms.QEMU:
        raise UsageError(f"--keep is about a guest of tcelab's own: {options['platform']} gives no console")
    if keep and not sys.stdin.isatty():
        raise UsageError("--keep needs a terminal: it gives the guest's console to you")
    piped = output.check_files(json=json_to, tap=tap_to)
    asked, programs = planned(
        target, seed, lie, guard=guard, boot=boot, passthrough=passthrough, limits=limits, **options
    )
    pairs = [settle(program, asked) for program in programs]
    if keep and len(pairs) > 1:
        raise UsageError("--keep is about one guest", next_step=f"name one: --topology {pairs[0][0].topology.name}")
    # The text goes where the files do not.
    text = Console(stderr=piped)
    work = Series(pairs, asked, out, text) if len(pairs) > 1 else Job(*pairs[0], out, text)
    try:
        if isinstance(work, Series):
            work.perform()
        else:
            work.perform(keep=keep)
    except KeyboardInterrupt:
        if work.result is None:
            raise  # else it was judged: an interrupt while all is put away changes nothing
    assert work.result is not None
    code = output.deliver(report.to_json(work.result), json_to, work.result.verdict.exit_code)
    code = output.deliver(report.ktap(work.result), tap_to, code)
    raise click.exceptions.Exit(enough(asked.coverage, work.result.coverage, code))


def check(context: click.Context) -> None:
    """Would a command line be run?

    :param context: its own.
    :raise UsageError: no.
    """
    said = {name: value for name, value in context.params.items() if name not in _OUTPUT}
    with context.scope(cleanup=False):
        asked, programs = planned(**said)
        for program in programs:
            settle(program, asked)


def planned(
    target: str,
    seed: int | None,
    lie: str | None,
    *,
    guard: Guarding | None,
    boot: bool,
    passthrough: bool,
    limits: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - click's options
) -> tuple[RunOptions, list[Program]]:
    """What the command line asks for: its options, and a program for each topology, which `settle` checks.

    :raise UsageError: something of it is wrong, or cannot be had together.
    """
    probed = _asks_for_probes(options)
    ssh, coverage = take(options, probed=probed), recorded(options)
    if not typed("target"):
        target = scenarios.OVER_SSH if options["platform"] == platforms.SSH else scenarios.DEFAULT
    if passthrough and (probed or coverage):
        raise UsageError(
            f"--passthrough is about a guest inside the guest, {'--device' if probed else '--coverage'} about an"
            " ordinary one",
            next_step="give one of them",
        )
    where, names = _topologies(target, options, probed=probed, passthrough=passthrough)
    programs = [program_of(target, seed, lie, where, passthrough=passthrough)]
    if len(names) > 1:
        programs = [program_of(target, programs[0].seed, lie, name) for name in names]
    options |= {"guard": guard, "inject": lie, "ssh": ssh, "coverage": coverage}
    asked = run_options("run", target, boot=boot, limits=limits, passthrough=passthrough, **options)
    if passthrough:
        asked = msgspec.structs.replace(asked, topology_name=programs[0].topology.name)
    return asked, programs


def _usual() -> str:
    """On which topologies scenarios are run, if none is named."""
    by: dict[tuple[str, ...], list[str]] = {}
    for name, scenario in scenarios.SCENARIOS.items():
        by.setdefault(scenario.topologies, []).append(name)
    told = [
        f"{', '.join(names)}: {', '.join(each)}{' in turn' * (len(each) > 1)}" for each, names in by.items() if each
    ]
    return "; ".join(["two-pe", *told])


topology_text(command, f"{OF_SCENARIO} By default {_usual()}.")


def _asks_for_probes(options: dict[str, Any]) -> bool:
    """Whether `--device probe` was said, which is no address."""
    return bool(options["platform"] != platforms.SSH and options["devices"] == (PROBE,))


def _with_probes(target: str, platform: str) -> str:
    """The topology of `--device probe`.

    :raise UsageError: the program has its own, the user has named another, or there is no QEMU.
    """
    if typed("topology_name"):
        raise UsageError(f"--device probe has a topology of its own: {PROBE}", next_step="leave --topology out")
    if target not in scenarios.SCENARIOS:
        raise UsageError(f"--device is about a scenario, and {target} is a program, which has its own devices")
    if platform != platforms.QEMU:
        raise UsageError(f"a probe is a device of QEMU: --device probe is not for --platform {platform}")
    return PROBE


def _topologies(
    target: str, options: dict[str, Any], *, probed: bool, passthrough: bool
) -> tuple[str, tuple[str, ...]]:
    """The first topology, and all of them in turn; none: there is one alone."""
    if probed:
        options["topology_name"] = _with_probes(target, str(options["platform"]))
    names = () if probed or passthrough else _several(target)
    if passthrough and not typed("topology_name"):
        return PASSTHROUGH.name, ()
    return names[0] if names else str(options["topology_name"]), names


def _several(target: str) -> tuple[str, ...]:
    """The topologies of a scenario that is run on several, unless the user named one."""
    scenario = scenarios.SCENARIOS.get(target)
    return () if scenario is None or typed("topology_name") else scenario.topologies


def typed(name: str) -> bool:
    """Did the user say that parameter of the command?"""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def program_file(path: Path) -> Path:
    """The program's file: of the folder of a run, that of its program.

    :raise UsageError: a folder without one.
    """
    if not path.is_dir():
        return path
    if (path / FILES["program"]).is_file():
        return path / FILES["program"]
    inside = sorted(
        str(each.relative_to(path)) for each in (*path.glob("*/program.json"), *path.glob("finding-?.json"))
    )
    raise UsageError(
        f"{path} is no folder of one run: it has no {FILES['program']}",
        next_step=f"name one of those in it: {', '.join(inside)}" if inside else "give a file, or a scenario's name",
    )


def program_of(
    target: str, seed: int | None, lie: str | None, topology_name: str, *, passthrough: bool = False
) -> Program:
    """A scenario's program; or that of a file, or of the folder of a run. `settle` checks its operations.

    :param passthrough: its device is to be passed through.
    :raise UsageError: no scenario of that name, a file that is no program, or an option that such a program ignores.
    """
    if target not in scenarios.SCENARIOS and (target.endswith(".json") or os.sep in target or Path(target).is_dir()):
        for name, option in {"seed": "--seed", "topology_name": "--topology"}.items():
            if typed(name):
                raise UsageError(
                    f"{option} is about a scenario, and {target} is a program, which has its own",
                    next_step=f"leave {option} out",
                )
        program = load(program_file(Path(target)))
        if passthrough:
            program = msgspec.structs.replace(program, topology=nest(program.topology))
    else:
        drawn = secrets.randbelow(_SEEDS) if seed is None else seed
        place = PASSTHROUGH if topology_name == PASSTHROUGH.name else topology(topology_name)
        program = scenarios.build(target, nest(place) if passthrough else place, drawn)
    return inject.flip(program) if lie == "flip" else program
