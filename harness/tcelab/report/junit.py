"""`junit.xml`: the test cases of `tcelab.report.cases` as JUnit writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from tcelab.judge import Verdict
from tcelab.leakcheck.leakresult import LeakResult
from tcelab.report import cases
from tcelab.report.cases import Case, Outcome, Suite
from tcelab.report.result import Result

_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold; a guest's console can."""
_ELEMENTS: Final[dict[Outcome, str]] = {"finding": "failure", "could-not-judge": "error", "never-judged": "skipped"}


def junit(result: Result) -> bytes:
    """The document, UTF-8. Findings are failures; could-not-judge is an error of the run's test case.

    Of several runs each has a suite of its own.
    """
    return document(cases.of_result(result))


def junit_of_leak_check(result: LeakResult, verdict: Verdict) -> bytes:
    """The document of a leak check, UTF-8."""
    return document(cases.of_leak_check(result, verdict))


def document(suites: Iterable[Suite]) -> bytes:
    """The document, UTF-8."""
    root = ET.Element("testsuites")
    for each in suites:
        root.append(_suite(each))
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def write_junit(result: Result, path: Path) -> None:
    path.write_bytes(junit(result))


def _suite(suite: Suite) -> ET.Element:
    element = ET.Element("testsuite", name=clean(suite.name))
    for case in suite.cases:
        _case(element, case)
    element.set("tests", str(len(suite.cases)))
    for attribute, child in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(attribute, str(sum(_ELEMENTS.get(case.outcome) == child for case in suite.cases)))
    return element


def _case(suite: ET.Element, case: Case) -> None:
    seconds = f"{case.seconds:.3f}" if case.group == "run" else "0"
    element = ET.SubElement(suite, "testcase", classname=f"tcelab.{case.group}", name=clean(case.name), time=seconds)
    if case.outcome == "pass":
        return
    why = ET.SubElement(element, _ELEMENTS[case.outcome], message=clean(case.message))
    if case.kind:
        why.set("type", case.kind)
    if case.lines:
        why.text = clean("\n".join(case.lines))


def clean(text: str) -> str:
    return _ILLEGAL.sub("?", text)
