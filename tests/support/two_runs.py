"""Two runs side by side, told outcome by outcome."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tcelab.judge.models.comparison import Comparison
from tcelab.program import Buffer, Checkpoint, Frames
from tcelab.run.record import Facts, Outcome, Snapshot, Step, TableView

PAGE = 4096
NONCE = bytes(range(16))
OTHER = bytes(16)
FIRST, SECOND = 0x80000100, 0x80000200
READ, WRITE, BOTH = 1, 2, 3


def facts(platform="guest", nonce=NONCE, views=("live", "stream"), quirks=()):
    return Facts(platform, nonce, PAGE, 1 << 29, {}, {}, views, quirks=frozenset(quirks))


def table(live, liobn=FIRST, view="live", entries=16):
    numbers = sorted(live)
    return TableView(
        liobn, view, entries, np.array(numbers, np.uint32), np.array([live[i] for i in numbers], np.uint64)
    )


def snapshot(*tables, pages=None, refusals=(), console=()):
    return Snapshot(tables, {}, pages or {}, tuple(refusals), console)


class Two:
    """Two runs side by side: what is expected has frames from 0x100000 on, what is seen from 0x900000."""

    def __init__(self, *, nonce=NONCE, platform="guest"):
        self.comparison = Comparison(facts("reference", views=("emulator",)), facts(platform, nonce))
        self.number = -1

    def done(self, op, expected, seen):
        """Texts of what differs after an operation."""
        self.number += 1
        steps = (Step(self.number, op, outcome) for outcome in (expected, seen))
        return [each.message for each in self.comparison.compare(*steps)]

    def looked(self, expected, seen):
        """What differs at a checkpoint."""
        self.number += 1
        op = Checkpoint()
        expected = replace(expected, tables=tuple(replace(each, view="emulator") for each in expected.tables))
        return self.comparison.compare(Step(self.number, op, snapshot=expected), Step(self.number, op, snapshot=seen))

    def buffer(self, name="m", pages=4, by=""):
        """Both have it, in frames of their own, and have told them."""
        made = Buffer(name=name, pages=pages, by=by)
        assert self.done(made, Outcome(value=0x7000_0000), Outcome(value=0x6000_0000)) == []
        assert self.done(Frames(buffer=name, by=by), frames(pages), frames(pages, 0x900)) == []


def frames(pages, first=0x100):
    return Outcome(value=0, frames=[(first + 3 * i) * PAGE for i in range(pages)])


def ours(page, permissions=BOTH):
    """The entry that leads to a page of the buffer `m`, as it is expected; `theirs`: as it is seen."""
    return (0x100 + 3 * page) * PAGE | permissions


def theirs(page, permissions=BOTH):
    return (0x900 + 3 * page) * PAGE | permissions
