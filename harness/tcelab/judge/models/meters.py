"""Counters of the kernel that must move as the fold does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tcelab.judge.ledger import Ledger, last_ioctl


@dataclass(slots=True)
class Meter:
    """A counter that must move as the fold does; its first reading gives the zero point."""

    zero: int | None = None
    error: int = 0

    def changed(self, reading: int, folded: int) -> int | None:
        """How far the reading is off, None when that is not new."""
        if self.zero is None:
            self.zero = reading - folded
        error, self.error = self.error, reading - self.zero - folded
        return None if self.error in (0, error) else self.error


Unit = Literal["page", "KiB"]


def _of(number: int, unit: Unit) -> str:
    return f"{number} {unit}{'s' if unit == 'page' and number != 1 else ''}"


def report_counter(ledger: Ledger, law: str, name: str, unit: Unit, numbers: tuple[int, int, int]) -> None:
    """Write down that a counter is off.

    :param numbers: what was read, what it should be, how far it is off.
    """
    reading, expected, off = numbers
    kind = "not given back or too much" if off > 0 else "missing"
    ledger.report(
        law,
        (ledger.step, reading),
        f"{name}: expected {_of(expected, unit)}, seen {reading} ({_of(abs(off), unit)} {kind})",
        expected=_of(expected, unit),
        seen=_of(reading, unit),
        operation=last_ioctl(ledger),
    )
