"""Options that several verbs share: which guest, on which QEMU."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar, get_args

import click
import msgspec

from tcelab import userconfig
from tcelab.errors import UsageError
from tcelab.image.archive import VARIABLE
from tcelab.image.room import CACHE_SIZE, room
from tcelab.job import setup
from tcelab.job.platforms import NAMES, QEMU
from tcelab.job.recording import CoverageChoice
from tcelab.job.runoptions import RunOptions, Verb
from tcelab.program.topology import TOPOLOGIES, topology
from tcelab.qemu import machine
from tcelab.qemu.limits import Limits
from tcelab.run.record import Guarding
from tcelab.ssh.choice import SshChoice

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)
_LIMITS = ", ".join(f"{name}={value:g}" for name, value in msgspec.structs.asdict(Limits()).items())

archive_option = click.option(
    "--archive",
    metavar="URL",
    expose_value=False,
    callback=lambda _context, _option, url: os.environ.update({VARIABLE: url} if url else {}),
    help="Debian archive to fetch packages from; by default that of this host's apt.",
)


def _cache_size(_context: click.Context, _parameter: click.Parameter, text: str | None) -> None:
    """For this process and those that it starts."""
    if text is None:
        return
    try:
        userconfig.size(text)
    except ValueError as error:
        raise UsageError(f"--cache-size: {error}") from None
    os.environ[CACHE_SIZE] = text


_GUEST_OPTIONS = [
    archive_option,
    click.option(
        "--qemu", default=setup.DEFAULT_QEMU, show_default=True, help="A recipe's name, or a qemu-system-ppc64."
    ),
    click.option("--image", default=setup.DEFAULT_IMAGE, show_default=True, help="Recipe of the guest image."),
    click.option("--kernel", type=_FILE, help="A ppc64 vmlinux instead of the image's."),
    click.option(
        "--modules",
        type=_FILE,
        metavar="DIR",
        help="Modules of --kernel: lib/modules/RELEASE or a folder above; tce_hcall.ko alone if all else is built in.",
    ),
    click.option("--initrd", type=_FILE, help="An initrd with tcelab's agent instead of the image's."),
    click.option(
        "--mutant",
        default="",
        metavar="NAME",
        help="Rebuild the image's VFIO driver, or a kernel, with this fault, which must be found: see tcelab image"
        " mutants.",
    ),
    click.option(
        "--cure",
        "cures",
        multiple=True,
        metavar="NAME[,NAME]",
        callback=lambda _context, _option, given: tuple(name for each in given for name in each.split(",") if name),
        help="Rebuild the image's VFIO driver, or a kernel, without this quirk, which is then undeclared; all: without"
        " each that can be cured (tcelab image cures).",
    ),
    click.option("--append", default="", help="Append this to the kernel's command line."),
    click.option(
        "--memory", default=machine.MEMORY, show_default=True, metavar="MIB", help="Guest RAM, a multiple of 256."
    ),
    click.option(
        "--cpu",
        type=click.Choice(list(machine.CPUS)),
        default=machine.CPU,
        show_default=True,
        help="CPU of the guest; power8 and power9-hash have the hash MMU, all others the radix MMU.",
    ),
    click.option(
        "--firmware",
        type=click.Choice(["auto", "vof", "slof"]),
        default="auto",
        help="Firmware of the guest; auto: VOF where QEMU has it.",
    ),
    click.option(
        "--expect-quirk",
        "expect_quirks",
        multiple=True,
        metavar="NAME",
        help="Declare a known defect of the kernel, besides those that the image's recipe declares.",
    ),
    click.option(
        "--without-quirk",
        "without_quirks",
        multiple=True,
        metavar="NAME",
        help="Do not declare this defect of the image's recipe: it becomes a finding.",
    ),
    click.option(
        "--no-papr",
        "papr",
        is_flag=True,
        flag_value=False,
        default=True,
        help="Do not judge the law papr: for old kernels, which ask for what PAPR forbids.",
    ),
    click.option(
        "--cache-size",
        metavar="SIZE",
        expose_value=False,
        callback=_cache_size,
        help="Disk space for guests saved for forks, as in 8GB; by default that of config.toml.",
    ),
    click.option(
        "--limit",
        "limits",
        multiple=True,
        metavar="PHASE=SECONDS",
        help=f"Seconds without progress until a phase fails: {_LIMITS}.",
    ),
]

_OPTIONS = [
    *_GUEST_OPTIONS[:-1],
    click.option(
        "--topology",
        "topology_name",
        type=click.Choice(list(TOPOLOGIES)),
        default="two-pe",
        show_default=True,
        help="PHBs, devices and windows.",
    ),
    _GUEST_OPTIONS[-1],
]


platform_options = [
    click.option(
        "--platform",
        type=click.Choice(["qemu", "emulator"]),
        default="qemu",
        show_default=True,
        help="Run on a real kernel in a guest, or on the emulator of the driver.",
    ),
    click.option("--profile", default=setup.DEFAULT_PROFILE, show_default=True, help="Profile of the emulated driver."),
]

boot_option = click.option("--boot", is_flag=True, help="Boot a guest instead of forking a saved one.")


guard_option = click.option(
    "--guard",
    type=click.Choice(get_args(Guarding)),
    help="What to do about a DMA that a table forbids: isolate its PE, report it, nothing."
    " By default freeze for programs about isolation, else off.",
)


any_platform_option = click.option(
    "--platform",
    type=click.Choice(NAMES),
    default=QEMU,
    show_default=True,
    help="Run on a real kernel in a guest, on the emulator of the driver, or on a machine over ssh.",
)


def on_platforms(function: F) -> F:
    """Add the options that choose a platform: `platform`, and `profile` for `choice`."""
    for option in reversed(platform_options):
        function = option(function)
    return function


def on_any_platform(function: F) -> F:
    """As `on_platforms`, for a verb that does without views."""
    return any_platform_option(platform_options[1](function))


def machine_options(function: F) -> F:
    """Add the options to a command; it takes them as keyword parameters for `choice`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def guest_options(function: F) -> F:
    """`machine_options` of a verb that has a machine of its own."""
    for option in reversed(_GUEST_OPTIONS):
        function = option(function)
    return function


