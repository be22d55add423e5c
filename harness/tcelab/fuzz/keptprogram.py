"""The program of a finding: the form that is shrunk, and the form that is saved."""

from __future__ import annotations

import msgspec

from tcelab.program import Checkpoint, Program
from tcelab.scenarios import proof


def until_step(program: Program, step: int) -> Program:
    """The program up to an operation, and a checkpoint after it."""
    ops = list(program.ops[: step + 1])
    if not isinstance(ops[-1], Checkpoint):
        ops.append(Checkpoint(label="after it"))
    return msgspec.structs.replace(program, ops=ops)


def to_save(program: Program) -> Program:
    """A shrunk program in its saved form: it passes once the defect is fixed."""
    *ops, last = program.ops
    assert isinstance(last, Checkpoint)
    last = msgspec.structs.replace(last, stream=True)
    return msgspec.structs.replace(program, ops=[*ops, last, *proof.ops(program.topology)])
