"""Makes the command that repeats a run, from the user's choice; no other module does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tcelab import image
from tcelab.commandline import typed
from tcelab.job import setup
from tcelab.job.platforms import QEMU
from tcelab.job.setup import OPTIONS
from tcelab.program import Program
from tcelab.qemu.limits import Limits
from tcelab.ssh.choice import SshChoice

ELSEWHERE: Final = {
    "topology": "a program brings its own",
    "isolates": "a program says so itself",
    "restarts": "a program says so itself",
    "loads": "a program says so itself",
    "guard": "said where it is not what a program like this one has by default",
}
"""Fields of a choice that have no such option, and why."""

_PATHS: Final = ("kernel", "modules", "initrd")
_DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(setup.MachineChoice)}


def line(
    verb: str,
    path: Path,
    choice: setup.MachineChoice,
    *,
    program: Program | None = None,
    platform: str = QEMU,
    boot: bool = False,
    limits: Limits | None = None,
    ssh: SshChoice | None = None,
    against: Mapping[str, Any] | None = None,
) -> str:
    """A line for a shell, right from any folder.

    :param verb: `run`, `diff` or `replay`.
    :param path: of the program's file.
    :param program: its content, which says whether its PEs are guarded.
    :param against: of a `diff`, the options of the second guest without their `against-`.
    """
    words = [verb, str(path.absolute())]
    words += [] if platform == QEMU else ["--platform", platform]
    words += [] if ssh is None else ssh.words()
    words += chosen(choice, of_a_guest=platform == QEMU)
    if program is not None and choice.guard != ("freeze" if program.isolation else "off"):
        words += ["--guard", choice.guard]
    for name, value in (against or {}).items():
        words += [f"--against-{name}", _spelled(name, value)]
    return typed([*words, *opening(limits, boot=boot)])


def of_scenario(
    name: str,
    seed: int,
    choice: setup.MachineChoice,
    *,
    platform: str,
    guard: str | None,
    lie: str | None,
    boot: bool,
    limits: Limits | None,
    ssh: SshChoice | None = None,
) -> str:
    """The line that runs a scenario again on each of its topologies.

    :param guard: as it was said; `lie`: what was injected.
    """
    words = ["run", name, "--seed", str(seed)]
    words += [] if platform == QEMU else ["--platform", platform]
    words += [] if ssh is None else ssh.words()
    words += chosen(choice, of_a_guest=platform == QEMU)
    for option, value in (("--guard", guard), ("--inject", lie)):
        words += [] if value is None else [option, value]
    return typed([*words, *opening(limits, boot=boot)])


def opening(limits: Limits | None, *, boot: bool) -> list[str]:
    """The options that say how a guest is opened."""
    usual = msgspec.structs.asdict(Limits())
    given = msgspec.structs.asdict(limits or Limits())
    words = [word for name, value in given.items() if value != usual[name] for word in _limit(name, value)]
    return [*(["--boot"] if boot else []), *words]


def chosen(choice: setup.MachineChoice, *, of_a_guest: bool = True) -> list[str]:
    """The options for a choice, without defaults.

    :param of_a_guest: also those that neither the emulator nor a machine over ssh knows.
    """
    words: list[str] = []
    for name, option in OPTIONS.items():
        value = getattr(choice, name)
        if value == _DEFAULTS[name] or not (of_a_guest or name in {"profile", "expect_quirks", "without_quirks"}):
            continue
        if isinstance(value, bool):
            words.append(option)
            continue
        for each in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            words += [option, _spelled(name, each)]
    return words


def _limit(name: str, value: float) -> Iterator[str]:
    yield "--limit"
    yield f"{name}={int(value) if value.is_integer() else value}"


def _spelled(name: str, value: Any) -> str:  # noqa: ANN401 - any option's
    """A value as text; paths become absolute."""
    if name in _PATHS:
        return str(Path(value).absolute())
    if name == "qemu" and value not in image.recipe_names() and (found := shutil.which(value)):
        return str(Path(found).absolute())
    return str(value)
