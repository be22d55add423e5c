"""The law of hypercalls."""

from __future__ import annotations

from typing import Final

from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.hypercallmodel import HypercallModel
from tcelab.program import Hcall, HcallBatch
from tcelab.run.record import Outcome, Step

LAW: Final = Law(
    "hypercalls",
    says="hypercalls return what the tables hold, and succeed only inside an existing window, never from user mode",
    needs="the operation hcall or hcallbatch",
    finds="compares status and registers with what the tables hold, and folds what succeeded into them",
)


def law(ledger: Ledger, hypercalls: HypercallModel, step: Step, outcome: Outcome) -> None:
    """Hypercalls return what the tables hold, and succeed only for the kernel and inside an existing window."""
    if not isinstance(step.op, Hcall | HcallBatch) or outcome.errno:
        return
    ledger.judged("hypercalls", max(hypercalls.judged, 1))
    for number, wrong in enumerate(hypercalls.wrong):
        ledger.report(
            "hypercalls",
            (step.number, number),
            f"{wrong.message}: expected {wrong.expected}, seen {wrong.seen}",
            liobn=wrong.liobn,
            ioba=wrong.ioba,
            expected=wrong.expected,
            seen=wrong.seen,
            operation=step.number,
        )
