"""How many transfers a second a probe does, each judged, beside an edu in the same guest; and by messages beside shared
memory, asked by the harness.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Final, Literal

import msgspec

from tcelab.bench import BenchJob, Figure, Measured
from tcelab.bench.benchguests import kept, opened, told
from tcelab.emulator.reference import second_opinion
from tcelab.errors import HarnessError
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.papr import tce
from tcelab.program import Burst, Op, Page, Program, Transfer
from tcelab.program.topology import PROBE, topology
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.loop import Tee, perform_program
from tcelab.run.record import RunRecord, Step
from tcelab.scenarios import vocabulary as b

TRANSFERS: Final = {"probe": 200, "edu": 5}
"""Transfers of one turn, by the device's model: an edu takes 0.1 s for each."""
SIZE: Final = 64
SECONDS: Final = 0.5
"""For which the harness asks for transfers, in each mode and turn."""

NAMES: Final = {"edu": "edu, judged", "probe": "probe, judged", "message": "by messages", "shared": "shared memory"}
"""Of the figures."""
_AT: Final = 0x10000
_PES: Final = dict(zip(TRANSFERS, b.pes(topology(PROBE), "bench"), strict=True))
_UNIT: Final = "transfers/s"


def plan(turns: int) -> list[Op]:
    """In each turn transfers of the probe, those of the edu, each followed by a checkpoint."""
    out: list[Op] = [*b.vmlck(), *b.pins(), *b.buffer("bench", 2, 1)]
    for number, pe in enumerate(_PES.values()):
        out += [*b.bind(pe), *b.open_container(pe), *b.enable(pe), *b.open_device(pe)]
        out += b.tag(Page("bench", number), 1, pe.liobn, _AT, number)
        out += b.map_dma(pe, Page("bench", number), _AT, 1, tce.READ | tce.WRITE)
    out += b.checkpoint("bench: mapped")
    for _ in range(turns):
        for model, pe in _PES.items():
            moves = [Transfer(iova=_AT, size=SIZE, to_memory=bool(i % 2)) for i in range(TRANSFERS[model])]
            out += [Burst(file=pe.device, transfers=moves, expect="passed"), *b.checkpoint(f"bench: {model}")]
    return [*out, *b.checkpoint("bench: end", stream=True)]


def measure(job: BenchJob) -> Measured:
    """Transfers per second: done and judged, by model; and asked by the harness, by mode.

    :raise HarnessError: QEMU refuses what its table allows.
    """
    program = Program(name="bench probe", topology=topology(PROBE), ops=plan(job.repeat))
    ready = setup.prepare(msgspec.structs.replace(job.choice, topology=program.topology))
    seconds: dict[int, float] = {}

    def then(step: Step) -> None:
        seconds[step.number] = time.perf_counter()

    with ExitStack() as stack:
        session = stack.enter_context(opened(ready, job.limits, stack.enter_context(kept()), boot=True))
        judge = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))
        record = perform_program(program, session, Tee(judge, then))
        verdict, on = judge.verdict(record), told(session.facts)
        if verdict.exit_code:
            return Measured(figures=[], on=on, verdict=verdict)
        figures = [*rates(record, seconds), *_asked(session, job.repeat)]
    return Measured(figures=figures, on=on, verdict=verdict, text=text(figures, on))


def rates(record: RunRecord, seconds: Mapping[int, float]) -> list[Figure]:
    """Transfers per second, done and judged, from the checkpoint before them to their own."""
    values: dict[str, list[float]] = {model: [] for model in reversed(TRANSFERS)}
    models = {pe.device: model for model, pe in _PES.items()}
    for before, step in pairwise(record.steps):
        if isinstance(step.op, Burst):
            took = seconds[step.number + 1] - seconds[before.number]
            values[models[step.op.file]].append(len(step.op.transfers) / took)
    return [Figure(NAMES[model], _UNIT, each) for model, each in values.items()]


def _asked(session: QemuSession, turns: int) -> list[Figure]:
    modes: tuple[Literal["message", "shared"], ...] = ("message", "shared")
    values: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(turns):
        for mode in modes:
            values[mode].append(portal().call(_reads(session, mode)))
    return [Figure(NAMES[mode], _UNIT, each) for mode, each in values.items()]


async def _reads(session: QemuSession, mode: Literal["message", "shared"]) -> float:
    probe = session.guest.probes.probe(_PES["probe"].name)
    began, count = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < SECONDS:
        done = await probe.dma(_AT, SIZE, mode)
        if done.refused:
            raise HarnessError(f"a probe's read of {SIZE} bytes at {_AT:#x} was refused: {done.refused[0]}")
        count += 1
    return count / took


def text(figures: Sequence[Figure], on: Mapping[str, str]) -> list[str]:
    """Figures and their ratios, beside those to reach."""
    out = [f"{what + ':':8}{value}" for what, value in on.items()]
    out.append(f"{'figure':16} {'median':>9} {'least':>9} {'most':>9} {'n':>4}")
    medians = {each.name: each.median for each in figures}
    for each in figures:
        cells = " ".join(f"{number:9,.0f}" for number in (each.median, min(each.values), max(each.values)))
        out.append(f"{each.name:16} {cells} {len(each.values):4}  {each.unit}")
    for one, other, least in (("probe", "edu", 20), ("shared", "message", 3)):
        ratio = medians[NAMES[one]] / medians[NAMES[other]]
        out.append(f"{NAMES[one]} / {NAMES[other]}: {ratio:.1f}; to reach: {least}")
    return out
