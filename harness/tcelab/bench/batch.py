"""What a map and an unmap of n pages cost: how much of it is the call, how much each page.

The remark that this measures is of 2013 (the sPAPR TCE VFIO driver's first patch): a call maps 1 to 32 pages, and
there is no way to make fewer calls.
"""

from __future__ import annotations

import logging
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from tcelab.bench import BenchJob, Figure, Fit, Measured, ways
from tcelab.bench.benchguests import keep_failed, kept, opened, told
from tcelab.emulator.reference import second_opinion
from tcelab.errors import UsageError
from tcelab.job import setup
from tcelab.judge import Judge, Verdict
from tcelab.logs import NOTE
from tcelab.papr import tce
from tcelab.program import Checkpoint, Native, Op, Page, Program, Repeat
from tcelab.program.topology import Topology
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.loop import Tee, perform_program
from tcelab.run.record import RunRecord, Step
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE, Pe

_LOG: Final = logging.getLogger(__name__)

CALLS: Final = 128
"""Calls timed together, each at its own place of the window: every map meets empty entries, every unmap live ones."""

PAIRS: Final = 1000
"""Rounds of map and unmap for the comparison of the two loops."""

KINDS: Final = ("map", "unmap")
LOOPS: Final[tuple[Literal["c", "python"], ...]] = ("c", "python")
_US: Final = 1e6
_BUFFER: Final = "batch"


