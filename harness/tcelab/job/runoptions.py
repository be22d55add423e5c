"""What a command is asked to do with a program: one typed set, which is passed on whole and prints itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from tcelab.errors import UsageError
from tcelab.job.platforms import QEMU, SSH
from tcelab.job.recording import CoverageChoice
from tcelab.job.setup import MachineChoice
from tcelab.passthrough import possible
from tcelab.program import ENDS_KERNEL, Load, Program
from tcelab.program.validate import validate
from tcelab.qemu.limits import Limits
from tcelab.qemu.limits import limits as limits_of
from tcelab.run.record import Guarding
from tcelab.ssh.choice import SshChoice
from tcelab.ssh.hostless import expect_possible

Verb = Literal["run", "diff", "watch", "table"]

_LEFT_OUT: Final[dict[Verb, frozenset[str]]] = {
    "run": frozenset({"against"}),
    "diff": frozenset({"inject", "guard", "profile", "passthrough"}),
    "watch": frozenset({"inject", "profile", "against", "passthrough"}),
    "table": frozenset({"inject", "guard", "against", "passthrough"}),
}
"""Options that a verb does not have; its results omit them."""
_OF_THE_PROGRAM: Final = frozenset({"topology", "isolates", "guard", "restarts", "loads"})
"""Fields of a machine that its program determines; they are in the result's `program`, and are no options."""


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Made by a verb from its command line; `settle` makes it fit a program.

    :ivar target: as it was typed: a scenario's name, a file or a folder.
    :ivar machine: what it is run on, with its defaults filled in.
    :ivar topology_name: as it was asked for; a program from a file brings its own.
    :ivar inject: the lie that is to be told, if any.
    :ivar guard: as given, None if not given; the effective guard is `machine.guard`.
    :ivar boot: boot the guest anew.
    :ivar passthrough: the device was to be passed through; what counts is the program's topology.
    :ivar limits: as they were said, each `PHASE=SECONDS`.
    :ivar ssh: which machine; None on other platforms.
    :ivar coverage: what is recorded of the kernel's code; None: nothing.
    :ivar against: in which options the machine differs that `diff` compares with; empty: it is the emulator.
    """

    verb: Verb
    target: str
    machine: MachineChoice
    platform: str = QEMU
    topology_name: str = "two-pe"
    inject: str | None = None
    guard: Guarding | None = None
    boot: bool = False
    passthrough: bool = False
    limits: tuple[str, ...] = ()
    ssh: SshChoice | None = None
    against: Mapping[str, str | Path] = {}
    coverage: CoverageChoice | None = None

    def bounds(self) -> Limits:
        """The limits as numbers.

        :raise UsageError: no such phase, or no number.
        """
        return limits_of(self.limits)

    def other_machine(self) -> MachineChoice | None:
        """What `diff` compares with, if it is a guest. A driver that is changed is compared with the unchanged one."""
        return msgspec.structs.replace(self.machine, mutant="", cures=(), **self.against) if self.against else None

    def recorded(self) -> dict[str, Any]:
        """The options for `result.json`: by name, all that the verb has."""
        said = msgspec.structs.asdict(self)
        del said["verb"], said["machine"], said["ssh"], said["coverage"]
        machine = msgspec.structs.asdict(self.machine)
        said |= {name: value for name, value in machine.items() if name not in _OF_THE_PROGRAM}
        if self.ssh is not None:
            said["ssh"] = msgspec.structs.asdict(self.ssh)
        if self.coverage is not None:
            said["coverage"] = msgspec.structs.asdict(self.coverage)
        return {name: value for name, value in said.items() if name not in _LEFT_OUT[self.verb]}


def settle(program: Program, options: RunOptions) -> tuple[Program, RunOptions]:
    """A program as it will be run, checked, and the options for it: its own topology, and who guards its PEs.

    To ask for the guard `freeze` is to have a program for a platform that isolates.

    :raise UsageError: an operation that cannot be done, or not under that guard.
    """
    isolates = program.isolation or options.guard == "freeze"
    guard = options.guard or ("freeze" if isolates else "off")
    program = msgspec.structs.replace(program, isolation=isolates)
    validate(program, guarded=guard != "off")
    if options.platform == SSH:
        expect_possible(program, guard)
    if program.topology.nested:
        if options.platform != QEMU:
            raise UsageError(
                f"program {program.name!r} is for a guest with pass-through: --platform {options.platform} has none",
                next_step="leave --platform out",
            )
        if options.coverage is not None:
            raise UsageError(
                f"program {program.name!r} is for a guest with pass-through, and --coverage is about an ordinary one",
                next_step="leave --coverage out",
            )
        possible.expect_possible(program, options.verb)
    machine = msgspec.structs.replace(
        options.machine,
        topology=program.topology,
        isolates=isolates,
        guard=guard,
        restarts=any(isinstance(op, ENDS_KERNEL) for op in program.ops),
        loads=tuple(sorted({op.qemu for op in program.ops if isinstance(op, Load) and op.qemu})),
    )
    return program, msgspec.structs.replace(options, machine=machine)
