"""The law of release: what a guest leaves that owned a device, once the QEMU that ran it has ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tcelab.judge.finding import Finding
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.consolelines import warned_in
from tcelab.judge.models.hypercallmodel import INDIRECT, SUCCESS, calls_of
from tcelab.papr import tce
from tcelab.program import Call, Hcall, HcallBatch, Tce
from tcelab.program.operations import Op
from tcelab.quirks import LIST_KEEPS, QUIRKS
from tcelab.run.record import Facts, Outcome, Parting, RunRecord, Step, TableView

LAW: Final = Law(
    "release",
    says="when the QEMU of a guest that owned a device has ended, nothing of the guest is left",
    needs="`--passthrough`",
    finds="ends L1's QEMU after the program, and reports live entries and windows in L0's tables, page pins, and what"
    " L1's kernel says",
)

_PERMISSIONS: Final = tce.READ | tce.WRITE
_FURTHER: Final = 0xFFF & ~_PERMISSIONS
_QUIRK: Final = QUIRKS[LIST_KEEPS]


def release(ledger: Ledger, run: RunRecord) -> None:
    """Judge what was left, if it was looked for."""
    parting = run.parting
    if parting is None:
        return
    if parting.problem:
        ledger.undecided_because(parting.problem)
        return
    ledger.judged("release")
    for table in parting.tables:
        _empty(ledger, table, parting)
    culprit = next((step for step in run.steps if keeps(step.op, step.outcome, run.facts)), None)
    kept = culprit is not None and LIST_KEEPS in run.facts.quirks
    if culprit is not None and kept:
        ledger.evidence.quirks[LIST_KEEPS] = ledger.evidence.quirks.get(LIST_KEEPS, 0) + 1
    _pins(ledger, parting, culprit, kept=kept)
    _said(ledger, parting, culprit, kept=kept)


def keeps(op: Op, outcome: Outcome | None, facts: Facts) -> bool:
    """Has an operation entered a TCE without permissions from a list, by KVM? Its page's use is counted, and no call
    takes the count back (arch/powerpc/kvm/book3s_64_vio.c, kvmppc_h_put_tce_indirect). A list with a TCE that is too
    hard for KVM is QEMU's as a whole.
    """
    if outcome is None or not isinstance(op, Hcall | HcallBatch):
        return False
    statuses = [outcome.value] if isinstance(op, Hcall) else outcome.fields.get("statuses", [])
    return any(
        status == SUCCESS and call.opcode in {INDIRECT, "H_PUT_TCE_INDIRECT"} and _list_keeps(call, facts.ram)
        for call, status in zip(calls_of(op), statuses, strict=False)
    )


def _list_keeps(call: Call, ram: int) -> bool:
    (count,) = call.args[3:4] or (0,)
    words = (call.tces or [])[: count if isinstance(count, int) else 0]
    return not any(_hard(word, ram) for word in words) and any(not _bits(word) & _PERMISSIONS for word in words)


def _bits(word: int | Tce) -> int:
    return word.permissions | word.plus if isinstance(word, Tce) else word & 0xFFF


def _hard(word: int | Tce, ram: int) -> bool:
    """Too hard for KVM (kvmppc_tce_validate); a page of a buffer is the guest's own."""
    bits = _bits(word)
    outside = isinstance(word, int) and word & ~0xFFF >= ram
    return bool(bits & _PERMISSIONS) and (bool(bits & _FURTHER) or outside)


def _empty(ledger: Ledger, table: TableView, parting: Parting) -> None:
    when = f"after {parting.signal} to L1's QEMU"
    if table.index.size:
        first = int(table.index[0])
        message = f"{table.index.size:,} live {'entry' if table.index.size == 1 else 'entries'} {when}"
        ledger.report(
            "release",
            ("live", table.liobn),
            message,
            liobn=table.liobn,
            ioba=table.ioba(first),
            expected=tce.describe(0),
            seen=tce.describe(int(table.tce[0])),
        )
    elif table.entries and table.liobn & 1:
        message = f"the window of 64 bits is there {when}"
        ledger.report("release", ("window", table.liobn), message, liobn=table.liobn, expected="no window")


def _pins(ledger: Ledger, parting: Parting, culprit: Step | None, *, kept: bool) -> None:
    more = parting.pins - parting.before
    if (more > 0 and kept) or (more == 0 and not kept):
        return
    message = f"L1's kernel holds {more:+,} pins more than before its QEMU began"
    if kept:
        message = f"the declared quirk {LIST_KEEPS} does not show: all pins are given back"
    finding = ledger.report(
        "release",
        "pins",
        message,
        expected="0" if not kept else "pins that stay",
        seen=str(more),
        operation=None if culprit is None else culprit.number,
    )
    _named(finding, culprit)


def _said(ledger: Ledger, parting: Parting, culprit: Step | None, *, kept: bool) -> None:
    of_quirk = {*_QUIRK.warns, *_QUIRK.warns_once}
    told: Iterable[str] = [line for line in parting.trouble if not (kept and warned_in(line) in of_quirk)]
    for line in told:
        message = f"L1's kernel said when its QEMU ended: {line}"
        finding = ledger.report(
            "release", line, message, seen=line, operation=None if culprit is None else culprit.number
        )
        if warned_in(line) in of_quirk:
            _named(finding, culprit)
    if kept and not any(warned_in(line) in _QUIRK.warns for line in parting.trouble):
        message = f"the declared quirk {LIST_KEEPS} does not show: L1's kernel said nothing when its QEMU ended"
        ledger.report("release", "quiet", message, operation=culprit.number if culprit is not None else None)


def _named(finding: Finding | None, culprit: Step | None) -> None:
    """The quirk would explain it."""
    if finding is not None and culprit is not None:
        finding.quirk = LIST_KEEPS
