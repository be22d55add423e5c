"""`junit.xml`: a test case per law, per batch size, and one for the run itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree as ET

from tcelab.errors import counted
from tcelab.judge import Finding, LawCount, Verdict
from tcelab.leakcheck.leakresult import LeakResult
from tcelab.report.isolationlog import Isolations
from tcelab.report.result import Result
from tcelab.report.text import finding_lines

_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold; a guest's console can."""


class Suite(NamedTuple):
    """The parts of a test suite.

    :ivar case: name of the test case of the run itself; `seconds`: how long it took.
    :ivar report: lines about how the run ended.
    """

    name: str
    case: str
    verdict: Verdict
    laws: Mapping[str, str]
    seconds: float
    report: Sequence[str] = ()
    isolations: Sequence[Isolations] = ()


def junit(result: Result) -> bytes:
    """The document, UTF-8. Findings are failures; could-not-judge is an error of the run's test case.

    Of several runs each has a suite of its own.
    """
    return document(_suite(each, several=bool(result.runs)) for each in result.runs or [result])


def junit_of_leak_check(result: LeakResult, verdict: Verdict) -> bytes:
    """The document of a leak check, UTF-8."""
    first = result.command.partition("\n")[0]
    seconds = result.timings.get("whole", 0.0)
    return document([Suite("tcelab leakcheck", first, verdict, result.laws, seconds)])


def document(suites: Iterable[Suite]) -> bytes:
    """The document, UTF-8."""
    root = ET.Element("testsuites")
    for each in suites:
        root.append(_element(each))
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _suite(result: Result, *, several: bool) -> Suite:
    name = result.program.name if result.program else "none"
    on = f" on {result.program.topology}" if several and result.program else ""
    return Suite(
        f"tcelab {name}{on}",
        name,
        result.verdict,
        result.laws,
        sum(result.timings.values()),
        result.ended.report,
        result.isolations,
    )


def _element(of: Suite) -> ET.Element:
    verdict = of.verdict
    suite = ET.Element("testsuite", name=clean(of.name))
    _run(suite, of)
    for law, about in of.laws.items():
        count = verdict.evidence.laws.get(law, LawCount())
        case = _case(suite, "tcelab.law", law)
        _failures(case, (each for each in verdict.findings if each.law == law), count.findings)
        if not count.judged and not count.findings:
            ET.SubElement(case, "skipped", message=f"never judged: {about}")
    for batch in verdict.evidence.batches:
        case = _case(suite, "tcelab.batch", counted(batch.size, "page"))
        _failures(case, (each for each in verdict.findings if each.batch == batch.size), batch.findings)
    for row in of.isolations:
        case = _case(suite, "tcelab.isolation", row.kind)
        if not row.right:
            message = f"{row.isolated} of {row.expected} isolations, {row.done} of {row.tried} done"
            kind = "failure" if row.findings or row.done == row.tried else "error"
            ET.SubElement(case, kind, message=message, type="isolation")
    _count(suite)
    return suite


def write_junit(result: Result, path: Path) -> None:
    path.write_bytes(junit(result))


def _run(suite: ET.Element, of: Suite) -> None:
    verdict = of.verdict
    case = _case(suite, "tcelab.run", of.case)
    case.set("time", f"{of.seconds:.3f}")
    if verdict.could_not:
        error = ET.SubElement(case, "error", message=clean(verdict.could_not[0]), type="could-not-judge")
        error.text = clean("\n".join([*verdict.could_not, *of.report]))
    elif verdict.result == "finding":
        total = len(verdict.findings) + verdict.more
        ET.SubElement(case, "failure", message=counted(total, "finding"), type="finding")


def _case(suite: ET.Element, group: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=group, name=clean(name), time="0")


def _failures(case: ET.Element, findings: Iterable[Finding], total: int) -> None:
    shown = list(findings)
    if not total and not shown:
        return
    message = shown[0].message if shown else f"{counted(total, 'finding')}, none of them kept"
    failure = ET.SubElement(case, "failure", message=clean(message), type="finding")
    lines = [line for each in shown for line in finding_lines(each)]
    if total > len(shown):
        lines.append(f"and {total - len(shown)} more")
    failure.text = clean("\n".join(lines))


def _count(suite: ET.Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for attribute, child in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(child) is not None for case in cases)))


def clean(text: str) -> str:
    """A text without what XML cannot hold."""
    return _ILLEGAL.sub("?", text)
