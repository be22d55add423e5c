"""Which programs can be run where nobody looks, or acts, from outside."""

from __future__ import annotations

from typing import Final

from tcelab.errors import UsageError
from tcelab.program import AtOnce, Buffer, Ddw, DmaBind, Flip, LifeOp, Native, Op, Program, Rtas
from tcelab.run.record import Guarding

_ON_A_GUEST: Final = (
    "leave it out, or run it on a guest of tcelab's own (--platform qemu);"
    " behaviour, flow, batches, rules and hcalls have none"
)
_OUTSIDE: Final[dict[type[Op], str]] = {
    Flip: "it changes a table in QEMU's memory",
    Rtas: "firmware is asked through QEMU",
    Ddw: "firmware is asked through QEMU",
    AtOnce: "there one operation is done after the other",
    DmaBind: "a driver that tcelab's own image has takes the device, and nobody sees its tables",
    Native: "it runs a program that tcelab's own image has",
}
"""Operations that nobody can do there, and why. A checkpoint can be passed: it is not seen, and that is told."""


def expect_possible(program: Program, guard: Guarding) -> None:
    """Before anything runs.

    :raise UsageError: an operation that needs who is outside, or a guard that does.
    """
    if program.isolation or guard != "off":
        raise UsageError(
            f"program {program.name!r} is about the isolation of PEs: over ssh nobody sees a violation, or isolates",
            next_step="run it on a guest of tcelab's own: --platform qemu",
        )
    for number, op in enumerate(program.ops):
        why = _OUTSIDE.get(type(op), "")
        if isinstance(op, LifeOp):
            why = "the host makes the machine live through it"
        if isinstance(op, Buffer) and op.huge:
            why = "it changes how many huge pages the machine keeps"
        if why:
            raise UsageError(
                f"operation {number} ({type(op).__name__.lower()}) cannot be done over ssh: {why}",
                next_step=_ON_A_GUEST,
            )
