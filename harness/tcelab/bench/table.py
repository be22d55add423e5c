"""What it costs to read and to judge every table of a machine, by each view."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tcelab import artefacts, setup
from tcelab.bench import Figure
from tcelab.judge import Judge
from tcelab.program import Checkpoint, Program
from tcelab.qemu.limits import limits as limits_of
from tcelab.qemu.session import QemuSession
from tcelab.run import Snapshot, Step

_MS = 1000.0


def measure(choice: setup.Choice, limits: Sequence[str], repeat: int, note: Callable[[str], None]) -> list[Figure]:
    """Take `repeat` checkpoints by live memory alone and `repeat` with the state stream (milliseconds)."""
    ready = setup.prepare(choice, note)
    costs: dict[str, list[float]] = {}
    program = Program(name="bench", topology=choice.topology, ops=[])
    with QemuSession(
        ready.qemu,
        ready.options,
        artefacts.folder(None),
        limits=limits_of(limits),
        digest=ready.digest,
        note=note,
    ) as session:
        judge = Judge(program, session.facts)
        for number in range(2 * repeat):
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
    tables = len(choice.topology.phbs) + 1
    note(f"{tables} tables each time, {sum(phb.window_size >> 12 for phb in choice.topology.phbs)} entries under test")
    return [Figure(name, "ms", values) for name, values in sorted(costs.items())]
