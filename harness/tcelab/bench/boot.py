"""How long a boot takes, phase by phase, under each firmware that the QEMU has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from tcelab.bench import BenchJob, Figure, Measured
from tcelab.bench.benchguests import kept, opened
from tcelab.job import setup

_FIRMWARE: tuple[Literal["vof", "slof"], ...] = ("vof", "slof")


def measure(job: BenchJob) -> Measured:
    """Boot with each firmware, in turns, and say when each phase was reached (seconds)."""
    with kept() as folder:
        reached = _reached(job, folder)
    figures = [
        Figure(f"{firmware}: {phase}", "s", values)
        for (firmware, phase), values in sorted(reached.items(), key=lambda item: (item[0][0], min(item[1])))
    ]
    pairs = zip(reached["vof", "ready"], reached["slof", "ready"], strict=True)
    return Measured(figures=[*figures, Figure("vof / slof: ready", "ratio", [vof / slof for vof, slof in pairs])])


def _reached(job: BenchJob, folder: Path) -> dict[tuple[str, str], list[float]]:
    ready = setup.prepare(job.choice)
    reached: dict[tuple[str, str], list[float]] = {}
    for turn in range(job.repeat):
        for firmware in _FIRMWARE:
            own = folder / f"{turn}-{firmware}"
            own.mkdir(mode=0o700)
            machine = msgspec.structs.replace(ready, options=msgspec.structs.replace(ready.options, firmware=firmware))
            with opened(machine, job.limits, own, boot=True) as session:
                for phase, seconds in session.reached.items():
                    reached.setdefault((firmware, phase), []).append(seconds)
    return reached
