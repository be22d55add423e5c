"""One result of several runs: a scenario on each of its topologies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

import tcelab
from tcelab.coverage.result import together
from tcelab.coverage.text import unit_lines
from tcelab.errors import counted
from tcelab.judge import LAWS
from tcelab.judge.verdict import of_several
from tcelab.program import Program
from tcelab.report.isolationlog import table_lines
from tcelab.report.result import ProgramInfo, Result, RunEnded
from tcelab.report.text import say, tell_verdict


def merge(runs: Mapping[str, Result], programs: Sequence[Program], options: Mapping[str, Any]) -> Result:
    """The result of several runs.

    :param runs: the result for each topology on which a run was begun, in order.
    :param programs: all programs that were to run, each on another topology.
    """
    results = list(runs.values())
    verdicts = {name: each.verdict for name, each in runs.items()}
    first = next((each for each in results if each.platform is not None), None)
    return Result(
        tcelab=tcelab.__version__,
        verdict=of_several(verdicts, [program.topology.name for program in programs]),
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
        coverage=together(recorded) if (recorded := [each.coverage for each in results if each.coverage]) else None,
        runs=[msgspec.structs.replace(each, timeline=[], coverage=None) for each in results],
    )


def _added(timings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    out: dict[str, float] = {}
    for each in timings:
        for what, seconds in each.items():
            out[what] = out.get(what, 0.0) + seconds
    return out


def render_series(console: Console, result: Result, *, folder: Path | None = None) -> None:
    """Print the joint result of all runs; each has printed its own findings before."""
    names = [] if result.program is None else result.program.topology.split(", ")
    told = {each.program.topology: each for each in result.runs if each.program is not None}
    for line in table_lines({name: told[name].isolations for name in names if name in told}):
        say(console, line)
    if result.coverage is not None:
        for line in unit_lines(result.coverage):
            say(console, line)
    ran = {name: told[name].verdict.result if name in told else "not run" for name in names}
    say(console, f"topologies: {', '.join(f'{name} {word}' for name, word in ran.items())}")
    if result.replay and result.verdict.result != "pass":
        say(console, f"replay:    {result.replay}")
    evidence = result.verdict.evidence
    say(
        console,
        f"in all: {counted(evidence.operations, 'operation')}, {counted(evidence.checkpoints, 'checkpoint')}, "
        f"{counted(evidence.entries, 'entry', 'entries')} compared, "
        f"{counted(evidence.dma.transfers, 'transfer')} of devices",
    )
    tell_verdict(console, result.verdict, folder)
