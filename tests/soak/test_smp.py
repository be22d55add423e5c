"""Two CPUs that use one table at once: what they leave is what some order of their calls would have left.

The lies are told in QEMU's memory, once both have ended and before anybody looks.
"""

import pytest

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import AtOnce, Call, Checkpoint, HcallBatch, Page, Program, Spawn, Tce
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

pytestmark = pytest.mark.guest

TOPOLOGY = topology("two-small-smp")
ONE, TWO = b.pes(TOPOLOGY, "smp")
NAMES = ("left", "right")
PAGES, FIRST, TIMES = 16, 40, 1000
SHARED = range(FIRST, FIRST + PAGES)


@pytest.fixture(scope="module")
def kept(_tcelab_guests):
    with _tcelab_guests.fresh(TOPOLOGY.name, 0) as session:
        yield session


@pytest.fixture
def guest(kept):
    kept.renew()
    return kept


def lane(name):
    """Both write the same entries: all in one call, as well as one of two tables entry by entry. One is its own."""
    pages = [Tce(name, page) for page in range(PAGES)]
    puts = [Call("H_PUT_TCE", [TWO.liobn, TWO.iova(FIRST + page), pages[page]]) for page in range(PAGES)]
    own = Call("H_PUT_TCE", [ONE.liobn, ONE.iova(NAMES.index(name)), pages[0]])
    whole = Call("H_PUT_TCE_INDIRECT", [ONE.liobn, ONE.iova(FIRST), 0, PAGES], pages)
    return HcallBatch(calls=[own, whole, *(puts if name == "left" else puts[::-1])], times=TIMES, by=name, expect=0)


def hammered():
    out = []
    for number, name in enumerate(NAMES):
        out += [Spawn(process=name, expect="ok")]
        begin = [*b.buffer(name, PAGES, number), *b.tag(Page(name), PAGES, ONE.liobn, ONE.iova(FIRST), number)]
        out += [type(op)(**{**fields(op), "by": name}) for op in begin]
    return [*out, AtOnce(count=2), *map(lane, NAMES), Checkpoint(stream=True)]


def fields(op):
    return {name: getattr(op, name) for name in op.__struct_fields__}


class Liar:
    """Before anybody looks, makes of an entry what `change` makes of it and of what the other one would have left."""

    def __init__(self, session, pe, entry, change):
        self._session, self._pe, self._entry, self._change = session, pe, entry, change
        self.frames = {}

    def __getattr__(self, name):
        return getattr(self._session, name)

    def perform(self, ops):
        outcomes = self._session.perform(ops)
        for op, outcome in zip(ops, outcomes, strict=True):
            if isinstance(op, HcallBatch):
                self.frames[op.by] = outcome.frames
        return outcomes

    def intervene(self, op, frames):
        if isinstance(op, Checkpoint):
            guest, live = self._session.guest, self._session.views.live
            guest.log.drain()
            at = guest.log.tables.at[self._pe.liobn]
            (held,) = live.entries(at, self._entry, 1)
            # The frames of a batch: one of its own entry, then those of the list.
            both = [each[1 + self._entry - FIRST] | 3 for each in self.frames.values()] if self._entry >= FIRST else []
            wanted = self._change(held, next((each for each in both if each != held), 0))
            for bit in range(64):
                if (held ^ wanted) >> bit & 1:
                    live.flip(at, self._entry, bit)
        return self._session.intervene(op, frames)


def verdict(session, ops):
    program = Program(name="smp", topology=TOPOLOGY, ops=ops)
    judge = Judge(program, session.facts, references=second_opinion(TOPOLOGY, session.facts))
    return perform_program(program, session, judge), judge


def test_what_two_cpus_leave_is_what_some_order_would_have_left(guest):
    record, judge = verdict(guest, hammered())
    told = judge.verdict(record)
    assert (told.findings, told.could_not) == ([], [])
    (spans,) = [step.outcome.fields["spans"] for step in record.steps if isinstance(step.op, AtOnce)]
    assert max(began for began, _ in spans) < min(ended for _, ended in spans), "they did not run at the same time"
    assert told.evidence.tags > 0


@pytest.mark.parametrize(
    ("pe", "entry", "change", "said"),
    [
        (ONE, FIRST + 3, lambda held, _: held ^ 1 << 20, "an entry leads to the wrong page"),
        (ONE, FIRST + 3, lambda _, other: other, "explains these entries together"),
        (ONE, 1, lambda _, __: 0, "an entry that was mapped is missing"),
        (TWO, FIRST + 5, lambda _, __: 0, "an entry that was mapped is missing"),
    ],
    ids=["nobody wrote it", "half of a call", "a lost update", "a lost update of both"],
)
def test_what_no_order_leaves_is_found_and_the_entry_is_named(guest, pe, entry, change, said):
    record, judge = verdict(Liar(guest, pe, entry, change), hammered())
    found = [each for each in judge.verdict(record).findings if said in each.message]
    assert f"LIOBN {pe.liobn:#x} IOBA {pe.iova(entry):#x}" in found[0].message
