"""The law of outcomes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger, op_name
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.requests import request_name
from tcelab.judge.models.rounds import calls_done
from tcelab.papr import dmarules
from tcelab.program import Burst, Ddw, Dma, DmaMove, Doorbell, Engine, Ioctl, Repeat, Rtas, Together
from tcelab.program.expected import WENT
from tcelab.run.record import Outcome, Step

LAW: Final = Law(
    "outcome",
    says="each operation gave the value or errno that the program expects",
    needs="an operation that says what it expects",
    finds="compares its value or errno with that, as soon as it is done",
)


def outcome(ledger: Ledger, _fold: Fold, step: Step, got: Outcome) -> None:
    """An operation gave what the program expects of it: `"ok"`, an errno's name, or an exact number.

    For a transfer expected to pass or to be refused, only that it ended; `went` judges the rest.
    """
    expected = step.op.expect
    if expected is None:
        return
    ledger.judged("outcome")
    if as_expected(step, got):
        return
    seen = got.errno or f"value {got.value}"
    if isinstance(step.op, Repeat):
        calls = got.fields.get("calls")
        seen += f" after {calls} call{'' if calls == 1 else 's'}"
    ledger.report(
        "outcome",
        step.number,
        f"operation {step.number} ({op_name(step.op)}) gave {seen}, expected {expected}",
        expected=str(expected),
        seen=seen,
        operation=step.number,
    )


def as_expected(step: Step, got: Outcome) -> bool:
    """Did an operation give what it expects?"""
    expected = step.op.expect
    if isinstance(expected, int):
        return got.value == expected and not got.errno
    if expected != "ok" and expected not in WENT:
        return got.errno == expected
    if isinstance(step.op, Repeat):
        return got.value == 0 and not got.errno and calls_done(step.op, got) is not None
    if isinstance(step.op, Dma | Together | Burst | Doorbell | Engine | Rtas | Ddw | DmaMove):
        return got.value == 0 and not got.errno
    if got.errno or not isinstance(step.op, Ioctl):
        return not got.errno
    makes_file = bool(step.op.into) or request_name(step.op.request) == "GROUP_GET_DEVICE_FD"
    return got.value is not None and (got.value >= 0 if makes_file else got.value == 0)


def went(ledger: Ledger, fold: Fold, step: Step, got: Outcome) -> None:
    """A transfer that ended was passed or refused as a whole, as the program expects. Call it after the operation is
    folded in: the fold says which pieces pass. Other laws prove that the device did just that.
    """
    expected = step.op.expect
    if expected not in WENT or not as_expected(step, got):
        return
    pieces = [piece for transfer in fold.transfers.done for piece in transfer]
    whole = fold.transfers.quick[1] + len(pieces)
    refused = sum(bool(piece.refused) for piece in pieces)
    if not whole:
        ledger.undecided_because(f"nobody knows what became of the transfer of operation {step.number}")
        return
    if expected == "passed":
        to_be, against, why = "pass", refused, _refusal
        seen = _all_or_part("refused", refused, whole)
    else:
        to_be, against, why = "be refused", whole - refused, _passage
        seen = _all_or_part("passed", whole - refused, whole)
    if against:
        each = "the transfer" if isinstance(step.op, Dma | DmaMove) else "each transfer"
        ledger.report(
            "outcome",
            step.number,
            f"operation {step.number} ({op_name(step.op)}): {each} must {to_be}; {why(pieces)} ({seen})",
            expected=str(expected),
            seen=seen,
            operation=step.number,
        )


def _all_or_part(what: str, count: int, whole: int) -> str:
    return f"all {what}" if count == whole else f"{count} of {whole} pieces {what}"


def _refusal(pieces: Collection[dmarules.Piece]) -> str:
    """Why the first refused piece is refused."""
    first = next(piece for piece in pieces if piece.refused)
    why = "no permission" if first.refused == dmarules.PERMISSION else first.refused
    who = "its table refuses it" if first.refused in {dmarules.NO_ENTRY, dmarules.PERMISSION} else "it is refused"
    return f"{who}: {why} at IOBA {first.iova:#x}"


def _passage(pieces: Collection[dmarules.Piece]) -> str:
    """Where the first passing piece passes; of pieces that are only counted, the place is unknown."""
    first = next((f" at IOBA {piece.iova:#x}" for piece in pieces if not piece.refused), "")
    return f"its table lets it through{first}"
