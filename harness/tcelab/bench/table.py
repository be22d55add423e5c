"""The cost of reading and judging every table of a machine, by view."""

from __future__ import annotations

import logging
import time
from typing import Final

from tcelab.bench import BenchJob, Figure, Measured
from tcelab.bench.benchguests import opened
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.logs import NOTE
from tcelab.program import Checkpoint, Program
from tcelab.run.record import Snapshot, Step

_LOG: Final = logging.getLogger(__name__)

_MS = 1000.0


def measure(job: BenchJob) -> Measured:
    """Take as many checkpoints by live memory alone as with the state stream (milliseconds)."""
    ready = setup.prepare(job.choice)
    topology = job.choice.topology
    costs: dict[str, list[float]] = {}
    with opened(ready, job.limits) as session:
        judge = Judge(Program(name="bench", topology=topology, ops=[]), session.facts)
        for number in range(2 * job.repeat):
            op = Checkpoint(stream=number % 2 == 1)
            began = time.perf_counter()
            snapshot = session.intervene(op, [])
            taken = time.perf_counter()
            assert isinstance(snapshot, Snapshot)
            judge.feed(Step(number, op, snapshot=snapshot))
            judged = time.perf_counter()
            kind = "with stream" if op.stream else "live"
            for what, seconds in [*snapshot.seconds.items(), ("whole", taken - began), ("judging", judged - taken)]:
                costs.setdefault(f"{kind}: {what}", []).append(seconds * _MS)
    entries = sum(phb.entries for phb in topology.phbs)
    _LOG.info("%d tables each time, %d entries under test", len(topology.machine), entries, extra=NOTE)
    return Measured(figures=[Figure(name, "ms", values) for name, values in sorted(costs.items())])
