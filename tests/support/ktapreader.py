"""A strict reader of KTAP: what Documentation/dev-tools/ktap.rst does not allow is an error here, unknown lines too."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_RESULT = re.compile(r"(ok|not ok) (\d+) ([^#\s][^#]*?)(?: # (SKIP|XFAIL|TIMEOUT|ERROR)(?: (\S.*))?)?")


@dataclass
class Test:
    """:ivar told: the diagnostic lines before its result."""

    name: str
    ok: bool
    directive: str = ""
    reason: str = ""
    told: list[str] = field(default_factory=list)
    subtests: list[Test] = field(default_factory=list)

    def __getitem__(self, name: str) -> Test:
        (found,) = [each for each in self.subtests if each.name == name]
        return found


def read(data: bytes) -> Test:
    """The whole, as a test of no name. `reason`: why it bailed out."""
    text = data.decode()
    assert text.endswith("\n")
    lines = text.removesuffix("\n").split("\n")
    assert all(line.isprintable() and line == line.rstrip() for line in lines)
    whole = _block(lines, 0)
    assert not lines, f"after the end: {lines[0]!r}"
    return whole


def _block(lines: list[str], depth: int) -> Test:
    """The lines of one level, taken from the front."""
    indent = "  " * depth
    assert lines.pop(0) == f"{indent}KTAP version 1"
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)", lines.pop(0))
    assert plan, "no plan after the version line"
    whole = Test("", ok=True)
    told: list[str] = []
    inside: Test | None = None
    while lines and lines[0].startswith(indent):
        line = lines[0].removeprefix(indent)
        if line == "  KTAP version 1":
            assert inside is None, "two blocks of subtests before one result"
            inside = _block(lines, depth + 1)
            continue
        if depth and not re.match(r"#|ok |not ok ", line):
            break
        lines.pop(0)
        if line.startswith("#"):
            assert re.match(r"#( |$)", line)
            told.append(line[2:])
            continue
        if bail := re.fullmatch(r"Bail out! (\S.*)", line):
            assert depth == 0
            assert not lines
            whole.reason = bail[1]
            break
        found = _RESULT.fullmatch(line)
        assert found, f"no line of KTAP: {line!r}"
        word, number, name, directive, reason = found.groups()
        assert int(number) == len(whole.subtests) + 1, f"out of order: {line!r}"
        test = Test(name, word == "ok", directive or "", reason or "", told, inside.subtests if inside else [])
        assert test.ok == all(each.ok for each in test.subtests) or not test.subtests, f"{name} and its subtests differ"
        whole.subtests.append(test)
        told, inside = [], None
    assert not told, "diagnostic lines after the last result"
    assert inside is None, "subtests without a result"
    assert len(whole.subtests) == int(plan[1]) or whole.reason, "the plan says another number of tests"
    assert len(whole.subtests) <= int(plan[1])
    return whole