def sizes(text: str) -> list[int]:
    """Parse batch sizes: `1..32`, `1,2,4`, or both.

    :raise UsageError: the text is no list of sizes.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("..")
        try:
            found.update(range(int(first), int(last or first) + 1))
        except ValueError:
            found = set()
            break
    if not found or min(found) < 1:
        raise UsageError(f"--sizes {text}: sizes are pages, as in 1..32 or 1,2,4")
    return sorted(found)


@dataclass(slots=True)
class BatchPlan:
    """The program, and what each of its timed operations tells: (`map`, `unmap`, `c` or `python`; pages) by number;
    of a plan that compares them, the way into a table.

    :ivar natives: by number of a checkpoint, what the C program is to do then.
    """

    ops: list[Op] = field(default_factory=list)
    timed: dict[int, tuple[str, int]] = field(default_factory=dict)
    natives: dict[int, Native] = field(default_factory=dict)

    def time(self, what: str, pages: int, ops: list[Op]) -> None:
        self.timed[len(self.ops)] = what, pages
        self.ops += ops


def plan(topology: Topology, batches: Sequence[int], turns: int) -> BatchPlan:
    """Every timed operation is first done once before a checkpoint.

    :raise UsageError: no PE, or a window in which the places of the largest batch do not fit.
    """
    pes = b.pes(topology, _BUFFER)
    if not pes:
        raise UsageError(f"topology {topology.name!r} has no device under test")
    pe, largest = pes[0], max(batches)
    if CALLS * largest > pe.entries:
        most = pe.entries // CALLS
        raise UsageError(f"batches of {largest} pages: {CALLS} of them must fit the window, so {most} is the most")
    made = BatchPlan()
    made.ops += [*b.vmlck(), *b.pins(), *b.buffer(_BUFFER, largest, 1)]
    made.ops += [*b.bind(pe), *b.open_container(pe), *b.enable(pe)]
    made.ops += b.tag(Page(_BUFFER), largest, pe.liobn, pe.start, 1)
    for size in batches:
        made.ops += [*_maps(pe, size), *b.pins(), *b.checkpoint(f"batch: map {size}", batch=size)]
        made.ops += [*_unmaps(pe, size), *b.pins(), *b.checkpoint(f"batch: unmap {size}", batch=size)]
    for loop in LOOPS:
        made.ops += [*_pairs(pe, loop), *b.pins(), *b.checkpoint(f"batch: loop {loop}")]
    for turn in range(turns):
        _turn(made, pe, batches, turn)
        made.ops += [*b.pins(), *b.checkpoint(f"batch: turn {turn + 1} of {turns}")]
    made.ops += [*b.disable(pe), *b.close(pe.group, pe.container), *b.vmlck(), *b.pins()]
    made.ops += b.checkpoint("batch: end", stream=True)
    return made


def _turn(made: BatchPlan, pe: Pe, batches: Sequence[int], turn: int) -> None:
    """Each size once, in a different order each turn, so that a slowing host does not bend the line."""
    order = list(batches)
    random.Random(turn).shuffle(order)  # noqa: S311 - repeatable on purpose
    for size in order:
        made.time("map", size, _maps(pe, size))
        made.time("unmap", size, _unmaps(pe, size))
    for loop in LOOPS if turn % 2 else reversed(LOOPS):
        made.time(loop, 1, _pairs(pe, loop))


def ways_plan(topology: Topology, batches: Sequence[int], turns: int) -> BatchPlan | None:
    """Each way into a table for each size, one after the other: side by side. None: that takes two PEs."""
    pes = b.pes(topology, _BUFFER)
    if len(pes) < 2:  # noqa: PLR2004
        return None
    pe, other = pes[:2]
    made = BatchPlan([*b.vmlck(), *b.pins(), *b.buffer(_BUFFER, max(batches), 1), *b.bind(pe), *b.open_container(pe)])
    made.ops += [*b.enable(pe), *b.bind(other), *b.tag(Page(_BUFFER), max(batches), pe.liobn, pe.start, 1)]
    made.ops += b.map_dma(pe, Page(_BUFFER), pe.start, max(batches), tce.PERMISSIONS)
    made.ops += [*b.checkpoint("batch: ways, mapped", stream=True), *b.unmap_dma(pe, pe.start, max(batches))]
    for turn in range(turns):
        for size in batches:
            made.natives[len(made.ops)] = ways.native(other, size)
            made.ops += b.checkpoint(f"batch: by the C program, {size}")
            for way, ops in ways.timed(pe, other, _BUFFER, size).items():
                made.timed[len(made.ops)] = way, size
                made.ops += ops
        made.ops += [*b.pins(), *b.checkpoint(f"batch: ways, turn {turn + 1} of {turns}")]
    made.ops += [*b.disable(pe), *b.close(pe.group, pe.container), *b.vmlck(), *b.pins()]
    made.ops += b.checkpoint("batch: ways, end", stream=True)
    return made


def _maps(pe: Pe, size: int) -> list[Op]:
    """The same pages at each place, so that only the size differs."""
    places = _places(pe, size)
    return b.repeat([op for iova in places for op in b.map_dma(pe, Page(_BUFFER), iova, size, tce.PERMISSIONS)], 1)


def _unmaps(pe: Pe, size: int) -> list[Op]:
    return b.repeat([op for iova in _places(pe, size) for op in b.unmap_dma(pe, iova, size)], 1)


def _places(pe: Pe, size: int) -> range:
    return range(pe.start, pe.start + CALLS * size * PAGE, size * PAGE)


def _pairs(pe: Pe, loop: Literal["c", "python"]) -> list[Op]:
    pair = [*b.map_dma(pe, Page(_BUFFER), pe.start, 1, tce.PERMISSIONS), *b.unmap_dma(pe, pe.start, 1)]
    return b.repeat(pair, PAIRS, loop)


def measure(job: BenchJob, batches: Sequence[int]) -> Measured:
    """Microseconds of a call and pages per second for each batch size, in one guest, judged.

    :raise UsageError: see `plan`.
    """
    made = plan(job.choice.topology, batches, job.repeat)
    ready = setup.prepare(job.choice)
    program = Program(name="bench batch", topology=job.choice.topology, ops=made.ops)
    with kept() as folder, opened(ready, job.limits, folder) as session:
        record, verdict = _judged(program, session, made, [])
        last = record
        on, compared = told(session.facts), []
        if not verdict.exit_code and session.facts.hypercalls:
            other = ways_plan(job.choice.topology, batches, min(job.repeat, ways.TURNS))
            if other is not None:
                session.renew()
                program = Program(name="bench ways", topology=job.choice.topology, ops=other.ops)
                found: list[tuple[int, float]] = []
                last, verdict = _judged(program, session, other, found)
                compared = [] if verdict.exit_code else ways.figures(_compared(other, last, found))
        elif not verdict.exit_code:
            said = "the guest's kernel has no module for hypercalls: the ways into a table are not compared"
            _LOG.warning(said, extra=NOTE)
    if verdict.exit_code:
        keep_failed(folder, job, program, last, verdict)
        return Measured(figures=[], on=on, verdict=verdict)
    figures = _figures(made, record)
    fits = [fit(kind, curve(figures, kind)) for kind in KINDS if len(batches) > 1]
    lines = [*_text(figures, fits, batches, on), *ways.text(compared)]
    return Measured(figures=[*figures, *compared], fits=fits, on=on, verdict=verdict, text=lines)


def _judged(
    program: Program, session: QemuSession, made: BatchPlan, found: list[tuple[int, float]]
) -> tuple[RunRecord, Verdict]:
    """:param found: collects the C program's pages and seconds of a pair, for each run."""
    judge = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))

    def then(step: Step) -> None:
        if isinstance(step.op, Checkpoint) and step.op.label.startswith(("batch: turn", "batch: ways")):
            _LOG.info("%s", step.op.label, extra=NOTE)
        if (op := made.natives.get(step.number)) is not None and not judge.findings:
            (outcome,) = session.perform([op])
            found.append((int(op.args[1]), ways.seconds(op, outcome)))

    record = perform_program(program, session, Tee(judge, then))
    return record, judge.verdict(record)


