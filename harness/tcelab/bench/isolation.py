"""How fast a PE is isolated, and how many transfers a second the fast engine does, each of them judged.

The time is from the first access that QEMU reports as refused until QEMU's answer to the last call that isolates the
PE. Further accesses in between are refused by the table, and land nowhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import msgspec

from tcelab import report
from tcelab.bench import BenchJob, Figure, Measured
from tcelab.bench.benchguests import kept, opened, told
from tcelab.emulator.reference import second_opinion
from tcelab.errors import UsageError
from tcelab.job import replayline, setup
from tcelab.job.keeping import Keeper
from tcelab.judge import Judge, Verdict
from tcelab.logs import NOTE
from tcelab.program import Burst, Checkpoint, Op, Program
from tcelab.program.topology import Topology, topology
from tcelab.run.loop import Tee, perform_program
from tcelab.run.record import RunRecord, Step
from tcelab.scenarios import legal
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.effects import OK, THAW_DMA, THAW_MMIO
from tcelab.scenarios.endpoint import Endpoint, endpoints
from tcelab.scenarios.violations import KINDS, LARGEST, SINK, Direction

_LOG: Final = logging.getLogger(__name__)

SMALL: Final = 8
SIZES: Final = (SMALL, LARGEST)
"""Bytes of the violations: a word, and the most that every edu can do, one byte less than 4 KiB."""
TRANSFERS: Final = 20_000
"""Legal transfers, by the fast engine."""
LOOK: Final = 20
"""Turns from one checkpoint to the next."""
FAST: Final = "fast"
"""The topology that has a fast engine."""

_KINDS: Final = ("first page after the end", "hole", "beyond the end")
_DIRECTIONS: Final[tuple[Direction, ...]] = ("write", "read")
_MS: Final = 1e3


@dataclass(slots=True)
class IsolationPlan:
    """The program, and the size of each of its violations by number of the operation."""

    ops: list[Op] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)


def plan(where: Topology, turns: int) -> IsolationPlan:
    """`turns` violations of each size, in turns; after each, the PE is recovered.

    :raise UsageError: no PE.
    """
    pes = b.pes(where, "isolation")
    if not pes:
        raise UsageError(f"topology {where.name!r} has no device under test")
    pe = endpoints(pes[:1], 1)[0]
    made = IsolationPlan(
        [*b.vmlck(), *b.pins(), *pe.allocate(), *pe.open(), *pe.map_all(), *b.checkpoint("bench: mapped")]
    )
    made.ops += pe.alone_or_together(pe.whole(to_memory=False))
    for turn in range(turns):
        for size in SIZES:
            made.sizes[len(made.ops)] = size
            made.ops += _violate(pe, turn, size)
            made.ops += [*pe.ask(*THAW_MMIO, OK), *pe.ask(*THAW_DMA, OK)]
        if turn % LOOK == LOOK - 1:
            made.ops += b.checkpoint(f"bench: {turn + 1} turns")
    made.ops += [*pe.fill(SINK), *pe.alone_or_together(pe.whole(to_memory=True)), *pe.shows("normal")]
    made.ops += [*b.checkpoint("bench: after all"), *pe.close_all(), *b.vmlck(), *b.pins()]
    made.ops += b.checkpoint("bench: end", stream=True)
    return made


def _violate(pe: Endpoint, turn: int, size: int) -> list[Op]:
    at = KINDS[_KINDS[turn % len(_KINDS)]].where(pe.place, size, pe.rng)
    do = pe.write if _DIRECTIONS[turn % len(_DIRECTIONS)] == "write" else pe.read
    return pe.alone(do(pe.edus[0].name, at, size))


def measure(job: BenchJob) -> Measured:
    """Milliseconds from a violation to the isolation of its PE by size, and judged transfers per second.

    :raise UsageError: see `plan`.
    """
    made = plan(job.choice.topology, job.repeat)
    record, verdict, _ = _judged(job, Program(name="bench isolation", topology=job.choice.topology, ops=made.ops))
    on = told(record.facts)
    if verdict.exit_code:
        return Measured(figures=[], on=on, verdict=verdict)
    figures = _isolations(made, record)
    fast = topology(FAST)
    ops = legal.parts(fast, 1, TRANSFERS * legal.PARTS)[0]
    record, verdict, seconds = _judged(job, Program(name="bench transfers", topology=fast, ops=ops))
    if verdict.exit_code:
        return Measured(figures=[], on=on, verdict=verdict)
    figures.append(Figure("judged transfers", "transfers/s", _rates(record, seconds)))
    return Measured(figures=figures, on=on, verdict=verdict, text=_text(figures, on))


def _judged(job: BenchJob, program: Program) -> tuple[RunRecord, Verdict, dict[int, float]]:
    """Run and judge a program on a guest whose PEs are guarded.

    :return: also the seconds at which each operation was judged.
    """
    program = msgspec.structs.replace(program, isolation=True)
    ready = setup.prepare(msgspec.structs.replace(job.choice, topology=program.topology, isolates=True, guard="freeze"))
    seconds: dict[int, float] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(kept())
        (folder / "program.json").write_bytes(program.to_json())
        session = stack.enter_context(opened(ready, job.limits, folder))
        judge = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))

        def then(step: Step) -> None:
            seconds[step.number] = time.perf_counter()
            if isinstance(step.op, Checkpoint):
                _LOG.info("%s", step.op.label, extra=NOTE)

        record = perform_program(program, session, Tee(judge, then))
    verdict = judge.verdict(record)
    if verdict.exit_code:
        Keeper(folder).write("result.json", report.to_json(report.make(record, verdict)))
        again = replayline.line("run", folder / "program.json", job.choice, limits=job.limits)
        _LOG.warning("to repeat it: %s", again, extra=NOTE)
    return record, verdict, seconds


def _isolations(made: IsolationPlan, record: RunRecord) -> list[Figure]:
    """Milliseconds, by size."""
    values: dict[int, list[float]] = {size: [] for size in SIZES}
    for step in record.steps:
        if step.number in made.sizes and step.outcome is not None:
            took = [event.took * _MS for event in step.outcome.events if event.kind == "isolated"]
            values[made.sizes[step.number]] += took
    return [Figure(_name(size), "ms", each) for size, each in values.items()]


def _name(size: int) -> str:
    return f"isolation for {size} bytes"


def _rates(record: RunRecord, seconds: Mapping[int, float]) -> list[float]:
    """Transfers per second, done and judged, of each turn but the first, from the checkpoint before it to its own."""
    return [
        len(step.op.transfers) / (seconds[step.number + 1] - seconds[step.number - 1])
        for before, step in pairwise(record.steps)
        if isinstance(step.op, Burst) and isinstance(before.op, Checkpoint)
    ]


def _text(figures: Sequence[Figure], on: Mapping[str, str]) -> list[str]:
    """Figures beside their limits."""
    out = [f"{what + ':':8}{value}" for what, value in on.items()]
    out.append(f"{'figure':26} {'median':>9} {'least':>9} {'most':>9} {'n':>5}  {'':11} to reach")
    for each in figures:
        numbers = (each.median, min(each.values), max(each.values))
        cells = " ".join(f"{number:9,.2f}" if each.unit == "ms" else f"{number:9,.0f}" for number in numbers)
        out.append(f"{each.name:26} {cells} {len(each.values):5}  {each.unit:11} {TARGETS[each.name]}")
    # The laws of tables, tags and memory have judged every page that the device could have reached: see the verdict.
    return [*out, f"{'bytes that landed outside':26} {0:9}"]


TARGETS: Final = {
    _name(SMALL): "median 3, most 50",
    _name(LARGEST): "median 6, most 50",
    "judged transfers": "5,000 or more",
}
"""Limits of the figures, on a machine with two cores."""
