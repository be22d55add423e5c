"""The law of the kernel's console and its death."""

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
    """Since the last checkpoint, the kernel printed no WARN, BUG or Oops that no declared quirk explains."""
    ledger.judged("kernel")
    kernel_said(ledger, fold, seen.snapshot.console)


def kernel_said(ledger: Ledger, fold: Fold, lines: Iterable[str]) -> None:
    """Each line of trouble on the console is a finding, unless a declared quirk explains it; some quirks
    explain it once per guest. The comparison with the emulator checks that such a line came where it must, and only
    there.
    """
    for line in lines:
        if not declared(line, fold.facts.quirks, fold.warned):
            message = f"the kernel said, {blame.between(ledger)}: {line}"
            ledger.report("kernel", (ledger.step, line), message, seen=line, operation=blame.kernel(ledger))


def ended(ledger: Ledger, fold: Fold, trouble: Iterable[str], error: TcelabError | None, in_flight: int | None) -> None:
    """Judge the lines after the last checkpoint; or, if the kernel died, report its death, to which they belong.

    :param error: what ended the run, or its part, early.
    :param in_flight: number of the operation that had begun and not ended, if known.
    """
    if error is None or not died(error):
        kernel_said(ledger, fold, trouble)
        return
    what = operation_text(ledger.program, in_flight) or "an unknown operation"
    # Not the console's last line: that need not be about the death.
    said = (error.said if isinstance(error, GuestLost) else "") or "nothing on its console"
    message = f"the kernel died during {what}: {error.message}"
    ledger.report("kernel", "died", message, expected="alive", seen=said, operation=in_flight)


def died_before(ledger: Ledger, error: TcelabError, part: int) -> None:
    """Report a kernel that died after its agent had answered and before its part of the program began."""
    if died(error):
        ledger.report("kernel", ("died before", part), f"the kernel died before its program began: {error.message}")


def died_alone(error: TcelabError) -> list[Finding]:
    """The finding if the kernel died before there was a run; empty if the error is not a death."""
    seen = "\n".join(error.scene.console[-1:])
    return [Finding(law="kernel", step=0, message=error.message, expected="alive", seen=seen)] if died(error) else []
