"""The verdict: on a run, on a program whose parts ran side by side, on a run that never began, on several runs, on a
leak check.

All verdicts are made here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from tcelab.errors import TcelabError
from tcelab.judge.finding import Evidence, Finding, LawCount, Verdict, added
from tcelab.judge.laws import kernel
from tcelab.judge.laws.evidence import evidence
from tcelab.judge.ledger import KEEP, Ledger, joined
from tcelab.program.parts import parts
from tcelab.run import exitcode
from tcelab.run.record import RunRecord

_NONE: Final[Mapping[int, TcelabError]] = MappingProxyType({})


def conclude(ledgers: Sequence[Ledger], run: RunRecord, lost: Mapping[int, TcelabError] = _NONE) -> Verdict:
    """The verdict on a run, once everything was judged. The ledgers stay unchanged.

    :param ledgers: what the judge of each part recorded, in program order; most programs have one part.
    :param run: record of the whole program, see `tcelab.run.join`.
    :param lost: by number of the part, why it has no record: mostly, it had no guest.
    """
    ledger = joined(run.program, ledgers)
    ledger.step = len(run.steps)
    firsts = [part.first for part in parts(run.program)]
    for number, error in sorted(lost.items()):
        with ledger.at(firsts[number], 0):
            kernel.died_before(ledger, error, number)
    for _, error in sorted(lost.items()):
        ledger.undecided_because(f"a part of the program had no guest: {error.message}")
    evidence(ledger, run)
    _quirks(ledger, run)
    result = exitcode.result(found=ledger.total, undecided=ledger.reasons)
    return Verdict(
        result=result,
        exit_code=exitcode.of_result(result),
        # In program order; of one step, `difference` comes last: other laws say more about the cause.
        findings=sorted(ledger.findings, key=lambda each: (each.step, each.law == "difference")),
        could_not=ledger.reasons,
        evidence=ledger.close(),
        more=ledger.total - len(ledger.findings),
        by_step=ledger.by_step,
    )


def _quirks(ledger: Ledger, run: RunRecord) -> None:
    """A declared quirk must show in a program made to show it, if that was performed and compared completely."""
    if ledger.reasons or len(run.steps) < len(run.program.ops):
        return
    told = {name for each in ledger.findings for name in each.quirk.split(", ")}
    for quirk in run.program.shows:
        if ledger.evidence.quirks.get(quirk) == 0 and quirk not in told:
            ledger.report(
                "difference",
                ("not met", quirk),
                f"the declared quirk {quirk} does not show: this program is made to show it",
                expected=f"{quirk} is met",
                seen="nothing in which a kernel without it differs",
            )


def never_began(error: TcelabError) -> Verdict:
    """The verdict on a run that performed no operation: there was no QEMU, or the guest was lost before."""
    findings = kernel.died_alone(error)
    result = exitcode.result(found=findings, undecided=error)
    return Verdict(
        result=result,
        exit_code=exitcode.of_result(result),
        findings=findings,
        could_not=[error.message],
        evidence=Evidence(),
    )


def of_findings(findings: Sequence[Finding], could_not: Sequence[str], judged: Collection[str]) -> Verdict:
    """The verdict on findings made without a program, by a leak check.

    :param could_not: why there is no pass if nothing was found.
    :param judged: names of the laws that were judged.
    """
    result = exitcode.result(found=findings, undecided=could_not)
    laws = {law: LawCount(judged=1) for law in judged}
    for finding in findings:
        laws.setdefault(finding.law, LawCount(judged=1)).findings += 1
    return Verdict(
        result=result,
        exit_code=exitcode.of_result(result),
        findings=list(findings),
        could_not=list(could_not),
        evidence=Evidence(laws=laws),
    )


def of_several(verdicts: Mapping[str, Verdict], names: Sequence[str]) -> Verdict:
    """The verdict on several runs together.

    :param verdicts: by name of the run, for those that began.
    :param names: names of all runs that were requested.
    """
    left_out = [f"{name}: it was not run" for name in names if name not in verdicts]
    could_not = [f"{name}: {reason}" for name, each in verdicts.items() for reason in each.could_not] + left_out
    found = any(each.result == "finding" for each in verdicts.values())
    result = exitcode.result(found=found, undecided=could_not or not verdicts)
    findings = [_of(name, finding) for name, each in verdicts.items() for finding in each.findings]
    return Verdict(
        result=result,
        exit_code=exitcode.of_result(result),
        findings=findings[:KEEP],
        could_not=could_not,
        evidence=_evidence([each.evidence for each in verdicts.values()]),
        more=sum(each.more for each in verdicts.values()) + max(0, len(findings) - KEEP),
    )


def _of(name: str, finding: Finding) -> Finding:
    """A finding with the name of its run, to whose program its step belongs."""
    return msgspec.structs.replace(finding, message=f"{name}: {finding.message}")


def _evidence(all_: Sequence[Evidence]) -> Evidence:
    """The sum of all evidence; batches and the costs of checkpoints are in the verdict of each run."""
    if not all_:
        return Evidence()
    out = added(all_)
    out.dma.control.sort()
    return out
