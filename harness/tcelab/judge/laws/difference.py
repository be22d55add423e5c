"""The law of difference, a second opinion: a reference follows the run, and every difference from it is a finding.

The reference has the declared quirks, so what they explain is no difference. A difference that an undeclared quirk
explains is a finding that names the quirk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from tcelab.errors import TcelabError
from tcelab.judge.finding import Finding
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.comparison import Comparison, Difference
from tcelab.program import Read
from tcelab.run.record import Facts, QuirkHit, Step
from tcelab.run.sharing import Sharing

LAW: Final = Law(
    "difference",
    says="the emulator of the driver, with the declared quirks, returns and leaves the same after each operation",
    needs="a reference: the emulator, or another guest",
    finds="has the reference perform each operation as well; compares outcome, events and snapshot",
)


MOST: Final = 50
"""Differences reported for one part: the first one causes most of those that follow."""


class Reference(Protocol):
    """Gives the expected outcome of an operation, after all those before it."""

    @property
    def facts(self) -> Facts: ...

    def follow(self, step: Step) -> Step:
        """Perform the operation of a step; returns the expected step.

        :raise TcelabError: the reference cannot follow.
        """
        ...

    def take_quirk_hits(self) -> list[QuirkHit]:
        """Quirks that made a difference since the last call."""
        ...


class References(Protocol):
    """Makes references for one run.

    :ivar known: all quirks that exist.
    """

    @property
    def known(self) -> Collection[str]: ...

    def open(self, quirks: frozenset[str]) -> Reference: ...


_MOMENTARY: Final = {"refusal", "console"}
"""First words of the keys of differences in what happened since the checkpoint before, not in a lasting state."""

Key = tuple[object, ...]
Blame = Callable[[Difference], int | None]


class _Replay(NamedTuple):
    """The run compared with a reference that has other quirks.

    :ivar keys: keys of all differences from it.
    :ivar met: it met an undeclared quirk, or expected something else than the reference of the run did.
    """

    keys: set[Key]
    met: bool


class EmulatorComparison:
    """Follows one part of a run. Feed it each step once, in order.

    :ivar quirk_hits: declared quirks that made a difference in the last step, according to the reference; empty if
        the step differs from the reference's.
    """

    def __init__(self, ledger: Ledger, facts: Facts, references: References, blame: Blame) -> None:
        """:param blame: gives the number of the operation to blame for a difference seen at a checkpoint."""
        self._blame = blame
        self._ledger, self._facts, self._references = ledger, facts, references
        self._declared = facts.quirks
        self._reference: Reference | None = references.open(self._declared)
        self._comparison = Comparison(self._reference.facts, facts)
        self._steps: list[Step] = []
        self._sharing = Sharing()
        self._last = -1
        self._found: list[tuple[Difference, Finding]] = []
        self._keys: set[Key] = set()
        self._texts: dict[int, int] = {}  # hash of each difference (`_text`) -> its first step
        self._standing: set[Key] = set()
        self._off: dict[tuple[str, str], int | None] = {}  # (counter, process) -> last reading minus the expected one
        self._told = 0
        self.quirk_hits: list[QuirkHit] = []
        self._ever: set[str] = set()
        for quirk in self._declared:
            ledger.evidence.quirks.setdefault(quirk, 0)

    def feed(self, step: Step) -> None:
        """Have the reference perform the operation of a step, and report the differences."""
        self.quirk_hits = []
        if self._reference is None:
            return
        self._steps.append(self._held(step))
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
            return  # the guest did something else: no proof that it met them
        for each in hits:
            self._ledger.evidence.quirks[each.quirk] += 1
        self.quirk_hits = hits

    def _is_news(self, key: Key) -> bool:
        """Is it new since the checkpoint before, or about what happened since then?"""
        return key not in self._standing or key[0] in _MOMENTARY

    def _is_off_as_before(self, expected: Step, step: Step) -> bool:
        """Does it read a counter that is off by as much as at its last reading? Then that was reported."""
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
            self._ledger.count("difference")  # judged and counted, but not reported
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
        """Name the quirks that explain each difference, if any do. Call once, at the end."""
        known = frozenset(self._references.known)
        if not self._found or not known:
            return
        replays: dict[frozenset[str], _Replay] = {}

        def replay(quirks: frozenset[str]) -> _Replay:
            if quirks not in replays:
                replays[quirks] = self._replay(quirks)
            return replays[quirks]

        def explains(quirks: frozenset[str], difference: Difference) -> bool:
            """With these quirks declared, would this difference be gone, and no new one appear?"""
            keys = replay(quirks).keys
            return difference.key not in keys and keys <= self._keys

        # If none is met with all of them on, none is met alone: no need to try each.
        some = not known <= self._declared and replay(self._declared | known).met
        for difference, finding in self._found:
            # Only quirks that the reference met changed what it expects.
            gone = next((q for q in sorted(self._ever) if explains(self._declared - {q}, difference)), "")
            if gone:
                finding.quirk = gone
                finding.message += f"; the declared quirk {gone} does not show here"
            elif some and (needed := self._needed(known, lambda quirks: explains(quirks, difference))):  # noqa: B023 - called at once
                finding.quirk = ", ".join(sorted(needed))
                finding.message += f"; known and not declared: {finding.quirk}"

    def _held(self, step: Step) -> Step:
        """To be kept until the end, in case that a quirk has to be looked for."""
        return step if step.snapshot is None else replace(step, snapshot=self._sharing.shared(step.snapshot))

    def _needed(self, known: frozenset[str], explain: Callable[[frozenset[str]], bool]) -> frozenset[str]:
        """The undeclared quirks that explain something: a single one if possible, else all without those not needed."""
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
        """Compare the run again with other quirks, up to the last difference that was reported."""
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
    """Hash of a difference and of what was expected there."""
    return hash((difference.key, difference.expected))
