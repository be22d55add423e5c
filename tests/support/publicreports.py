"""`docs/reports.md`: public reports of defects that a test of `tests/reports` shows. Each file there has a `REPORT`.

`python tests/support/publicreports.py > docs/reports.md` makes it anew; a test holds the page against this.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tcelab.quirks import QUIRKS

FOLDER = Path(__file__).parents[1] / "reports"

_INTRO = """\
# Public reports

<!-- Made from tests/reports: python tests/support/publicreports.py > docs/reports.md -->

What users of the pseries IOMMU reported, and the test that shows each on the kernels and QEMUs at hand. A defect that
is still there is a [quirk](quirks.md): its test passes because it is declared, and finds it without the declaration.

    pytest tests/reports                          # what takes seconds
    TCELAB_THOROUGH=1 pytest tests/reports        # all of them, as the night does

"""


@dataclass(frozen=True, slots=True)
class Report:
    """:ivar id: as R02; an `a` or `b` after it where one report has several defects.

    :ivar title: in one line.
    :ivar reported: what was reported, in our words.
    :ivar where: commits, lists and trackers in which it was.
    :ivar versions: that have it, and that have it no more; what was seen here.
    :ivar right: what is right.
    :ivar shown: what the test does.
    :ivar quirk: that declares it; empty: nothing at hand has the defect.
    """

    id: str
    title: str
    reported: str
    where: tuple[str, ...]
    versions: str
    right: str
    shown: str
    quirk: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"R\d\d[a-z]?", self.id):
            raise ValueError(f"not the name of a report: {self.id!r}")
        if not all((self.title, self.reported, self.where, self.versions, self.right, self.shown)):
            raise ValueError(f"report {self.id} does not say all")
        if self.quirk and self.quirk not in QUIRKS:
            raise ValueError(f"report {self.id}: no quirk {self.quirk!r}")


def reports() -> dict[str, Report]:
    """The report of each test, by the test's file name, in the order of their names.

    :raise AttributeError: a file of tests without a report.
    """
    found: dict[str, Report] = {}
    for path in sorted(FOLDER.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"_report_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        report: Report = module.REPORT
        found[path.name] = report
    return dict(sorted(found.items(), key=lambda each: each[1].id))


def page() -> str:
    """The whole page, Markdown."""
    found = reports()
    rows = [f"| [{each.id}](#{each.id.lower()}) | {each.title} | {_quirk(each) or '-'} |" for each in found.values()]
    table = "\n".join(["| report | what | declared |", "| --- | --- | --- |", *rows, ""])
    return _INTRO + table + "\n" + "\n".join("\n".join(_section(name, each)) for name, each in found.items())


def _quirk(report: Report) -> str:
    return f"[{report.quirk}](quirks.md#{report.quirk})" if report.quirk else ""


def _section(name: str, report: Report) -> Iterator[str]:
    yield f"## {report.id}\n\n{_sentence(report.title)}\n"
    yield f"- Reported: {report.reported}"
    yield f"- Where: {'; '.join(report.where)}."
    yield f"- Versions: {report.versions}"
    yield f"- Right: {report.right}"
    if report.quirk:
        yield f"- Declared: quirk {_quirk(report)}."
    yield f"- Test: `tests/reports/{name}`. {report.shown}\n"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


if __name__ == "__main__":
    sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent / "support")]
    from publicreports import page as made

    sys.stdout.write(made())
