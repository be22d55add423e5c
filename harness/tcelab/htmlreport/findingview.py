"""A finding, made ready for the page: its facts, and what explains it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tcelab.htmlreport import consolelines, excerpt, folders, occupancy, pestory
from tcelab.htmlreport.consolelines import Console
from tcelab.htmlreport.excerpt import Excerpt
from tcelab.htmlreport.occupancy import Drawing
from tcelab.htmlreport.pestory import Story
from tcelab.judge import Finding
from tcelab.report import Result, tabledump
from tcelab.report.text import finding_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingView:
    """A finding with what explains it; what there is not is None.

    :ivar anchor: its id on the page.
    :ivar facts: name and text of each fact.
    :ivar why_no_drawing: empty where it is about no entry.
    """

    anchor: str
    law: str
    message: str
    facts: list[tuple[str, str]]
    program: Excerpt | None = None
    drawing: Drawing | None = None
    why_no_drawing: str = ""
    story: Story | None = None
    console: Console | None = None
    replay: str = ""


class Scene:
    """The files of a run's folder, each read once.

    :ivar kept: number of the checkpoint whose tables were kept; None: it is not known.
    """

    def __init__(self, folder: Path, result: Result) -> None:
        self.folder = folder
        self.result = result
        self.program = folders.program(folder / folders.PROGRAM)
        self.seen = folders.tables(folder, tabledump.NAME)
        self.before = folders.tables(folder, tabledump.BEFORE)
        self.kept = tabledump.step_of(folder / tabledump.NAME)

    def shows(self, finding: Finding) -> bool:
        """Was a finding seen in the tables that were kept: are they of the first checkpoint from its step on, on the
        same guest?
        """
        ops = self.program["ops"] if self.program is not None else []
        if self.kept is None or not finding.step <= self.kept < len(ops):
            return False
        between = {op.get("op") for op in ops[finding.step : self.kept]}
        return not between & {"checkpoint", "fresh"}

    def guest(self, step: int) -> Path:
        """The folder of the guest that did an operation."""
        ops = self.program["ops"] if self.program is not None else []
        number = sum(op.get("op") == "fresh" for op in ops[: step + 1])
        return self.folder / f"guest-{number + 1}" if number else self.folder


def of_run(scene: Scene, finding: Finding, anchor: str) -> FindingView:
    result = scene.result
    drawing, why = (None, "") if finding.ioba is None else _drawing(scene, finding)
    return FindingView(
        anchor=anchor,
        law=finding.law,
        message=finding.message,
        facts=list(facts(finding)),
        program=_program(scene, finding),
        drawing=drawing,
        why_no_drawing=why,
        story=pestory.around(result.timeline, finding.step),
        console=consolelines.around(scene.guest(finding.step), finding),
        replay=result.replay,
    )


def _drawing(scene: Scene, finding: Finding) -> tuple[Drawing | None, str]:
    """Or why there is none."""
    if not scene.seen:
        return None, f"no picture of the table: {tabledump.NAME} is not there or cannot be read"
    if not scene.shows(finding):
        which = "another checkpoint" if scene.kept is None else f"another checkpoint, operation {scene.kept}"
        return None, f"no picture of the table: {tabledump.NAME} holds that of {which}"
    beside = [each for each in scene.result.verdict.findings if each is not finding and scene.shows(each)]
    drawing = occupancy.draw(finding, beside, scene.before, scene.seen)
    return drawing, "" if drawing is not None else f"no picture of the table: {tabledump.NAME} does not hold it"


def _program(scene: Scene, finding: Finding) -> Excerpt | None:
    if scene.program is None:
        return None
    return excerpt.around(folders.PROGRAM, scene.program, finding.operation, finding.step)


def facts(finding: Finding) -> Iterator[tuple[str, str]]:
    """Where, expected, seen, and the operation, as the final text has them."""
    for line in list(finding_lines(finding))[1:]:
        name, _, text = line.partition(":")
        yield name.strip(), text.strip()
    if finding.quirk:
        yield "explained by", f"quirk {finding.quirk}"
