"""`result.json`: the whole result of a run, in a versioned form that other programs may rely on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

import tcelab
from tcelab.coverage.result import Coverage
from tcelab.errors import TcelabError, died
from tcelab.judge import LAWS, Verdict
from tcelab.judge.verdict import never_began
from tcelab.program import Program
from tcelab.report.hcalltable import HypercallRow, hypercall_rows
from tcelab.report.isolationlog import Isolations, Moment, isolations, timeline
from tcelab.report.lifelog import LifeEvent, life
from tcelab.run.record import RunRecord
from tcelab.run.resultfile import SCHEMA, ResultFile, decode, to_json


class ProgramInfo(msgspec.Struct, kw_only=True):
    """Which program was run.

    :ivar name: name of the scenario, or what the program's file calls it.
    :ivar topology: name of its topology; of several runs, all names with commas between them.
    :ivar seed: what its random choices came from.
    :ivar operations: how many it has.
    :ivar sha256: of its JSON form, as `Program.to_json` writes it.
    :ivar test: the pytest test that recorded it, empty for all others.
    """

    name: str
    topology: str
    seed: int
    operations: int
    sha256: str
    test: str = ""


class PlatformInfo(msgspec.Struct, kw_only=True):
    """What it ran on.

    :ivar name: `qemu` or `emulator`.
    :ivar page_size: page size of the guest's kernel, bytes.
    :ivar ram: guest RAM, bytes.
    :ivar nonce: hex digits that the tags of this run's pages contain.
    :ivar cannot: views that the platform cannot give, and why.
    """

    name: str
    page_size: int
    ram: int
    nonce: str
    cannot: dict[str, str]


class RunEnded(msgspec.Struct, kw_only=True):
    """How the run ended.

    :ivar complete: every operation of the program was done.
    :ivar done: operations done.
    :ivar report: the error's lines (message, phase, console, next step), empty when all was done.
    :ivar kernel_died: an oops, panic or lockup of the kernel ended the run.
    :ivar in_flight: number of the operation that was begun and not finished, if known.
    """

    complete: bool
    done: int
    report: list[str] = []
    kernel_died: bool = False
    in_flight: int | None = None


class Result(ResultFile, kw_only=True):
    """The result of a run, or of several runs together.

    :ivar verdict: the answer, with its findings and its evidence.
    :ivar program: None when the run failed before it had one.
    :ivar platform: None when the run never began.
    :ivar ended: how far the run came, and what ended it.
    :ivar isolations: for each kind of violation, how many were tried, and how many isolated the PE.
    :ivar timeline: events of each PE, and calls of firmware services, in order.
    :ivar life: events in the life of a table, in order.
    :ivar hypercalls: the conformance table of scenario `hcalls`.
    :ivar coverage: what was executed of the kernel; null unless `--coverage` was given.
    :ivar runs: the result of each run, if several share this file; the timeline is only in each run's own file.
    """

    verdict: Verdict
    program: ProgramInfo | None
    platform: PlatformInfo | None
    ended: RunEnded
    isolations: list[Isolations] = msgspec.field(default_factory=list)
    timeline: list[Moment] = msgspec.field(default_factory=list)
    life: list[LifeEvent] = msgspec.field(default_factory=list)
    hypercalls: list[HypercallRow] = msgspec.field(default_factory=list)
    coverage: Coverage | None = None
    runs: list[Result] = msgspec.field(default_factory=list)


def make(
    run: RunRecord,
    verdict: Verdict,
    *,
    options: Mapping[str, Any] | None = None,
    timings: Mapping[str, float] | None = None,
    artefacts: Mapping[str, str] | None = None,
    replay: str = "",
    coverage: Coverage | None = None,
) -> Result:
    """The result of a run that was judged."""
    facts = run.facts
    return Result(
        tcelab=tcelab.__version__,
        verdict=verdict,
        program=_program(run.program),
        platform=PlatformInfo(
            name=facts.platform,
            page_size=facts.page_size,
            ram=facts.ram,
            nonce=facts.nonce.hex(),
            cannot=facts.cannot,
        ),
        versions=facts.versions,
        options=dict(options or {}),
        timings=dict(timings or {}),
        artefacts=dict(artefacts or {}),
        ended=_ended(run),
        laws=dict(LAWS),
        isolations=isolations(run, verdict),
        timeline=timeline(run),
        life=life(run),
        hypercalls=hypercall_rows(run, verdict),
        replay=replay,
        coverage=coverage,
    )


def failed(
    error: TcelabError,
    program: Program | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    timings: Mapping[str, float] | None = None,
    artefacts: Mapping[str, str] | None = None,
    versions: Mapping[str, Any] | None = None,
    replay: str = "",
    coverage: Coverage | None = None,
) -> Result:
    """The result of a run that never began: a missing QEMU, a guest that was lost before its program.

    A kernel that died once its agent had answered is a finding all the same.
    """
    return Result(
        tcelab=tcelab.__version__,
        verdict=never_began(error),
        program=None if program is None else _program(program),
        platform=None,
        versions=dict(versions or {}),
        options=dict(options or {}),
        timings=dict(timings or {}),
        artefacts=dict(artefacts or {}),
        ended=RunEnded(complete=False, done=0, report=error.report().splitlines()),
        laws=dict(LAWS),
        replay=replay,
        coverage=coverage,
    )


def write(result: Result, path: Path) -> None:
    path.write_bytes(to_json(result))


def load(data: bytes, source: str = "result") -> Result:
    """Read a result back.

    :raise UsageError: no result, or of another schema.
    """
    return decode(data, Result, SCHEMA, source, "a result")


def _program(program: Program) -> ProgramInfo:
    return ProgramInfo(
        name=program.name,
        topology=program.topology.name,
        seed=program.seed,
        operations=len(program.ops),
        sha256=hashlib.sha256(program.to_json()).hexdigest(),
        test=program.test,
    )


def _ended(run: RunRecord) -> RunEnded:
    complete = run.ending is None and len(run.steps) == len(run.program.ops)
    if run.ending is None:
        return RunEnded(complete=complete, done=len(run.steps))
    error = run.ending.error
    return RunEnded(
        complete=False,
        done=len(run.steps),
        report=error.report().splitlines(),
        kernel_died=died(error),
        in_flight=run.ending.in_flight,
    )
