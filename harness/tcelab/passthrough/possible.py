"""Which programs can be done in L2."""

from __future__ import annotations

from typing import Final

import msgspec

from tcelab.errors import UsageError
from tcelab.passthrough.innerqemu import check
from tcelab.program import (
    AtOnce,
    Buffer,
    Ddw,
    DmaBind,
    Hcall,
    HcallBatch,
    Ioctl,
    LifeOp,
    Native,
    Op,
    Program,
    kvmcalls,
)
from tcelab.program.topology import Topology

VERBS: Final = ("run",)
"""That have such a guest."""

_LEAVE: Final = (
    "leave it out, or run the program without --passthrough; flow, batches, dma, hcalls and isolation have none"
)
_NOT_YET: Final[dict[type[Op], str]] = {
    Ddw: "the host would ask firmware for L1's window, of which L2 knows nothing",
    AtOnce: "L2 has one CPU",
    DmaBind: "L2's own drivers are not tried yet",
    Native: "its measurements are of one level",
}


def nest(topology: Topology) -> Topology:
    """A topology whose device is passed through.

    :raise UsageError: L1's QEMU does not bear it.
    """
    check(topology)
    return msgspec.structs.replace(topology, nested=True)


def expect_possible(program: Program, verb: str) -> None:
    """Before anything runs.

    :raise UsageError: a verb that has no such guest; an operation that is not done in L2; a hypercall for which KVM
        has a rule of its own.
    """
    if verb not in VERBS:
        raise UsageError(
            f"program {program.name!r} is for a guest with pass-through, and {verb} has none",
            next_step="use tcelab run",
        )
    check(program.topology)
    for number, op in enumerate(program.ops):
        if why := _why(op, program.topology):
            raise UsageError(
                f"operation {number} ({type(op).__name__.lower()}) cannot be done with --passthrough: {why}",
                next_step=_LEAVE,
            )


def _why(op: Op, topology: Topology) -> str:
    if isinstance(op, LifeOp):
        return "no event in the life of L1's table is tried yet"
    if isinstance(op, Buffer) and op.huge:
        return "L1 backs L2's RAM by small pages"
    if isinstance(op, Ioctl) and op.request == "TCE_CREATE":
        return "L2 has no second window yet"
    if isinstance(op, Hcall | HcallBatch) and (rule := kvmcalls.own_rule(op, topology, judged=False)):
        return f"{rule.case}: {rule.why}"
    return _NOT_YET.get(type(op), "")
