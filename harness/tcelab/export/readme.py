"""The page beside the C file: what it shows, how to build and run it, how to read its answer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import tcelab
from tcelab.export import csource, qemuline
from tcelab.export.answers import Answers
from tcelab.export.statements import differing
from tcelab.program import Program
from tcelab.quirks import QUIRKS, Quirk
from tcelab.report import Result

_WIDTH: Final = 110
_MOST: Final = 20
"""Findings of a run that are named."""


class Recorded(NamedTuple):
    """A run, in words."""

    kernel: str
    qemu: str
    verdict: str
    findings: list[Any]


def about(program: Program, shown: Sequence[Answers]) -> list[str]:
    """The lines that the C file begins with."""
    defects = _defects(shown)
    text = [f"{each.what}. Right would be: {each.right} ({each.source})." for each in defects]
    text = text or [f"The program {program.name}, in which no known defect shows."]
    return [line for each in text for line in textwrap.wrap(each, _WIDTH)]


def page(program: Program, shown: Sequence[Answers], total: int, page_size: int, result: Result | None) -> str:
    """Markdown.

    :param shown: the parts that the C file has, of `total`.
    """
    devices = csource.bound(shown)
    made: str = csource.template("README.md").render(
        name=_plain(program.name),
        version=tcelab.__version__,
        defects=_defects(shown),
        rows=[row for each in shown for step in each.steps for row in differing(step)],
        left_out=total - len(shown),
        parts=[each.part.number + 1 for each in shown],
        run=None if result is None else _recorded(result),
        page_size=page_size,
        qemu=qemuline.line(program, devices),
        devices=[(each, csource.address(program, each)) for each in devices],
        warns=any(map(csource.warns, shown)),
    )
    return made


def _defects(shown: Sequence[Answers]) -> list[Quirk]:
    return [QUIRKS[name] for name in dict.fromkeys(name for each in shown if each.differs for name in each.quirks)]


def _recorded(result: Result) -> Recorded:
    versions = result.versions
    guest, qemu = versions.get("guest") or {}, versions.get("qemu") or {}
    kernel = f"{guest.get('kernel', '')} {guest.get('version', '')}".strip() or "tcelab's emulator"
    findings = result.verdict.findings
    return Recorded(
        _plain(kernel),
        _plain(str(qemu.get("version") or "none")),
        f"{result.verdict.result}, {len(findings) + result.verdict.more} findings",
        [{"step": each.step, "message": _plain(each.message)} for each in findings[:_MOST]],
    )


def _plain(text: str) -> str:
    """On one line, and no mark-up."""
    return "".join(each if each.isprintable() and each not in "<>|`" else "?" for each in text)