def _compared(
    made: BatchPlan, record: RunRecord, found: Sequence[tuple[int, float]]
) -> dict[tuple[str, int], list[float]]:
    """Seconds of a batch, by way and size."""
    values: dict[tuple[str, int], list[float]] = {}
    for number, key in sorted(made.timed.items()):
        step = record.steps[number]
        assert step.outcome is not None
        values.setdefault(key, []).append(ways.seconds(step.op, step.outcome))
    for size, taken in found:
        values.setdefault((ways.NATIVE, size), []).append(taken)
    return values


def _figures(made: BatchPlan, record: RunRecord) -> list[Figure]:
    values: dict[tuple[str, int], list[float]] = {}
    for number, key in sorted(made.timed.items()):
        step = record.steps[number]
        assert isinstance(step.op, Repeat)
        assert step.outcome is not None
        per_call = step.outcome.fields["seconds"] / step.outcome.fields["calls"]
        values.setdefault(key, []).append(per_call * _US)
    out = [Figure(f"{kind} {size}", "us/call", values[kind, size]) for kind in KINDS for size in _sizes(values)]
    out += [
        Figure(f"{kind} {size}: pages", "pages/s", [size * _US / each for each in values[kind, size]])
        for kind in KINDS
        for size in _sizes(values)
    ]
    c, python = (values[loop, 1] for loop in LOOPS)
    out += [
        Figure("map and unmap 1, loop in C", "us/call", c),
        Figure("map and unmap 1, loop in Python", "us/call", python),
    ]
    return [*out, Figure("loop in Python / loop in C", "ratio", [p / q for p, q in zip(python, c, strict=True)])]


def _sizes(values: dict[tuple[str, int], Any]) -> list[int]:
    return sorted(size for kind, size in values if kind == KINDS[0])


def curve(figures: Sequence[Figure], kind: str) -> dict[int, list[float]]:
    """Microseconds of a call by batch size."""
    named = {figure.name.rpartition(" "): figure for figure in figures if figure.unit == "us/call"}
    return {int(size): each.values for (what, _, size), each in named.items() if what == kind}


def fit(name: str, values: dict[int, list[float]]) -> Fit:
    """The line call + n * page through the medians of two sizes or more."""
    pages = np.array(sorted(values), float)
    medians = np.array([statistics.median(values[int(n)]) for n in pages])
    terms = np.column_stack([np.ones_like(pages), pages])
    (call, page), *_ = np.linalg.lstsq(terms, medians)
    residual = float(np.sqrt(np.mean((medians - terms @ np.array([call, page])) ** 2)))
    return Fit(name=name, unit="us", call=float(call), page=float(page), residual=residual)


def _text(figures: Sequence[Figure], fits: Sequence[Fit], batches: Sequence[int], on: dict[str, str]) -> list[str]:
    """Medians with their extremes, a line for each size; then the fits."""
    by_name = {figure.name: figure for figure in figures}
    out = [f"{what + ':':8}{value}" for what, value in on.items()]
    out.append(f"{'':3}  {'us per call: median (least .. most)':^58}  {'pages/s: median':^21}")
    out.append(f"{'n':>3}  {'map':^28}  {'unmap':^28}  {'map':>10} {'unmap':>10}")
    for size in batches:
        calls = [by_name[f"{kind} {size}"] for kind in KINDS]
        cells = [f"{each.median:8.2f} ({min(each.values):7.2f} .. {max(each.values):7.2f})" for each in calls]
        rates = [f"{by_name[f'{kind} {size}: pages'].median:10,.0f}" for kind in KINDS]
        out.append(f"{size:3}  {'  '.join(cells)}  {' '.join(rates)}")
    for each in fits:
        line = f"a call costs {each.call:.2f} us, each page {each.page:.2f} us (residual {each.residual:.2f} us)"
        out.append(f"{each.name + ':':6} {line}")
    ratio = figures[-1]
    out.append(
        f"{ratio.name}, 1 page: {ratio.median:.2f} ({min(ratio.values):.2f} .. {max(ratio.values):.2f}), "
        f"{len(ratio.values)} turns"
    )
    return out
