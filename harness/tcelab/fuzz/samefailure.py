"""Does a smaller program still show the same failure? What the fuzzer asks of each candidate while it shrinks one."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.errors import Interrupted
from tcelab.judge import Finding, Verdict
from tcelab.judge.laws import handles
from tcelab.papr import window
from tcelab.program import Checkpoint, Program
from tcelab.quirks import QUIRKS
from tcelab.run.loop import perform_program

Signature = tuple[str, str, str, str]


def shows_again(finding: Finding, candidate: Program, judged: Callable[[Program], Verdict]) -> Finding | None:
    """The finding of a smaller program that is the same failure as `finding`; None if there is none.

    :param judged: runs a program on a fresh guest; called only with programs that a real kernel survives.
    :raise Interrupted: somebody wants it to end.
    """
    if not survived(candidate):
        return None
    wanted = signature(finding)
    return next((each for each in judged(candidate).findings if signature(each) == wanted), None)


def signature(finding: Finding) -> Signature:
    """Findings of different programs with equal signatures are the same failure."""
    outcome = finding.law in {"difference", "outcome"} and finding.ioba is None
    return (
        finding.law,
        finding.quirk,
        finding.expected if outcome else "",
        finding.seen if outcome else handles.wrong(finding),
    )


def survived(program: Program) -> bool:
    """The emulator, with every known defect, completes the program. Programs that fail this are never run on a real
    kernel, whatever shrinking left in them.

    :raise Interrupted: somebody wants it to end.
    """
    page_size = next(iter(program.page_sizes), window.PAGE_SIZE)
    session = EmulatorSession(program.topology, quirks=QUIRKS, page_size=page_size)
    unseen = msgspec.structs.replace(program, ops=[op for op in program.ops if not isinstance(op, Checkpoint)])
    ending = perform_program(unseen, session).ending
    if ending is not None and isinstance(ending.error, Interrupted):
        raise Interrupted
    return ending is None
