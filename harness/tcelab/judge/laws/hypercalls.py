"""The law of hypercalls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.hypercallmodel import HypercallModel
from tcelab.program import Hcall, HcallBatch
from tcelab.run.record import Outcome, Step
from tcelab.run.serialorder import Place

LAW: Final = Law(
    "hypercalls",
    says="hypercalls return what the tables hold, and succeed only inside an existing window, never from user mode",
    needs="the operation hcall or hcallbatch",
    finds="compares status and registers with what the tables hold, and folds what succeeded into them; calls that were"
    " made at once, in an order that explains what they left: there must be one",
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


def serial(ledger: Ledger, fold: Fold, contradiction: Sequence[Place]) -> None:
    """What hypercalls that were made at once have left is what some order of them would have left.

    :param contradiction: entries that no order explains together.
    """
    if not contradiction:
        return
    places = [f"LIOBN {liobn:#x} IOBA {fold.tables[liobn].ioba(number):#x}" for liobn, number in contradiction]
    liobn, number = contradiction[0]
    ledger.report(
        "hypercalls",
        (ledger.step, *contradiction),
        f"no order of the hypercalls that were made at once explains these entries together: {', '.join(places)}",
        liobn=liobn,
        ioba=fold.tables[liobn].ioba(number),
        expected="what one call after the other would leave",
        seen="parts of calls",
        operation=blame.table(ledger),
    )
