"""How long a boot takes, phase by phase, under each firmware that the QEMU has."""

from __future__ import annotations

from typing import Literal

import msgspec

from tcelab.bench import BenchJob, Figure, Measured
from tcelab.bench.benchguests import opened
from tcelab.job import artefacts, setup

_FIRMWARE: tuple[Literal["vof", "slof"], ...] = ("vof", "slof")


def measure(job: BenchJob) -> Measured:
    """Boot with each firmware, in turns, and say when each phase was reached (seconds)."""
    ready = setup.prepare(job.choice, job.note)
    folder = artefacts.folder(None, job.note)
    reached: dict[tuple[str, str], list[float]] = {}
    for turn in range(job.repeat):
        for firmware in _FIRMWARE:
            own = folder / f"{turn}-{firmware}"
            own.mkdir(mode=0o700)
            machine = msgspec.structs.replace(ready, options=msgspec.structs.replace(ready.options, firmware=firmware))
            with opened(machine, job.limits, job.note, own, boot=True) as session:
                for phase, seconds in session.reached.items():
                    reached.setdefault((firmware, phase), []).append(seconds)
    figures = [
        Figure(f"{firmware}: {phase}", "s", values)
        for (firmware, phase), values in sorted(reached.items(), key=lambda item: (item[0][0], min(item[1])))
    ]
    pairs = zip(reached["vof", "ready"], reached["slof", "ready"], strict=True)
    return Measured(figures=[*figures, Figure("vof / slof: ready", "ratio", [vof / slof for vof, slof in pairs])])
