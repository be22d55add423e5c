"""`junit.xml` of a night: a test case for each cell."""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree as ET

from tcelab.history.nightfile import Cell, Night
from tcelab.nightly.nighttext import command
from tcelab.nightly.plan import title, words_of
from tcelab.report.junit import clean

NAME: Final = "junit.xml"


def junit(night: Night) -> bytes:
    """The document, UTF-8. What found something or is flaky is a failure; what was not judged or not run, an error."""
    root = ET.Element("testsuites")
    suite = ET.SubElement(root, "testsuite", name="tcelab nightly")
    for cell in night.cells:
        _case(suite, cell)
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for attribute, child in (("failures", "failure"), ("errors", "error")):
        suite.set(attribute, str(sum(case.find(child) is not None for case in cases)))
    suite.set("time", f"{night.pace.wall:.3f}")
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _case(suite: ET.Element, cell: Cell) -> None:
    seconds = sum(each.seconds for each in cell.attempts)
    case = ET.SubElement(suite, "testcase", classname=f"tcelab.nightly.{cell.kind}", name=clean(title(cell)))
    case.set("time", f"{seconds:.3f}")
    if cell.right:
        return
    undecided = cell.word in {"could-not-judge", "not-run"}
    messages = [each.message for each in cell.findings]
    whys = [each.why for each in cell.attempts if each.why]
    first = next(iter([*whys, *messages] if undecided else [*messages, *whys]), "")
    must = f"{words_of(cell.word)}, not {words_of(cell.expected)}"
    wrong = ET.SubElement(case, "error" if undecided else "failure", type=cell.word)
    wrong.set("message", clean(f"{must}: {first}" if first else must))
    wrong.text = clean("\n".join([*dict.fromkeys([*whys, *messages]), f"replay: {command(cell)}"]))
