"""What the fuzzer found: what makes two findings the same one, and the program that is shrunk and kept."""

from __future__ import annotations

import msgspec

from tcelab.emulator.session import EmulatorSession
from tcelab.errors import Interrupted
from tcelab.judge import Finding
from tcelab.papr import window
from tcelab.program import Checkpoint, Program
from tcelab.quirks import QUIRKS
from tcelab.run.loop import perform_program
from tcelab.scenarios import proof

Signature = tuple[str, str, str, str]


def survived(program: Program) -> bool:
    """The emulator does all of it, with every known defect. Whatever becomes of operations that shrinking left over, a
    real kernel is asked for nothing else.

    :raise Interrupted: somebody wants it to end.
    """
    page_size = next(iter(program.page_sizes), window.PAGE_SIZE)
    session = EmulatorSession(program.topology, quirks=QUIRKS, page_size=page_size)
    unseen = msgspec.structs.replace(program, ops=[op for op in program.ops if not isinstance(op, Checkpoint)])
    ending = perform_program(unseen, session).ending
    if ending is not None and isinstance(ending.error, Interrupted):
        raise Interrupted
    return ending is None


def to_save(program: Program) -> Program:
    """A shrunk program as it is kept: once what it shows is mended, it passes."""
    *ops, last = program.ops
    assert isinstance(last, Checkpoint)
    last = msgspec.structs.replace(last, stream=True)
    return msgspec.structs.replace(program, ops=[*ops, last, *proof.ops(program.topology)])


def named(finding: Finding) -> frozenset[str]:
    """Quirks that explain a finding."""
    return frozenset(filter(None, finding.quirk.split(", ")))


def signature(finding: Finding) -> Signature:
    """What makes two findings of different programs the same one."""
    outcome = finding.law in {"difference", "outcome"} and finding.ioba is None
    return (
        finding.law,
        finding.quirk,
        finding.expected if outcome else "",
        finding.seen if outcome else "",
    )


def until_step(program: Program, step: int) -> Program:
    """The program up to an operation, and a checkpoint after it."""
    ops = list(program.ops[: step + 1])
    if not isinstance(ops[-1], Checkpoint):
        ops.append(Checkpoint(label="after it"))
    return msgspec.structs.replace(program, ops=ops)
