"""KTAP, the kernel's dialect of the Test Anything Protocol: the test cases of `tcelab.report.cases`, nested.

Format: Documentation/dev-tools/ktap.rst, version 1. A run is a test, its groups of cases are its subtests: a law that
never applied has the directive SKIP, a run that could not be judged is `not ok` with the directive ERROR. `Bail out!`
stands only where a run that was planned never began: nothing more comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from tcelab.judge import Verdict
from tcelab.leakcheck.leakresult import LeakResult
from tcelab.report import cases
from tcelab.report.cases import Case, Suite
from tcelab.report.result import Result

__all__ = ["document", "ktap", "ktap_of_leak_check"]

_VERSION: Final = "KTAP version 1"
_INDENT: Final = "  "
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""A guest's console has line ends and escape sequences, which a reader of lines must never see."""


def ktap(result: Result) -> bytes:
    """The document, UTF-8."""
    return document(cases.of_result(result), cases.planned(result))


def ktap_of_leak_check(result: LeakResult, verdict: Verdict) -> bytes:
    return document(cases.of_leak_check(result, verdict))


def document(suites: Sequence[Suite], missing: Sequence[str] = ()) -> bytes:
    """The document, UTF-8.

    :param missing: what was planned and never began.
    """
    lines = [_VERSION, f"1..{len(suites) + len(missing)}"]
    for number, suite in enumerate(suites, 1):
        lines += _suite(number, suite)
    if missing:
        lines.append(f"Bail out! not run: {_clean(', '.join(missing))}")
    return "".join(f"{line}\n" for line in lines).encode()


class _Test(NamedTuple):
    """:ivar directive: with its text, empty if there is none. `before`: lines that stand before its result."""

    name: str
    ok: bool
    directive: str = ""
    before: Sequence[str] = ()


def _suite(number: int, suite: Suite) -> Iterator[str]:
    tests = []
    for group, members in groupby(suite.cases, key=lambda case: case.group):
        of_group = [_test(case) for case in members]
        tests.append(of_group[0]._replace(name=group) if group == "run" else _parent(group, of_group))
    yield from _lines(number, _parent(suite.name, tests))


def _parent(name: str, tests: Sequence[_Test]) -> _Test:
    """A test with subtests: it fails if one of them does, and is skipped if all of them are."""
    inside = [_VERSION, f"1..{len(tests)}"]
    for number, test in enumerate(tests, 1):
        inside += _lines(number, test)
    skipped = all(test.directive.startswith("SKIP") for test in tests)
    return _Test(
        name,
        all(test.ok for test in tests),
        "SKIP never judged" if skipped else "",
        [f"{_INDENT}{line}" for line in inside],
    )


def _test(case: Case) -> _Test:
    message = _clean(case.message)
    told = [f"# {_clean(line)}".rstrip() for text in case.lines for line in text.expandtabs().splitlines()]
    match case.outcome:
        case "pass":
            return _Test(case.name, ok=True)
        case "never-judged":
            return _Test(case.name, ok=True, directive=f"SKIP {message}")
        case "could-not-judge":
            return _Test(case.name, ok=False, directive=f"ERROR could not judge: {message}", before=told)
        case "finding":
            return _Test(case.name, ok=False, before=told or [f"# {message}"])


def _lines(number: int, test: _Test) -> Iterator[str]:
    yield from test.before
    # A # would begin a directive.
    name = _clean(test.name).replace("#", "").strip()
    directive = f" # {test.directive}" if test.directive else ""
    yield f"{'ok' if test.ok else 'not ok'} {number} {name}{directive}"


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)
