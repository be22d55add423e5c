"""A campaign: random programs on fresh guests, each held against the emulator; what differs is shrunk and saved."""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from tcelab.beside import Guest
from tcelab.emulator.oracle import EmulatorOracles
from tcelab.fuzz.generate import generate
from tcelab.fuzz.shrink import shrink, watch_all
from tcelab.judge import Finding, Judge, Verdict
from tcelab.program import Checkpoint, Program
from tcelab.run import Recorder
from tcelab.topology import topology

STEPS: Final = 1000
"""Operations of one program: a fork's first ones are slow, and a long program shrinks slowly."""
EVERY: Final = 50
"""Operations between two checkpoints."""
TRIES: Final = 150
"""Guests that shrinking one finding may take."""
LONG_AGO: Final = 20
"""Programs after which the machines that are not the usual one have had their turn."""

USUAL: Final = "two-small"
_NOW_AND_THEN: Final = {7: "two-small-smp", 13: "two-pe"}
"""Which of twenty programs run on another machine: two CPUs, or windows of 1 GiB, which take 0.3 s to release."""
_BIG: Final = "two-pe"
_BIG_STEPS: Final = 300

Signature = tuple[str, str, str, str]


@dataclass(frozen=True)
class Found:
    """:ivar program: the shrunk one; `original` is what it was found by.

    :ivar file: where it was saved.
    """

    finding: Finding
    program: Program
    original: Program
    file: Path


@dataclass
class Tally:
    """What a campaign did.

    :ivar quirks: how often each quirk made a difference.
    :ivar left_out: operations that a declared quirk kept out of the mix.
    :ivar spent: seconds on guests' programs, without making guests and without shrinking.
    """

    programs: int = 0
    operations: int = 0
    checkpoints: int = 0
    entries: int = 0
    spent: float = 0.0
    quirks: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    could_not: list[str] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)


class Campaign:
    """:ivar tally: what was done so far.

    :ivar known: quirks that need not be told again: those declared, and those that were found and named.
    """

    def __init__(
        self,
        seed: int,
        opening: Callable[[str], Guest],
        folder: Path,
        note: Callable[[str], None],
        *,
        steps: int = STEPS,
        every: int = EVERY,
        usual: str | None = None,
    ) -> None:
        """:param opening: a fresh guest on the topology of that name.
        :param steps: operations of one program.
        :param usual: the one topology for all programs; by default others have their turn.
        """
        self.tally = Tally()
        self.known: frozenset[str] | None = None
        self._seed, self._opening, self._folder, self._note = seed, opening, folder, note
        self._steps, self._every, self._usual = steps, every, usual

    def run(self, steps: int, minutes: float | None = None) -> None:
        """Go on until so many operations were done, or the time is over, or a finding cannot be explained.

        :raise TcelabError: no guest can be had.
        """
        until = None if minutes is None else time.monotonic() + 60 * minutes
        for number in itertools.count():
            left = steps - self.tally.operations
            if left <= 0 or (until is not None and time.monotonic() > until):
                return
            if not self._one(number, left):
                return

    def _one(self, number: int, left: int) -> bool:
        """One program; False: it is of no use to go on."""
        name = self._usual or _NOW_AND_THEN.get(number % LONG_AGO, USUAL)
        size = min(self._steps, left, _BIG_STEPS if name == _BIG else left)
        guest = self._opening(name)
        known = self.known = guest.facts.quirks if self.known is None else self.known
        rng = random.Random(f"{self._seed}/{number}")  # noqa: S311 - repeatable on purpose
        made = generate(rng, topology(name), size, every=self._every, quirks=known)
        program = msgspec.structs.replace(made.program, name=f"fuzz {self._seed}/{number}", seed=self._seed)
        began = time.monotonic()
        verdict = self._judged(program, guest)
        self._count(program, verdict, made.left_out, time.monotonic() - began)
        if verdict.findings:
            return self._keep(program, verdict.findings[0], number)
        if verdict.could_not:
            self.tally.could_not += [f"program {number}: {reason}" for reason in verdict.could_not]
            return False
        return True

    def _judged(self, program: Program, guest: Guest) -> Verdict:
        """Run a program on a guest, which ends with it."""
        try:
            facts = dataclasses.replace(guest.facts, quirks=self.known or frozenset())
            judge = Judge(program, facts, oracles=EmulatorOracles(program.topology, facts))
            recorder = Recorder(program, guest, judge.feed)
            recorder.perform(program.ops)
            recorder.finish()
            return judge.verdict(recorder.run)
        finally:
            guest.close()

    def _count(self, program: Program, verdict: Verdict, left_out: dict[str, int], seconds: float) -> None:
        tally, evidence = self.tally, verdict.evidence
        tally.programs += 1
        tally.operations += evidence.operations
        tally.checkpoints += evidence.checkpoints
        tally.entries += evidence.entries
        tally.spent += seconds
        tally.quirks.update(evidence.quirks)
        tally.left_out.update(left_out)
        tally.kinds.update(type(op).__name__ for op in program.ops)

    def _keep(self, program: Program, finding: Finding, number: int) -> bool:
        """Shrink and save what was found; True: it is explained, and the campaign goes on with that known."""
        self._note(f"program {number}: {finding.law}: {finding.message}")
        wanted = signature(finding)
        cut = until_step(program, finding.step)
        told = finding

        def fails(candidate: Program) -> bool:
            nonlocal told
            verdict = self._judged(candidate, self._opening(candidate.topology.name))
            hit = next((each for each in verdict.findings if signature(each) == wanted), None)
            told = hit or told  # the last one that failed is the smallest
            return hit is not None

        small = shrink(watch_all(cut), fails, lambda line: self._note(f"  shrinking: {line}"), most=TRIES)
        file = self._folder / f"finding-{len(self.tally.found) + 1}.json"
        file.write_bytes(small.to_json())
        file.with_suffix(".original.json").write_bytes(program.to_json())
        self.tally.found.append(Found(told, small, program, file))
        explained = frozenset(filter(None, finding.quirk.split(", ")))
        self.known = (self.known or frozenset()) | explained
        return bool(explained)


def signature(finding: Finding) -> Signature:
    """What makes two findings of different programs the same one."""
    outcome = finding.law in {"difference", "outcome"} and finding.ioba is None
    return (
        finding.law,
        finding.quirk,
        finding.expected if outcome else "",
        finding.seen if outcome else "",
    )


def until_step(program: Program, step: int) -> Program:
    """The program up to an operation, and a checkpoint after it."""
    ops = list(program.ops[: step + 1])
    if not isinstance(ops[-1], Checkpoint):
        ops.append(Checkpoint(label="after it"))
    return msgspec.structs.replace(program, ops=ops)
