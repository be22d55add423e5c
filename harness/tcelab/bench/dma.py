"""What the kernel's DMA API costs a driver: maps and unmaps of scatter-gather lists on command, and in a loop of the
driver's own, over the same lists; and how many transfers a second are made and judged, by each kind of device.

Lists are timed inside the guest, by its clock; transfers on the host, from one checkpoint to the next, so that the
judging is in it.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from tceagent import dmadriver
from tcelab.bench import BenchJob, Figure, Measured
from tcelab.bench.benchguests import keep_failed, kept, opened, told
from tcelab.emulator.reference import second_opinion
from tcelab.errors import HarnessError
from tcelab.job import setup
from tcelab.judge import Judge, Verdict
from tcelab.logs import NOTE
from tcelab.program import (
    Checkpoint,
    DmaBind,
    DmaMap,
    DmaMask,
    DmaMove,
    DmaRepeat,
    DmaUnbind,
    DmaUnmap,
    Op,
    Page,
    Part,
    Program,
)
from tcelab.program.topology import Topology, topology
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.loop import Tee, perform_program
from tcelab.run.record import RunRecord, Step
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE

_LOG: Final = logging.getLogger(__name__)

TOPOLOGY: Final = "dma-api-default"
PARTS: Final = 32
"""Of a list, each a page of its own."""
TOGETHER: Final = dmadriver.HELD // PARTS
"""Lists of one command, at most."""
LISTS: Final = 256
"""Lists of a timed loop."""
MOVES: Final[dict[str, int]] = {"testdev": 1000, "edu": 10}
"""Transfers between two checkpoints, by the model of the device; bytes of each: `_BYTES`."""
_BYTES: Final = 64
_BUFFER: Final = "dma"
_MASK: Final = 32
"""Bits with which every list has entries of its own."""

Way = tuple[Literal["module", "agent"], int]
"""Whose loop it is, and how many lists a round has."""
LOOP: Final[Way] = ("module", TOGETHER)
COMMAND: Final[Way] = ("agent", TOGETHER)
LOOP_ONE: Final[Way] = ("module", 1)
COMMAND_ONE: Final[Way] = ("agent", 1)
WAYS: Final[dict[Way, str]] = {
    LOOP: f"the driver's loop, {TOGETHER} lists",
    COMMAND: f"a command for {TOGETHER} lists",
    LOOP_ONE: "the driver's loop, 1 list",
    COMMAND_ONE: "a command for 1 list",
}
TRANSFERS: Final = {"testdev": "judged transfers by iommu-testdev", "edu": "judged transfers by edu"}
RATIOS: Final = (
    (f"lists of {PARTS} on command, {TOGETHER} at a time / the driver's loop", WAYS[COMMAND], WAYS[LOOP], 0.8),
    (f"lists of {PARTS} on command, one at a time / the driver's loop", WAYS[COMMAND_ONE], WAYS[LOOP_ONE], None),
    ("judged transfers, iommu-testdev / edu", TRANSFERS["testdev"], TRANSFERS["edu"], 100),
)
"""Name, what is compared with what, and the least that the ratio of their rates is to be."""


@dataclass(slots=True)
class DmaPlan:
    """The program; by number, which way an operation is timed, and how many transfers by which model end there."""

    ops: list[Op] = field(default_factory=list)
    timed: dict[int, Way] = field(default_factory=dict)
    moved: dict[int, tuple[str, int]] = field(default_factory=dict)


def plan(where: Topology, turns: int) -> DmaPlan:
    """Each way is done once before a checkpoint, and then timed in every turn; then transfers in every turn."""
    devices: dict[str, str] = {device.model: device.name for device in where.phbs[0].devices}
    device = devices["edu"]
    made = DmaPlan([*b.pins(), *b.buffer(_BUFFER, TOGETHER * PARTS, 1), DmaBind(device=device, expect="ok")])
    made.ops.append(DmaMask(device=device, bits=_MASK, expect="ok"))
    made.ops += b.tag(Page(_BUFFER), TOGETHER * PARTS, where.phbs[0].liobn, 0, 1)
    made.ops += [_lists(device, way, 1) for way in WAYS]
    made.ops += [*b.pins(), *b.checkpoint("dma: every way once", stream=True)]
    for turn in range(turns):
        for way in itertools.islice(itertools.cycle(WAYS), turn, turn + len(WAYS)):
            made.timed[len(made.ops)] = way
            made.ops.append(_lists(device, way, LISTS // way[1]))
        made.ops += [*b.pins(), *b.checkpoint(f"dma: turn {turn + 1} of {turns}")]
    made.ops += [DmaBind(device=devices["testdev"], expect="ok")]
    for turn in range(turns):
        for model, count in MOVES.items():
            _moves(made, devices[model], model, count, f"dma: transfers, turn {turn + 1}, {model}")
    made.ops += [DmaUnbind(device=name, expect="ok") for name in devices.values()]
    made.ops += [*b.pins(), *b.checkpoint("dma: end", stream=True)]
    return made


def _lists(device: str, way: Way, times: int) -> DmaRepeat:
    """The pages lie in RAM in no order, so no part follows on another."""
    loop, count = way
    numbers = iter(range(count * PARTS))
    lists = [[Part(Page(_BUFFER, next(numbers)), PAGE) for _ in range(PARTS)] for _ in range(count)]
    return DmaRepeat(device=device, lists=lists, times=times, loop=loop, expect="ok")


def _moves(made: DmaPlan, device: str, model: str, count: int, label: str) -> None:
    """So many transfers to a page that is mapped, each judged, from one checkpoint to the next."""
    name = f"m{len(made.ops)}"
    made.ops.append(DmaMap(device=device, name=name, page=Page(_BUFFER), size=PAGE, expect="ok"))
    made.ops += b.checkpoint(f"{label}: mapped")
    places = [index * _BYTES % PAGE for index in range(count)]
    made.ops += [DmaMove(name=name, size=_BYTES, to_memory=True, plus=at, expect="passed") for at in places]
    made.moved[len(made.ops)] = model, count
    made.ops += b.checkpoint(label)
    made.ops.append(DmaUnmap(name=name, expect="ok"))


def measure(job: BenchJob) -> Measured:
    """Lists a second, each way, and judged transfers a second, by each device, in one guest."""
    where = topology(TOPOLOGY)
    made = plan(where, job.repeat)
    program = Program(name="bench dma", topology=where, ops=made.ops)
    ready = setup.prepare(msgspec.structs.replace(job.choice, topology=where))
    with kept() as folder, opened(ready, job.limits, folder) as session:
        record, verdict, seconds = _judged(program, session)
        on = told(session.facts)
    if verdict.exit_code:
        keep_failed(folder, job, program, record, verdict)
        return Measured(figures=[], on=on, verdict=verdict)
    found = figures(made, record, seconds)
    return Measured(figures=found, on=on, verdict=verdict, text=text(found, on))


def _judged(program: Program, session: QemuSession) -> tuple[RunRecord, Verdict, dict[int, float]]:
    """:return: also the seconds at which each operation was judged."""
    judge = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))
    seconds: dict[int, float] = {}

    def then(step: Step) -> None:
        seconds[step.number] = time.perf_counter()
        if isinstance(step.op, Checkpoint):
            _LOG.info("%s", step.op.label, extra=NOTE)

    record = perform_program(program, session, Tee(judge, then))
    return record, judge.verdict(record), seconds


def figures(made: DmaPlan, record: RunRecord, seconds: Mapping[int, float]) -> list[Figure]:
    """Rates, and their ratios turn by turn.

    :raise HarnessError: what is timed failed.
    """
    rates: dict[str, list[float]] = {}
    for number, way in made.timed.items():
        outcome = record.steps[number].outcome
        if outcome is None or outcome.errno:
            raise HarnessError(f"what is timed did not succeed: {outcome}")
        rates.setdefault(WAYS[way], []).append(outcome.fields["lists"] / outcome.fields["seconds"])
    for number, (model, count) in made.moved.items():
        took = seconds[number] - seconds[number - count - 1]
        rates.setdefault(TRANSFERS[model], []).append(count / took)
    units = {name: "lists/s" if name in WAYS.values() else "transfers/s" for name in rates}
    out = [Figure(name, units[name], values) for name, values in rates.items()]
    for name, one, other, _ in RATIOS:
        pairs = zip(rates[one], rates[other], strict=True)
        out.append(Figure(name, "ratio", [x / y for x, y in pairs]))
    return out


def text(found: Sequence[Figure], on: Mapping[str, str]) -> list[str]:
    """Rates, then ratios beside what they are to reach."""
    out = [f"{what + ':':8}{value}" for what, value in on.items()]
    goals = {name: goal for name, *_, goal in RATIOS}
    out.append(f"{'figure':62} {'median':>8} {'least':>8} {'most':>8}  {'':11} to reach")
    for each in found:
        digits = 2 if each.name in goals and each.median < PARTS else 0
        numbers = (statistics.median(each.values), min(each.values), max(each.values))
        cells = " ".join(f"{number:8,.{digits}f}" for number in numbers)
        goal = goals.get(each.name)
        reached = "" if goal is None else f"{goal:g} {'reached' if each.median >= goal else 'MISSED'}"
        out.append(f"{each.name:62} {cells}  {each.unit:11} {reached}".rstrip())
    return out
