"""The law of the kernel's own words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.consolelines import declared
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.reading import TableReading

LAW: Final = Law(
    "kernel",
    says="no WARN, BUG, Oops or panic",
    needs="the console",
    finds="reports each line of trouble that no declared quirk explains, and the death of a kernel that was up",
)


def kernel(ledger: Ledger, fold: Fold, seen: TableReading) -> None:
    """The kernel said no WARN, BUG or Oops on its console since the last checkpoint, but what a declared quirk makes it
    say.
    """
    ledger.judged("kernel")
    kernel_said(ledger, fold, seen.snapshot.console)


def kernel_said(ledger: Ledger, fold: Fold, lines: Iterable[str]) -> None:
    """Lines of trouble on the console are findings, each: but those that a declared quirk makes it say, some only
    once on a guest. That it said it where it must, and only there, the comparison with the emulator tells.
    """
    for line in lines:
        if not declared(line, fold.facts.quirks, fold.warned):
            message = f"the kernel said, {blame.between(ledger)}: {line}"
            ledger.report("kernel", (ledger.step, line), message, seen=line, operation=blame.kernel(ledger))
