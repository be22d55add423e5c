"""The law of evidence."""

from __future__ import annotations

from typing import Final

from tcelab.judge import advice
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.program import Checkpoint, Program
from tcelab.program.parts import parts
from tcelab.run.record import RunRecord

LAW: Final = Law(
    "evidence",
    says="the run is complete and every view asked for was seen",
    needs="the end of the run",
    finds="checks that all was done, seen and proven; if not, the verdict is could-not-judge",
)


_REAL: Final = {"qemu", "ssh"}
"""Platforms with a real kernel."""
_NO_VIEW: Final = {"tables": "this platform has no view of them"}
"""In place of the reasons that a platform without views does not give."""


def evidence(ledger: Ledger, run: RunRecord) -> None:
    """A pass needs positive evidence: a complete run, both views, a tag proven. Silence is never a pass.

    Where nobody looks from outside, it is a pass only if nothing else than the behaviour was asked for.
    """
    evidence = ledger.evidence
    ledger.judged("evidence")
    if run.facts.platform in _REAL and not evidence.laws["difference"].judged:
        ledger.undecided_because("nothing was compared with the emulator")
    if run.program.isolation and not run.facts.isolates:
        ledger.undecided_because("the program is for a platform that isolates PEs, and this one was not asked to")
    if run.facts.isolates and not evidence.laws["isolation"].judged:
        ledger.undecided_because("no operation showed whether a PE was isolated")
    if run.ending is None and len(run.steps) < len(run.program.ops):
        ledger.undecided_because(f"only {len(run.steps)} of {len(run.program.ops)} operations were done")
    if run.facts.views:
        _views(ledger, run)
    elif not run.facts.behaviour_only:
        for what, why in (run.facts.cannot or _NO_VIEW).items():
            ledger.undecided_because(f"not seen: {what}: {why}")


def _views(ledger: Ledger, run: RunRecord) -> None:
    evidence = ledger.evidence
    unseen = unseen_operations(run.program)
    if unseen is not None:
        ledger.undecided_because(
            f"nobody looked after operation {unseen}: a program must end with a checkpoint, {advice.LOOK}"
        )
    for view in run.facts.views:
        if not evidence.steps.get(view):
            ledger.undecided_because(
                _with(f"no checkpoint was judged by the {view} view", advice.for_view(run.program, view))
            )
    if not evidence.tags and not run.program.test:  # a test need not map anything
        ledger.undecided_because(_with("no live entry was proven by its tag", advice.for_tags(run.program)))


def _with(reason: str, what_to_add: str) -> str:
    return f"{reason}: {what_to_add}" if what_to_add else reason


def unseen_operations(program: Program) -> int | None:
    """Number of the first operation that no checkpoint on its guest follows, None if there is none."""
    for part in parts(program):
        last = max((i for i, op in enumerate(part.ops) if isinstance(op, Checkpoint)), default=-1)
        if last < len(part.ops) - 1:
            return part.first + last + 1
    return None
