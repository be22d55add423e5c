"""The law of what PAPR forbids a kernel to ask for."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.hypercallmodel import INDIRECT, NUMBERS, STUFF, calls_of
from tcelab.judge.models.requests import request_name
from tcelab.papr import conductrules, hcallnumbers
from tcelab.program import Call, Ddw, Hcall, HcallBatch, Ioctl
from tcelab.quirks import NOTHING_DIRECT
from tcelab.run.conduct import Breach, Conduct
from tcelab.run.record import Outcome, Snapshot, Step

LAW: Final = Law(
    "papr",
    says="the kernel asks for nothing that PAPR forbids, though QEMU may let it pass",
    needs="a checkpoint, and QEMU's trace of hypercalls",
    finds="holds each H_STUFF_TCE, H_PUT_TCE_INDIRECT and request for a window, from the boot on, against PAPR (512"
    " entries in a call; page and size of a window as the query offered; no IOBA amidst a page; no reserved bits);"
    " exactly the calls that the program itself makes are exempt",
)

_NAMES: Final = {number: name for name, number in NUMBERS.items()}
_PAGES, _LIOBN, _IOBA = 3, 0, 1
"""Arguments of a hypercall."""


@dataclass(slots=True)
class _Own:
    """A call that the program makes.

    :ivar ioba: None where nobody knows it.
    :ivar entries: that it names; of a window, log2 of its bytes, 0 where nobody knows them.
    :ivar times: how often it may yet be met.
    """

    ioba: int | None
    entries: int
    times: int


class PaprLaw:
    """The law, and what the program asked for itself since the last checkpoint."""

    def __init__(self) -> None:
        self._own: defaultdict[tuple[str, int | None], list[_Own]] = defaultdict(list)
        self._heard = self._told = False

    def operation(self, fold: Fold, step: Step, outcome: Outcome) -> None:
        """Note what an operation of the program asks for."""
        match step.op:
            case Hcall() | HcallBatch() if not outcome.errno:
                times = step.op.times if isinstance(step.op, HcallBatch) else 1
                for call in calls_of(step.op):
                    self._call(call, times)
            case Ioctl() if request_name(step.op.request) == "SPAPR_TCE_CREATE":
                # The kernel passes on what its caller asks for.
                if step.op.value is not None:
                    self._own[conductrules.CREATE, None].append(_Own(None, 0, 1))
                size = fold.number(step.op.fields.get("window_size", 0)) or 0
                shift = fold.number(step.op.fields.get("page_shift", 0)) or 0
                self._own[conductrules.CREATE, shift].append(_Own(None, max(size - 1, 0).bit_length(), 1))
            case Ddw(call="create"):
                self._own[conductrules.CREATE, step.op.page_shift].append(_Own(None, step.op.window_shift, 1))

    def _call(self, call: Call, times: int) -> None:
        number = hcallnumbers.NAMES.get(call.opcode, 0) if isinstance(call.opcode, str) else call.opcode
        words = [each if isinstance(each, int) else None for each in (*call.args, 0, 0, 0, 0)]
        if number in {STUFF, INDIRECT}:
            own = _Own(words[_IOBA], words[_PAGES] or 0, times)
            self._own[_NAMES[number], words[_LIOBN]].append(own)

    def checkpoint(self, ledger: Ledger, fold: Fold, snapshot: Snapshot) -> None:
        """Judge what was asked for since the last checkpoint."""
        if fold.facts.papr == "off":
            ledger.evidence.papr.off = 1
        if snapshot.conduct is not None and fold.facts.papr == "heard":
            self._judge(ledger, fold, snapshot.conduct)
        self._own.clear()

    def end(self, ledger: Ledger, fold: Fold) -> None:
        """Each kernel empties its tables when it boots: where no call was heard, nobody listens."""
        if fold.facts.papr == "heard" and self._heard and not self._told:
            ledger.undecided_because(
                "QEMU's trace tells of no H_STUFF_TCE and no H_PUT_TCE_INDIRECT, not even in the boot, so nobody knows"
                " what the kernel asks for; with --no-papr that is not judged"
            )

    def _judge(self, ledger: Ledger, fold: Fold, conduct: Conduct) -> None:
        count = ledger.evidence.papr
        self._heard = True
        self._told = self._told or any(name in NUMBERS for name in conduct.calls)
        for name, times in conduct.calls.items():
            count.calls[name] = count.calls.get(name, 0) + times
            ledger.judged("papr", times)
        for breach, times in conduct.breaches:
            own = self._exempt(breach, times)
            count.programs += own
            if own < times and not _declared(breach, fold):
                _report(ledger, breach, times - own)

    def _exempt(self, breach: Breach, times: int) -> int:
        """How many of the calls are the program's own; they are met no more."""
        met = 0
        if breach.boot:
            return 0
        of = breach.page_shift if breach.call == conductrules.CREATE else breach.liobn
        for own in (*self._own.get((breach.call, of), ()), *self._own.get((breach.call, None), ())):
            if _is(breach, own):
                taken = min(own.times, times - met)
                own.times -= taken
                met += taken
        return met


def _is(breach: Breach, own: _Own) -> bool:
    """May a breach be a call that the program made?"""
    if breach.call == conductrules.CREATE:
        return own.entries in {0, breach.window_shift}
    same = breach.ioba is None or own.ioba is None or breach.ioba >> breach.page_shift == own.ioba >> breach.page_shift
    # Of a list that was not stored to its end, the trace tells fewer entries.
    return same and (breach.entries == own.entries or (breach.call != "H_STUFF_TCE" and breach.entries <= own.entries))


def _declared(breach: Breach, fold: Fold) -> bool:
    """Does a declared quirk explain it? The comparison with the emulator counts it."""
    nothing = breach.call == conductrules.CREATE and breach.window_shift == 0 and fold.facts.limit == 0
    return nothing and NOTHING_DIRECT in fold.facts.quirks


def _report(ledger: Ledger, breach: Breach, times: int) -> None:
    first = "in its boot" if breach.boot else blame.between(ledger)
    often = f"{times:,} times" if times > 1 else "once"
    window = breach.call == conductrules.CREATE
    where = "" if window else f"LIOBN {breach.liobn:#x}" + ("" if breach.ioba is None else f" IOBA {breach.ioba:#x}")
    what = f"{breach.call} {'for' if window else 'of'} {breach.why}"
    ledger.report(
        "papr",
        (breach.call, breach.liobn, breach.entries, breach.why),
        f"{where + ': ' if where else ''}the kernel made an {what} ({often}, {first})",
        liobn=breach.liobn,
        ioba=breach.ioba,
        expected=f"{conductrules.MOST} entries at most" if breach.entries > conductrules.MOST else "what PAPR allows",
        seen=breach.why,
        operation=None if breach.boot else blame.kernel(ledger),
    )
