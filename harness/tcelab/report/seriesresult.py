"""One result of several runs: a scenario on each of its topologies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

import tcelab
from tcelab.judge import LAWS, Evidence, Verdict
from tcelab.judge.core import KEEP
from tcelab.judge.finding import Finding
from tcelab.program import Program
from tcelab.report.isolationlog import table_lines
from tcelab.report.result import ProgramInfo, Result, RunEnded
from tcelab.report.text import WORDS, say
from tcelab.run import exitcode


def merge(runs: Mapping[str, Result], programs: Sequence[Program], options: Mapping[str, Any]) -> Result:
    """The result of several runs.

    :param runs: of each topology on which it was begun, in order.
    :param programs: all that were to be run, each on another topology.
    """
    results = list(runs.values())
    first = next((each for each in results if each.platform is not None), None)
    return Result(
        tcelab=tcelab.__version__,
        verdict=_verdict(runs, [program.topology.name for program in programs]),
        program=ProgramInfo(
            name=programs[0].name,
            topology=", ".join(program.topology.name for program in programs),
            seed=programs[0].seed,
            operations=sum(len(program.ops) for program in programs),
            sha256=hashlib.sha256(b"".join(program.to_json() for program in programs)).hexdigest(),
        ),
        platform=None if first is None else first.platform,
        versions={} if first is None else first.versions,
        options=dict(options),
        timings=_added([each.timings for each in results]),
        artefacts={name: f"{name}/result.json" for name in runs},
        ended=RunEnded(
            complete=len(runs) == len(programs) and all(each.ended.complete for each in results),
            done=sum(each.ended.done for each in results),
            report=[f"{name}: {line}" for name, each in runs.items() for line in each.ended.report],
            kernel_died=any(each.ended.kernel_died for each in results),
        ),
        laws=dict(LAWS),
        runs=[msgspec.structs.replace(each, timeline=[]) for each in results],
    )


def _verdict(runs: Mapping[str, Result], names: Sequence[str]) -> Verdict:
    """A finding stands whatever else happened: 1 beats 125, and 125 beats 0."""
    verdicts = {name: each.verdict for name, each in runs.items()}
    left_out = [f"{name}: it was not run" for name in names if name not in runs]
    could_not = [f"{name}: {reason}" for name, each in verdicts.items() for reason in each.could_not] + left_out
    found = any(each.result == "finding" for each in verdicts.values())
    word = exitcode.result(found=found, undecided=could_not or not verdicts)
    findings = [_of(name, finding) for name, each in verdicts.items() for finding in each.findings]
    return Verdict(
        result=word,
        exit_code=exitcode.of_result(word),
        findings=findings[:KEEP],
        could_not=could_not,
        evidence=_evidence([each.evidence for each in verdicts.values()]),
        more=sum(each.more for each in verdicts.values()) + max(0, len(findings) - KEEP),
    )


def _of(name: str, finding: Finding) -> Finding:
    """Its step is one of the program of that topology."""
    return msgspec.structs.replace(finding, message=f"{name}: {finding.message}")


def _evidence(all_: Sequence[Evidence]) -> Evidence:
    """Counts are added; what checkpoints cost is told of each run alone."""
    plain = [msgspec.to_builtins(each) for each in all_]
    for each in plain:
        each["seconds"], each["batches"] = {}, []
        each["dma"]["control"] = []
    out = msgspec.convert(_sum(plain) if plain else {}, Evidence)
    out.dma.control = sorted({device for each in all_ for device in each.dma.control})
    return out


def _sum(values: Sequence[Any]) -> Any:  # noqa: ANN401 - numbers, and dicts of such
    first = values[0]
    if isinstance(first, dict):
        keys = dict.fromkeys(key for each in values for key in each)
        return {key: _sum([each[key] for each in values if key in each]) for key in keys}
    return [] if isinstance(first, list) else sum(values)


def _added(timings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    out: dict[str, float] = {}
    for each in timings:
        for what, seconds in each.items():
            out[what] = out.get(what, 0.0) + seconds
    return out


def render_series(console: Console, result: Result, *, folder: Path | None = None) -> None:
    """Print what all runs gave together; each has told its own findings before."""
    names = [] if result.program is None else result.program.topology.split(", ")
    told = {each.program.topology: each for each in result.runs if each.program is not None}
    for line in table_lines({name: told[name].isolations for name in names if name in told}):
        say(console, line)
    ran = {name: told[name].verdict.result if name in told else "not run" for name in names}
    say(console, f"topologies: {', '.join(f'{name} {word}' for name, word in ran.items())}")
    evidence = result.verdict.evidence
    say(
        console,
        f"in all: {evidence.operations:,} operations, {evidence.checkpoints:,} checkpoints, "
        f"{evidence.entries:,} entries compared, {evidence.dma.transfers:,} transfers of devices",
    )
    word, style = WORDS[result.verdict.result]
    where = f"; artefacts in {folder}" if folder else ""
    say(console, f"{word} (exit code {result.verdict.exit_code}){where}", style)
