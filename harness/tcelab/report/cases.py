"""The test cases of a result: the run itself, each law, each batch size, each kind of isolation. `junit.xml` and KTAP
write the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from tcelab.errors import counted
from tcelab.judge import LawCount, Verdict
from tcelab.judge.finding import Finding
from tcelab.leakcheck.leakresult import LeakResult
from tcelab.report.isolationlog import Isolations
from tcelab.report.result import Result
from tcelab.report.text import finding_lines

__all__ = ["Case", "Group", "Outcome", "Suite", "of_leak_check", "of_result", "planned"]

Group = Literal["run", "law", "batch", "isolation"]
Outcome = Literal["pass", "finding", "could-not-judge", "never-judged"]


class Case(NamedTuple):
    """A test case.

    :ivar message: why it is no pass, in one line; `lines`: more about it.
    :ivar kind: of what went wrong.
    :ivar seconds: how long it took; 0 where nobody measured it.
    """

    group: Group
    name: str
    outcome: Outcome = "pass"
    message: str = ""
    kind: str = ""
    lines: Sequence[str] = ()
    seconds: float = 0.0


class Suite(NamedTuple):
    """The test cases of one run: that of the run itself is the first, and those of a group follow each other."""

    name: str
    cases: Sequence[Case]


class _Run(NamedTuple):
    """What cases are made of. `name`: of the case of the run itself. `report`: lines about how the run ended."""

    name: str
    verdict: Verdict
    laws: Mapping[str, str]
    seconds: float
    report: Sequence[str] = ()
    isolations: Sequence[Isolations] = ()


def of_result(result: Result) -> list[Suite]:
    """A suite for each run."""
    return [_suite(each, several=bool(result.runs)) for each in result.runs or [result]]


def planned(result: Result) -> list[str]:
    """Topologies whose run was planned and never began."""
    if not result.runs or result.program is None:
        return []
    ran = {each.program.topology for each in result.runs if each.program is not None}
    return [name for name in result.program.topology.split(", ") if name not in ran]


def of_leak_check(result: LeakResult, verdict: Verdict) -> list[Suite]:
    first = result.command.partition("\n")[0]
    run = _Run(first, verdict, result.laws, result.timings.get("whole", 0.0))
    return [Suite("tcelab leakcheck", list(_cases(run)))]


def _suite(result: Result, *, several: bool) -> Suite:
    name = result.program.name if result.program else "none"
    on = f" on {result.program.topology}" if several and result.program else ""
    run = _Run(
        name,
        result.verdict,
        result.laws,
        sum(result.timings.values()),
        result.ended.report,
        result.isolations,
    )
    return Suite(f"tcelab {name}{on}", list(_cases(run)))


def _cases(run: _Run) -> Iterator[Case]:
    verdict = run.verdict
    yield _of_run(run)
    for law, about in run.laws.items():
        count = verdict.evidence.laws.get(law, LawCount())
        case = _found("law", law, [each for each in verdict.findings if each.law == law], count.findings)
        if not count.judged and not count.findings:
            case = case._replace(outcome="never-judged", message=f"never judged: {about}")
        yield case
    for batch in verdict.evidence.batches:
        findings = [each for each in verdict.findings if each.batch == batch.size]
        yield _found("batch", counted(batch.size, "page"), findings, batch.findings)
    for row in run.isolations:
        yield _of_isolations(row)


def _of_run(run: _Run) -> Case:
    verdict, case = run.verdict, Case("run", run.name, seconds=run.seconds)
    if verdict.could_not:
        lines = [*verdict.could_not, *run.report]
        return case._replace(
            outcome="could-not-judge", message=verdict.could_not[0], kind="could-not-judge", lines=lines
        )
    if verdict.result == "finding":
        total = len(verdict.findings) + verdict.more
        return case._replace(outcome="finding", message=counted(total, "finding"), kind="finding")
    return case


def _found(group: Group, name: str, shown: Sequence[Finding], total: int) -> Case:
    """A case with those of its findings that were kept, of so many."""
    if not total and not shown:
        return Case(group, name)
    message = shown[0].message if shown else f"{counted(total, 'finding')}, none of them kept"
    lines = [line for each in shown for line in finding_lines(each)]
    if total > len(shown):
        lines.append(f"and {total - len(shown)} more")
    return Case(group, name, "finding", message, "finding", lines)


def _of_isolations(row: Isolations) -> Case:
    if row.right:
        return Case("isolation", row.kind)
    message = f"{row.isolated} of {row.expected} isolations, {row.done} of {row.tried} done"
    outcome: Outcome = "finding" if row.findings or row.done == row.tried else "could-not-judge"
    return Case("isolation", row.kind, outcome, message, "isolation")
