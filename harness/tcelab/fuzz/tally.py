"""What a campaign did: the programs it ran, and what they showed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tcelab.judge import Finding, Verdict
from tcelab.program import Program


@dataclass(frozen=True)
class Found:
    """:ivar program: the shrunk one; `original` is what it was found by.

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


@dataclass(frozen=True)
class Done:
    """A program that was run; `known`: quirks that were known then."""

    number: int
    program: Program
    known: frozenset[str]
    verdict: Verdict
    left_out: dict[str, int]


@dataclass
class Tally:
    """What a campaign did.

    :ivar quirks: how often each quirk made a difference.
    :ivar left_out: operations that a declared quirk kept out of the mix.
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
    found: list[Found] = field(default_factory=list)
