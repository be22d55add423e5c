"""The law of the kernel's own words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tcelab.errors import GuestLost, TcelabError, died
from tcelab.judge import blame
from tcelab.judge.finding import Finding
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger, operation_text
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


def ended(ledger: Ledger, fold: Fold, trouble: Iterable[str], error: TcelabError | None, in_flight: int | None) -> None:
    """What the kernel said after the last checkpoint; or, in its place, that it died, for those lines are of its death.

    :param error: that ended the run, or the part of it, early.
    :param in_flight: number of the operation that was begun and not finished, if known.
    """
    if error is None or not died(error):
        kernel_said(ledger, fold, trouble)
        return
    what = operation_text(ledger.program, in_flight) or "an operation that is not known"
    # Not the console's last line: that may be anybody's.
    said = (error.said if isinstance(error, GuestLost) else "") or "nothing on its console"
    message = f"the kernel died during {what}: {error.message}"
    ledger.report("kernel", "died", message, expected="alive", seen=said, operation=in_flight)


def died_before(ledger: Ledger, error: TcelabError, part: int) -> None:
    """It died once its agent had answered, and before the part of the program began that it was to do."""
    if died(error):
        ledger.report("kernel", ("died before", part), f"the kernel died before its program began: {error.message}")


def died_alone(error: TcelabError) -> list[Finding]:
    """The same, and there is no run at all: the finding, if it is one."""
    seen = "\n".join(error.scene.console[-1:])
    return [Finding(law="kernel", step=0, message=error.message, expected="alive", seen=seen)] if died(error) else []
