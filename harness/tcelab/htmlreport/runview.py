"""A run, a series, a leak check or a campaign, made ready for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tcelab.commandline import typed
from tcelab.errors import UsageError, counted
from tcelab.htmlreport import consolelines, excerpt, findingview, folders, pestory
from tcelab.htmlreport.consolelines import Console
from tcelab.htmlreport.findingview import FindingView, Scene
from tcelab.htmlreport.folders import Campaign
from tcelab.htmlreport.pestory import Story
from tcelab.judge import Finding
from tcelab.leakcheck.leakresult import LeakResult
from tcelab.report import Result
from tcelab.report.isolationlog import cell
from tcelab.report.text import ran, witnesses


class Most(NamedTuple):
    """How much of a run is shown: findings that are shown whole, further ones in a line each, stories of PEs."""

    whole: int
    listed: int
    stories: int


MOST: Final = Most(whole=8, listed=200, stories=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """Everything that the page tells of a run.

    :ivar anchor: its id; all ids within it begin with this.
    :ivar word: its verdict.
    :ivar about: what was run, and on what, line by line.
    :ivar findings: shown whole; `lines`: law and message of further ones; `more`: how many beyond are in the folder.
    :ivar reasons: why it could not be judged; `ended`: the lines of the error that ended it.
    :ivar children: the runs of a series.
    :ivar leak: of a leak check, its result.
    """

    anchor: str
    title: str
    folder: str
    word: str
    exit_code: int | None
    about: list[str] = field(default_factory=list)
    findings: list[FindingView] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    more: int = 0
    reasons: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    replay: str = ""
    result: Result | None = None
    leak: LeakResult | None = None
    witnesses: list[str] = field(default_factory=list)
    isolations: list[tuple[str, str, int, str]] = field(default_factory=list)
    stories: list[Story] = field(default_factory=list)
    more_stories: int = 0
    console: Console | None = None
    versions: list[tuple[str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    children: list[RunView] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """In a sentence, what the verdict rests on."""
        count = len(self.findings) + len(self.lines) + self.more
        if count:
            return counted(count, "finding")
        if self.word == "finding":
            return ", ".join(each.title for each in self.children if each.word == "finding")
        if self.reasons:
            return self.reasons[0]
        return "every law that was judged holds, and the evidence is complete"

    @property
    def what_to_do(self) -> str:
        """The next steps that the errors name."""
        steps = [line.partition("next step:")[2].strip() for line in self.ended if "next step:" in line]
        where = 'each reason is explained on the page "Troubleshooting" of the documentation, by its message'
        return "; ".join([*dict.fromkeys(steps), where])

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Name and id of each that there is, in the page's order."""
        there = (
            ("Reasons", "reasons", self.reasons or self.ended),
            ("Topologies", "topologies", self.children),
            ("Findings", "findings", self.findings),
            ("PEs", "pes", self.stories or self.isolations),
            ("Evidence", "evidence", self.result is not None and self.witnesses),
            ("Tables and hypercalls", "tables", self.leak),
            ("Console", "console", self.console),
            ("Versions", "versions", self.versions),
            ("Artefacts", "files", True),
        )
        return [(name, f"{self.anchor}-{end}") for name, end, has in there if has]

    @property
    def batches(self) -> list[list[str]]:
        """A row for each batch size."""
        batches = self.result.verdict.evidence.batches if self.result is not None else []
        return [[f"{value:,}" for value in msgspec.structs.astuple(each)] for each in batches]

    @property
    def hypercalls(self) -> list[dict[str, Any]]:
        """A row for each hypercall, by column."""
        rows = self.result.hypercalls if self.result is not None else []
        return [msgspec.to_builtins(each) for each in rows]

    @property
    def leak_tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Of a leak check: caption, columns and rows of each table that is not empty."""
        if self.leak is None:
            return []
        told: dict[str, Sequence[msgspec.Struct]] = {
            "Live entries": self.leak.tables,
            "Hypercalls": self.leak.calls,
            "Permissions of the TCEs that were stored": self.leak.permissions,
            "Hypercalls that failed": self.leak.refused,
            "Mappings that drivers asked for": self.leak.asked,
        }
        return [
            (name, [_head(each.name) for each in msgspec.structs.fields(rows[0])], [_row(each) for each in rows])
            for name, rows in told.items()
            if rows
        ]


def _head(name: str) -> str:
    return {"liobn": "LIOBN", "tces": "TCEs"}.get(name, name.capitalize())


def _row(struct: msgspec.Struct) -> list[str]:
    fields = msgspec.structs.asdict(struct)
    return [f"{value:#x}" if name == "liobn" else str(value) for name, value in fields.items()]


def view(folder: Path, told: Result | LeakResult | Campaign, anchor: str, most: Most = MOST) -> RunView:
    """The view of a folder that was read.

    :param most: how much of it is shown.
    """
    if isinstance(told, Campaign):
        return _campaign(folder, told, anchor, most)
    if isinstance(told, LeakResult):
        return _leakcheck(folder, told, anchor, most)
    return _series(folder, told, anchor, most) if told.runs else _run(folder, told, anchor, most)


# -- one run


def _run(folder: Path, result: Result, anchor: str, most: Most) -> RunView:
    verdict = result.verdict
    program = result.program
    scene = Scene(folder, result)
    findings = [
        findingview.of_run(scene, finding, f"{anchor}-finding-{number}")
        for number, finding in enumerate(verdict.findings[: most.whole], 1)
    ]
    rest = verdict.findings[most.whole : most.whole + most.listed]
    stories = pestory.first_stories(result.timeline, most.stories)
    return RunView(
        anchor=anchor,
        title="a run that never began" if program is None else f"{program.name} on {program.topology}",
        folder=str(folder),
        word=verdict.result,
        exit_code=verdict.exit_code,
        about=list(ran(result)),
        findings=findings,
        lines=[(each.law, each.message) for each in rest],
        more=max(0, len(verdict.findings) - most.whole - most.listed) + verdict.more,
        reasons=verdict.could_not,
        ended=result.ended.report,
        replay=result.replay,
        result=result,
        witnesses=list(witnesses(verdict.evidence)) if verdict.evidence.operations else [],
        isolations=[
            (each.kind, cell(each), each.tried, "right" if each.right else "wrong") for each in result.isolations
        ],
        stories=stories,
        more_stories=pestory.count(result.timeline) - len(stories),
        console=None if any(each.console for each in findings) else consolelines.last(folder),
        versions=list(flat({**result.versions, "options": result.options, "seconds": _rounded(result.timings)})),
        files=files(folder),
    )


# -- several, and other kinds


def _series(folder: Path, result: Result, anchor: str, most: Most) -> RunView:
    """Each run's own folder has more of it than the joint result."""
    children, notes = [], []
    for number, (name, each) in enumerate(_named(result), 1):
        told, problem = each, ""
        try:
            read = folders.result(folder / name)
            told = read if isinstance(read, Result) else each
        except UsageError as error:
            problem = error.message
        if problem:
            notes.append(f"{name} is shown as far as the series tells it: {problem}")
        children.append(_run(folder / name, told, f"{anchor}-{number}", most))
    program = result.program
    return RunView(
        anchor=anchor,
        title="a series"
        if program is None
        else f"{program.name} on {counted(len(children), 'topology', 'topologies')}",
        folder=str(folder),
        word=result.verdict.result,
        exit_code=result.verdict.exit_code,
        about=list(ran(result)),
        reasons=result.verdict.could_not,
        replay=result.replay,
        versions=list(flat({**result.versions, "options": result.options, "seconds": _rounded(result.timings)})),
        files=files(folder),
        children=children,
        notes=notes,
    )


