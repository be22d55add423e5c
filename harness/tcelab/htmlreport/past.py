"""What the history knows of the nights before one: for the trends, and for what changed since."""

from __future__ import annotations

from typing import Final, NamedTuple

from tcelab.history import compare, queries
from tcelab.history.answers import Comparison, FindingChange
from tcelab.history.nightfile import Night
from tcelab.history.store import History

NIGHTS: Final = 30
"""Nights that are read, the last ones."""
MOST: Final = 40
"""Changes of a kind that are shown."""
_LOOKED_AT: Final = 400
"""Nights among which those of one matrix are looked for."""
_STATES: Final = {"new": "finding", "returning": "finding", "gone": "pass", "unknown": "could-not-judge"}
_WORDS: Final = {"new": "new", "returning": "returning", "gone": "gone", "unknown": "not judged again"}


class Change(NamedTuple):
    """A finding that came or went. `state`: for the eye; `says`: in words."""

    state: str
    says: str
    told: FindingChange


class Past(NamedTuple):
    """:ivar nights: earlier ones of the same matrix, in their order.

    :ivar since: compared with the last of them; None: there is none.
    :ivar changes: its findings that came or went.
    """

    nights: list[Night]
    since: Comparison | None
    changes: list[Change]


NOTHING: Final = Past([], None, [])


def of(night: Night, history: History) -> Past:
    """What is recorded of the nights before.

    :raise UsageError: the history cannot be read. :raise HarnessError: likewise.
    """
    lines = queries.nights(history, _LOOKED_AT).nights
    earlier = [each for each in lines if each.began < night.began and each.matrix == night.matrix]
    known = any(each.id == night.id for each in lines)
    nights = [found for each in earlier[-NIGHTS:] if (found := history.night(each.id)) is not None]
    since = compare.compare(history, earlier[-1].id, night.id) if known and earlier else None
    changes = [] if since is None else [_change(each) for each in since.findings]
    changes.sort(key=lambda each: (list(_WORDS).index(each.told.change), each.told.expected))
    return Past(nights, since, changes)


def _change(told: FindingChange) -> Change:
    """Where a finding must be, it is its absence that is wrong."""
    state, says = _STATES[told.change], _WORDS[told.change]
    if told.expected:
        state, says = {"finding": "pass", "pass": "finding"}.get(state, state), f"{says} where it must be"
    return Change(state, says, told)
