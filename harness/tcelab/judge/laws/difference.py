"""The second opinion: a reference follows the run, and every difference from it is a finding.

What a declared quirk explains is no difference, for the reference has it; what an undeclared one would explain is one,
and names it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple, Protocol

from tcelab.errors import TcelabError
from tcelab.judge.finding import Finding
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.comparison import Comparison, Difference
from tcelab.program import Read
from tcelab.run.record import Facts, QuirkHit, Step

LAW: Final = Law(
    "difference",
    says="the emulator of the driver, with the declared quirks, returns and leaves the same after each operation",
    needs="a reference: the emulator, or another guest",
    finds="has the reference perform each operation as well; compares outcome, events and snapshot",
)


MOST: Final = 50
"""Differences of one part that are told: the first is the cause of most that follow."""


class Reference(Protocol):
    """Says what an operation must give, after all those before it."""

    @property
    def facts(self) -> Facts: ...

    def follow(self, step: Step) -> Step:
        """What must come of the operation that was done in a step.

        :raise TcelabError: it cannot tell.
        """
        ...

    def take_quirk_hits(self) -> list[QuirkHit]:
        """Quirks that made a difference since the last call."""
        ...


class References(Protocol):
    """Makes references for one run.

    :ivar known: all quirks that there are.
    """

    @property
    def known(self) -> Collection[str]: ...

    def open(self, quirks: frozenset[str]) -> Reference: ...


_MOMENTARY: Final = {"refusal", "console"}
"""First words of keys of differences in what a checkpoint tells of the time since the one before."""

Key = tuple[object, ...]
Blame = Callable[[Difference], int | None]


class _Replay(NamedTuple):
    """What a reference with other quirks makes of the run.

    :ivar keys: of all differences that there would have been.
    :ivar met: it met a quirk that is not declared, or would have told something else than the reference did.
    """

    keys: set[Key]
    met: bool


class EmulatorComparison:
    """Follows one part of a run. Feed it each step once, in order.

    :ivar quirk_hits: what the reference says of the last step: declared quirks that made a difference, none if it
        was wrong.
    """

    def __init__(self, ledger: Ledger, facts: Facts, references: References, blame: Blame) -> None:
        """:param blame: given a difference that a checkpoint showed, the number of the operation to blame."""
        self._blame = blame
        self._ledger, self._facts, self._references = ledger, facts, references
        self._declared = facts.quirks
        self._reference: Reference | None = references.open(self._declared)
        self._comparison = Comparison(self._reference.facts, facts)
        self._steps: list[Step] = []
        self._last = -1
        self._found: list[tuple[Difference, Finding]] = []
        self._keys: set[Key] = set()
        self._texts: dict[int, int] = {}  # of what was expected where something differs, by step
        self._standing: set[Key] = set()
        self._off: dict[tuple[str, str], int | None] = {}  # of each counter of a process, by how much it is more
        self._told = 0
        self.quirk_hits: list[QuirkHit] = []
        self._ever: set[str] = set()
        for quirk in self._declared:
            ledger.evidence.quirks.setdefault(quirk, 0)

    def feed(self, step: Step) -> None:
        """Let the reference do what was done, and report what differs."""
        self.quirk_hits = []
        if self._reference is None:
            return
        self._steps.append(step)
        try:
            expected = self._reference.follow(step)
        except TcelabError as error:
            self._reference = None
            self._ledger.undecided_because(
                f"the reference cannot follow from operation {step.number} on: {error.message}"
            )
            return
        self._ledger.judged("difference")
        differences = self._comparison.compare(expected, step)
        same = self._is_off_as_before(expected, step)
        for difference in differences:
            if not same and self._is_news(difference.key):
                self._report(step, difference)
            self._keys.add(difference.key)
            self._texts.setdefault(_text(difference), step.number)
        if step.snapshot is not None:
            self._standing = {difference.key for difference in differences}
        hits = self._reference.take_quirk_hits()
        self._ever.update(each.quirk for each in hits)
        if differences:
            return  # what the guest did was something else
        for each in hits:
            self._ledger.evidence.quirks[each.quirk] += 1
        self.quirk_hits = hits

    def _is_news(self, key: Key) -> bool:
        """It was not so at the checkpoint before, or is about what happened since."""
        return key not in self._standing or key[0] in _MOMENTARY

    def _is_off_as_before(self, expected: Step, step: Step) -> bool:
        """It reads a counter that has been off by as much since it was read before: that was told, of what did it."""
        if not isinstance(step.op, Read):
            return False
        seen, right = (each.outcome and each.outcome.value for each in (step, expected))
        off = seen - right if isinstance(seen, int) and isinstance(right, int) else None
        before = self._off.get((step.op.what, step.op.by), 0)
        self._off[step.op.what, step.op.by] = off
        return bool(off) and off == before

    def _report(self, step: Step, difference: Difference) -> None:
        self._last, self._told = step.number, self._told + 1
        if self._told > MOST:
            self._ledger.count("difference")  # it is told no more, and judged all the same
            return
        finding = self._ledger.report(
            "difference",
            difference.key,
            difference.message,
            liobn=difference.liobn,
            ioba=difference.ioba,
            expected=difference.expected,
            seen=difference.seen,
            operation=self._to_blame(step, difference),
            lasting=False,
        )
        if finding is not None:
            self._found.append((difference, finding))

    def _to_blame(self, step: Step, difference: Difference) -> int | None:
        if step.outcome is not None and not isinstance(step.op, Read):
            return step.number
        return self._blame(difference)

    def explain(self) -> None:
        """Name the quirks that explain each difference, if some do: once, at the end."""
        known = frozenset(self._references.known)
        if not self._found or not known:
            return
        replays: dict[frozenset[str], _Replay] = {}

        def replay(quirks: frozenset[str]) -> _Replay:
            if quirks not in replays:
                replays[quirks] = self._replay(quirks)
            return replays[quirks]

        def explains(quirks: frozenset[str], difference: Difference) -> bool:
            """Would there be no such difference, and no other one, were these quirks declared?"""
            keys = replay(quirks).keys
            return difference.key not in keys and keys <= self._keys

        # With all of them on, none was met: alone, none would be either.
        some = not known <= self._declared and replay(self._declared | known).met
        for difference, finding in self._found:
            # A quirk that the reference has not met made no difference to what it expects.
            gone = next((q for q in sorted(self._ever) if explains(self._declared - {q}, difference)), "")
            if gone:
                finding.quirk = gone
                finding.message += f"; the declared quirk {gone} does not show here"
            elif some and (needed := self._needed(known, lambda quirks: explains(quirks, difference))):  # noqa: B023 - called at once
                finding.quirk = ", ".join(sorted(needed))
                finding.message += f"; known and not declared: {finding.quirk}"

    def _needed(self, known: frozenset[str], explain: Callable[[frozenset[str]], bool]) -> frozenset[str]:
        """The undeclared quirks that explain something: one if one does, else as few as can be found."""
        others = sorted(known - self._declared)
        for quirk in others:
            if explain(self._declared | {quirk}):
                return frozenset({quirk})
        needed = frozenset(others)
        if not explain(self._declared | needed):
            return frozenset()
        for quirk in others:
            if explain(self._declared | needed - {quirk}):
                needed -= {quirk}
        return needed

    def _replay(self, quirks: frozenset[str]) -> _Replay:
        """What there would have been with other quirks, up to the last difference that was told."""
        reference = self._references.open(quirks)
        comparison = Comparison(reference.facts, self._facts)
        keys: set[Key] = set()
        texts: set[int] = set()
        for step in self._steps:
            if step.number > self._last:
                break
            try:
                expected = reference.follow(step)
            except TcelabError:
                return _Replay({difference.key for difference, _ in self._found}, met=True)
            differences = comparison.compare(expected, step)
            keys.update(each.key for each in differences)
            texts.update(map(_text, differences))
        own = {text for text, number in self._texts.items() if number <= self._last}
        met = any(hit.quirk not in self._declared for hit in reference.take_quirk_hits())
        return _Replay(keys, met or texts != own)


def _text(difference: Difference) -> int:
    """Stands for what was expected there."""
    return hash((difference.key, difference.expected))
