"""The law of doorbells."""

from __future__ import annotations

from typing import Final

from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.fold import Fold
from tcelab.program import Doorbell
from tcelab.run.record import Outcome, Step

LAW: Final = Law(
    "doorbells",
    says="a probe that is rung by the guest tells it what was refused, has read what is there, and sends one MSI",
    needs="a doorbell",
    finds="compares the counts, errno, bus address and CRC-32 that a doorbell gave with those of the fold, and the MSIs"
    " that came with the one that had to",
)


def doorbells(ledger: Ledger, fold: Fold, step: Step, got: Outcome) -> None:
    """A doorbell tells what the table of its PE lets through. Call it after the operation is folded in.

    A device that may not master the bus sends no MSI, and an isolated one can tell nothing.
    """
    rung = fold.transfers.rung
    if not isinstance(step.op, Doorbell) or got.errno or rung is None:
        return
    ledger.judged("doorbells")
    if refusal := got.fields.get("no_interrupt"):
        ledger.undecided_because(f"the kernel gave no MSI to the doorbell of operation {step.number}: {refusal}")
    expected: dict[str, int | None] = dict.fromkeys(rung.fields()) if rung.unreachable else {**rung.fields()}
    if step.op.interrupt and not refusal:
        expected["interrupts"] = rung.interrupts
    for name, wanted in expected.items():
        seen = got.fields.get(name)
        if seen == wanted:
            continue
        sides = tuple("nothing" if each is None else f"{each:#x}" for each in (wanted, seen))
        ledger.report(
            "doorbells",
            (step.number, name),
            f"the doorbell of operation {step.number} tells {name} {sides[1]}; expected {sides[0]}",
            expected=sides[0],
            seen=sides[1],
            operation=step.number,
        )