def choice(
    *,
    qemu: str,
    image: str,
    kernel: Path | None,
    modules: Path | None,
    initrd: Path | None,
    mutant: str,
    cures: tuple[str, ...],
    append: str,
    memory: int,
    cpu: Any,  # noqa: ANN401 - click.Choice has checked it
    firmware: Any,  # noqa: ANN401 - click.Choice has checked it
    topology_name: str = "two-pe",
    expect_quirks: tuple[str, ...] = (),
    without_quirks: tuple[str, ...] = (),
    profile: str = setup.DEFAULT_PROFILE,
    papr: bool = True,
) -> setup.MachineChoice:
    """The options as a choice.

    :raise UsageError: an option, or the user's config, cannot be.
    """
    room()
    return setup.MachineChoice(
        topology=topology(topology_name),
        qemu=qemu,
        image=setup.image_of(image, mutant, cures),
        kernel=kernel,
        modules=modules,
        initrd=initrd,
        mutant=mutant,
        cures=cures,
        memory=memory,
        cpu=cpu,
        firmware=firmware,
        append=append,
        profile=profile,
        expect_quirks=expect_quirks,
        without_quirks=without_quirks,
        papr=papr,
    )


def run_options(
    verb: Verb,
    target: str,
    *,
    topology_name: str,
    boot: bool,
    limits: tuple[str, ...],
    platform: str = QEMU,
    guard: Guarding | None = None,
    inject: str | None = None,
    passthrough: bool = False,
    ssh: SshChoice | None = None,
    against: Mapping[str, str | Path] = MappingProxyType({}),
    coverage: CoverageChoice | None = None,
    **machine: Any,  # noqa: ANN401 - click's options
) -> RunOptions:
    """All that a verb was told to do with a program.

    :raise UsageError: an option, or the user's config, cannot be.
    """
    return RunOptions(
        verb=verb,
        target=target,
        machine=choice(topology_name=topology_name, **machine),
        platform=platform,
        topology_name=topology_name,
        inject=inject,
        guard=guard,
        boot=boot,
        passthrough=passthrough,
        limits=limits,
        ssh=ssh,
        against=dict(against),
        coverage=coverage,
    )


def json_option(what: str) -> Callable[[F], F]:
    """The option `--json FILE`, given to the command as `json_to`.

    :param what: is written, for the help.
    """
    kind = click.Path(path_type=Path, allow_dash=True)
    return click.option("--json", "json_to", type=kind, help=f"Write {what} to this file as well; - is stdout.")


def tap_option(function: F) -> F:
    """Add the option `--tap FILE`, given to the command as `tap_to`."""
    kind = click.Path(path_type=Path, allow_dash=True)
    text = "Write the test cases as KTAP to this file as well; - is stdout."
    return click.option("--tap", "tap_to", type=kind, help=text)(function)


OF_SCENARIO: Final = "Wrong with a saved program, which has its own."


def seed_option(function: F) -> F:
    """Add the option of verbs that take a scenario or a program; they take `seed`."""
    text = f"Seed of the scenario; drawn and printed if not given. {OF_SCENARIO}"
    return click.option("--seed", type=click.IntRange(0), help=text)(function)


def with_help(option: click.Parameter, text: str) -> click.Option:
    """A copy of an option that several commands share, with a help text of its own."""
    option = copy(option)
    assert isinstance(option, click.Option)
    option.help = text
    return option


def topology_text(command: click.Command, text: str) -> None:
    """Say of the option --topology of a command what holds there.

    :param text: when it applies, and what holds without it.
    """
    (index,) = [i for i, each in enumerate(command.params) if each.name == "topology_name"]
    command.params[index] = option = with_help(command.params[index], f"PHBs, devices and windows. {text}")
    option.show_default = False