def _named(result: Result) -> Iterator[tuple[str, Result]]:
    for each in result.runs:
        if each.program is not None:
            yield each.program.topology, each


def _leakcheck(folder: Path, result: LeakResult, anchor: str, most: Most) -> RunView:
    def one(number: int, finding: Finding) -> FindingView:
        return FindingView(
            anchor=f"{anchor}-finding-{number}",
            law=finding.law,
            message=finding.message,
            facts=list(findingview.facts(finding)),
            console=consolelines.around(folder, finding),
            replay=result.replay,
        )

    rest = result.findings[most.whole : most.whole + most.listed]
    return RunView(
        anchor=anchor,
        title=f"leak check: {(result.command.splitlines() or ['?'])[0]}",
        folder=str(folder),
        word=result.verdict,
        exit_code=result.exit_code,
        about=[] if result.status is None else [f"the command ended with status {result.status}"],
        findings=[one(number, each) for number, each in enumerate(result.findings[: most.whole], 1)],
        lines=[(each.law, each.message) for each in rest],
        more=max(0, len(result.findings) - most.whole - most.listed),
        reasons=result.could_not,
        replay=result.replay,
        leak=result,
        console=consolelines.last(folder),
        versions=list(flat({**result.versions, "options": result.options, "seconds": _rounded(result.timings)})),
        files=files(folder),
    )


def _campaign(folder: Path, told: Campaign, anchor: str, most: Most) -> RunView:
    """Its findings are programs, which were shrunk."""
    found = []
    for number, name in enumerate(told.programs[: most.whole]):
        program = folders.program(folder / name)
        finding = told.findings[number] if number < len(told.findings) else None
        found.append(
            FindingView(
                anchor=f"{anchor}-finding-{number + 1}",
                law="finding" if finding is None else finding.law,
                message=f"{folders.LOG} tells what was found" if finding is None else finding.message,
                facts=[] if finding is None else list(findingview.facts(finding)),
                program=None if program is None else excerpt.whole(name, program),
                replay=told.replays[number] if number < len(told.replays) else typed(["replay", str(folder / name)]),
            )
        )
    return RunView(
        anchor=anchor,
        title=f"fuzz campaign, seed {told.seed}" if told.counts else "fuzz campaign",
        folder=str(folder),
        word=told.verdict,
        exit_code=told.exit_code,
        about=[", ".join(f"{count:,} {name}" for name, count in told.counts.items())] if told.counts else [],
        findings=found,
        more=max(0, len(told.programs) - most.whole),
        reasons=told.could_not,
        replay=told.replay,
        versions=list(flat({**told.versions, "quirks met": told.quirks})),
        files=files(folder),
    )


# -- facts


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of nested values, without those that are empty or too long for a page."""
    for key, value in values.items():
        name = f"{above} {key}".strip()
        if isinstance(value, Mapping):
            if key not in _TOO_LONG:
                yield from flat(value, name)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if value and key not in _TOO_LONG:
                yield name, ", ".join(map(str, value))
        elif value not in (None, "", False):
            yield name, str(value)


_TOO_LONG: Final = frozenset({"packages", "firmware_sha256", "files", "config"})


def _rounded(seconds: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.1f}" for name, value in seconds.items()}


MOST_FILES: Final = 60


def files(folder: Path) -> list[str]:
    """Names of what is in a folder, and in the folders of its other guests."""
    try:
        there = sorted(str(each.relative_to(folder)) for each in _below(folder) if each.is_file())
    except OSError:
        return []
    return there[:MOST_FILES]


def _below(folder: Path) -> Iterator[Path]:
    for each in folder.iterdir():
        yield from each.iterdir() if each.is_dir() and not each.is_symlink() else (each,)
