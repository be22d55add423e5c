"""Benchmarks: each makes figures; a claim about speed is a ratio of two figures of one run."""

from __future__ import annotations

import statistics
from typing import Any

import msgspec


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
