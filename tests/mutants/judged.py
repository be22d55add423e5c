"""Who kills a mutant: a difference from what a guest did, the literal of a row, or a law.

A killer begins with its kind: `guest`; `row`, a row that a guest has been held against; `source`, one that rests on a
kernel's source alone; `law`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import rowkit
from mutants.by_hand import all_by_hand
from mutants.by_hand_v2 import all_by_hand_v2
from mutants.derive import all_derived
from mutants.equivalent import EQUIVALENT
from mutants.mutant import Mutant
from rowkit import Excerpt, Recording
from rows import hcalls
from rows.row import Row
from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.errors import TcelabError
from tcelab.judge.models.comparison import Comparison
from tcelab.run.record import Step

ROWS = {
    "linux-v1": ("linux-v1", "core"),
    "linux-v2": ("linux-v2",),
    "core": ("core", "linux-v1"),
    "seed2013": ("seed2013",),
}
"""Which rows are asked, and in which order."""

MUTANTS = [*all_derived(), *all_by_hand(), *all_by_hand_v2()]

LASTING = frozenset({"Put"})
"""What leaves something to the rows that come later: data in a buffer that they share."""


def concerns(words: frozenset[str | int], mutant: Mutant, also: frozenset[str] = frozenset()) -> bool:
    """Whether a mutant can show where these requests and operations occur."""
    return not mutant.words or bool(words & (mutant.words | also))


def reason(mutant: Mutant) -> str:
    """Why it is equivalent, if it is said to be."""
    return EQUIVALENT.get(mutant.name, mutant.equivalent)


def settled(mutant: Mutant, killer: str, record_property: Callable[[str, str], None]) -> None:
    """A mutant that nobody kills must be known to be equivalent, and one that somebody kills must not."""
    why = reason(mutant)
    record_property("killer", killer or (f"equivalent: {why}" if why else "survivor"))
    assert killer or why, "nobody kills it: it survives"
    assert not (killer and why), f"said to be equivalent, but killed by {killer}"
    alone = mutant.guest is True and killer.partition(":")[0] in {"source", "law"}
    assert not alone, f"no guest kills it, and nobody says why; by source it is killed by {killer}"


def killer_of(mutant: Mutant, recordings: Iterable[Recording] = ()) -> str:
    """Who kills it, the best witness first; empty: nobody. Laws are asked of what was made by hand: no check pins."""
    return by_guest(mutant, recordings) or by_rows(mutant) or (by_laws(mutant) if mutant.kind == "by hand" else "")


# -- by what a guest did


def by_guest(mutant: Mutant, recordings: Iterable[Recording]) -> str:
    """The first difference from a record; empty: there is none."""
    with mutant.alive() as driver:
        for recording in sorted(recordings, key=lambda each: not each.run.program.name.startswith(mutant.of)):
            excerpts = [each for each in recording.excerpts if concerns(each.words, mutant, LASTING)]
            if excerpts and (killer := difference(recording, excerpts, driver)):
                return f"guest: {killer}"
    return ""


def difference(recording: Recording, excerpts: Iterable[Excerpt], driver: Any = None) -> str:
    """The first step of excerpts at which the emulator gives something else than the guest gave."""
    run = recording.run
    reference = EmulatorReferences(run.program.topology, run.facts, driver).open(run.facts.quirks)
    comparison = Comparison(reference.facts, run.facts)
    for excerpt in (Excerpt("prologue", recording.prologue, frozenset()), *excerpts):
        for step in excerpt.steps:
            try:
                expected = reference.follow(step)
            except TcelabError as error:
                return f"{excerpt.name}, {_told(step)}: {error.message}"
            if found := comparison.compare(expected, step):
                return f"{excerpt.name}, {_told(step)}: {found[0].message}"
    return ""


def _told(step: Step) -> str:
    return f"operation {step.number} {getattr(step.op, 'request', type(step.op).__name__)}"


# -- by rows


def by_rows(mutant: Mutant) -> str:
    """The first row whose literal it does not give."""
    with mutant.alive() as changed:
        if mutant.of == "hcalls":
            return _by_hypercalls(changed or {})
        for name in ROWS[mutant.of]:
            rows = [row for row in rowkit.FILES[name] if concerns(rowkit.words_of(row.ops), mutant)]
            for quirks in (rowkit.NONE,) if name == "seed2013" else (rowkit.ALL, rowkit.NONE):
                for batch in rowkit.batches(rows):
                    if killer := _by_batch(batch, rowkit.PROFILE[name], quirks, changed):
                        return killer
    return ""


def _by_hypercalls(rules: dict[str, Any]) -> str:
    for row in hcalls.ROWS:
        try:
            wrong = rowkit.of_hypercall(row, **rules)
        except Exception as error:  # noqa: BLE001 - a mutant may break in any way
            wrong = [repr(error)]
        if wrong:
            return f"source: {row.name}: {wrong[0]}"
    return ""


def _by_batch(rows: Sequence[Row], profile: str, quirks: frozenset[str], driver: Any) -> str:
    """Rows that share a machine."""
    try:
        bench = rowkit.Bench(profile, quirks, driver, rows[0].given, rows[0].topology)
    except TcelabError as error:
        return f"source: prologue: {error.message}"
    for row in rows:
        version = row if quirks else rowkit.without_defects(row)
        try:
            wrong = rowkit.disagreements(version, bench.live(version.ops))
        except TcelabError as error:
            wrong = [error.message]
        if wrong:
            # No kernel of today is without its known defects.
            return f"{'row' if row.guest is True and quirks else 'source'}: {row.name}: {wrong[0]}"
    return ""


# -- by laws


def by_laws(mutant: Mutant) -> str:
    """The first law that the emulator breaks with it, whatever the literals are."""
    if mutant.of == "hcalls":
        return ""
    with mutant.alive() as driver:
        for name in ROWS[mutant.of]:
            rows = [row for row in rowkit.FILES[name] if row.ends == "clean" and not row.given]
            # The seed refunds whoever is current: its charges are literals of its rows.
            told = {"outcome", "charges"} if name == "seed2013" else {"outcome"}
            for batch in rowkit.batches(rows):
                made = rowkit.program(batch)
                session = EmulatorSession(made.topology, profile_name=rowkit.PROFILE[name], driver=driver)
                findings = rowkit.record(made, batch, session).verdict.findings
                if finding := next((each for each in findings if each.law not in told), None):
                    return f"law: {finding.law}: {finding.message}"
    return ""
