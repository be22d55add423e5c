"""Benchmarks: each is a module whose `measure` takes a `BenchJob` and returns figures. Any claim about speed is a ratio
of two figures of one run.

- `batch`: `tcelab bench batch`: what a map and an unmap of n pages cost, by call and by page
- `benchguests`: guests for benchmarks, and the description of the host
- `boot`: `tcelab bench boot`: how long a boot takes, phase by phase, by firmware
- `dma`: `tcelab bench dma`: lists that the DMA API maps on command and in a loop; judged transfers by device
- `emulator`: `tcelab bench emulator`: one program on the emulator and on a fork; the fuzzer's rate
- `fork`: `tcelab bench fork`: what a fresh guest costs, and the memory of each
- `isolation`: `tcelab bench isolation`: how fast a PE is isolated; legal transfers a second
- `life`: `tcelab bench life`: what a reset, a reboot and a kexec cost, beside a boot
- `nights`: `tcelab bench history`: how fast a history of many nights answers
- `plot`: the figure of `bench batch`
- `probe`: `tcelab bench probe`: transfers a second of a probe, beside an edu and by either way to memory
- `table`: `tcelab bench table`: what it costs to read and to judge all tables, by view
- `watch`: `tcelab bench watch`: what a watcher costs the guest
- `ways`: `tcelab bench ways`: the driver, its mutants and raw hypercalls, side by side in one guest
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tcelab.job.setup import MachineChoice
from tcelab.judge import Verdict
from tcelab.qemu.limits import Limits

SCHEMA: Final = 1
"""Version of the JSON form. Raised when a field changes its meaning or is removed; new fields do not raise it."""


@dataclass(frozen=True, slots=True)
class BenchJob:
    """The parameters of every benchmark.

    :ivar repeat: number of turns; each gives one value of each figure.
    """

    choice: MachineChoice
    limits: Limits
    repeat: int


class Figure(msgspec.Struct, frozen=True):
    """Measurements of one thing, in `unit`."""

    name: str
    unit: str
    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def to_dict(self) -> dict[str, Any]:
        return {**msgspec.to_builtins(self), "median": self.median}


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """The least-squares line through a row of medians: call + n * page.

    :ivar residual: root of the mean square distance from it, in `unit` as the others.
    """

    name: str
    unit: str
    call: float
    page: float
    residual: float

    def at(self, pages: int) -> float:
        return self.call + pages * self.page


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a benchmark.

    :ivar on: what it was measured on, by name: host, QEMU, kernel.
    :ivar verdict: on the operations that were measured; None if they were not judged.
    :ivar text: text lines, in place of one for each figure.
    """

    figures: list[Figure]
    fits: list[Fit] = []
    on: dict[str, str] = {}
    verdict: Verdict | None = None
    text: list[str] = []

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Without a pass there are no figures: they would describe something broken."""
        out: dict[str, Any] = {"schema": SCHEMA, "figures": [figure.to_dict() for figure in self.figures]}
        out |= {key: msgspec.to_builtins(value) for key in ("fits", "on") if (value := getattr(self, key))}
        if self.verdict is not None:
            kept = ("result", "exit_code", "findings", "could_not")
            out["verdict"] = {key: msgspec.to_builtins(getattr(self.verdict, key)) for key in kept}
        return out
