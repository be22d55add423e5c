"""What a campaign did: the programs it ran, and what they showed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tcelab.judge import Finding, Verdict
from tcelab.program import Program


@dataclass(frozen=True)
class Found:
    """:ivar number: of the program that found it.

    :ivar program: the shrunk one; `original` is what it was found by.

    :ivar file: where it was saved.
    :ivar known: quirks that were known when it was found; it shows if these are declared.
    :ivar missed: the failure did not show again when it was to be shrunk: `program` is the original up to it.
    """

    finding: Finding
    program: Program
    original: Program
    file: Path
    known: frozenset[str] = frozenset()
    missed: bool = False
    number: int = 0


@dataclass(frozen=True)
class Ran:
    """A program of a campaign; `known`: quirks that were known when it ran."""

    number: int
    program: Program
    known: frozenset[str]


@dataclass(frozen=True)
class Done(Ran):
    """A program that was run here, and its verdict."""

    verdict: Verdict
    left_out: dict[str, int]


@dataclass
class Tally:
    """What a campaign did.

    :ivar quirks: how often each quirk made a difference.
    :ivar left_out: operations that a declared quirk kept out of the mix.
    :ivar flaky: what gave two verdicts, or whose finding could not be kept: it is no pass, whatever else there is.
    :ivar spent: seconds until the last program was judged, those of shrinking left out.
    """

    programs: int = 0
    operations: int = 0
    checkpoints: int = 0
    entries: int = 0
    spent: float = 0.0
    quirks: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    could_not: list[str] = field(default_factory=list)
    flaky: list[str] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
