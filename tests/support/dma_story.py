"""A short program of the kernel's own DMA API, and a session that lies about it."""

from __future__ import annotations

from msgspec.structs import replace

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import Buffer as Memory
from tcelab.program import (
    Checkpoint,
    DmaAlloc,
    DmaBind,
    DmaFree,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaMove,
    DmaUnmap,
    Flip,
    Page,
    Part,
    Program,
    Tag,
)
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program

WHERE = topology("dma-api")
LIOBN, DIRECT, NEIGHBOUR = 0x80000100, 0x80000101, 0x80000300
MASK, ALLOC, READ, LIST, UNMAP = 3, 4, 5, 6, 11
"""Numbers of operations: what they are is below."""
PARTS = [Part(Page("b", 3, 4000), 96), Part(Page("b", 6), 7), Part(Page("b", 4, 1), 4095)]


def story(bits=40, *more):
    """A page for reading, a list for writing, and coherent memory, under a mask; the first is unmapped at last."""
    ops = [
        Memory(name="b", pages=8, seed=1),
        Tag(buffer="b", count=8, liobn=LIOBN, ioba=0, sequence=1),
        DmaBind(device="pe1", expect="ok"),
        DmaMask(device="pe1", bits=bits, expect="ok"),
        DmaAlloc(device="pe1", buffer="own", pages=2, expect="ok"),
        DmaMap(device="pe1", name="r", page=Page("b", 1, 100), size=500, direction="to-device", expect="ok"),
        DmaMapSg(device="pe1", name="l", parts=PARTS, direction="from-device", expect="ok"),
        Checkpoint(label="mapped"),
        DmaMove(name="r", size=500, to_memory=False, expect="passed"),
        DmaMove(name="l", size=7, segment=1, to_memory=True, expect="passed"),
        Checkpoint(label="moved"),
        DmaUnmap(name="r", expect="ok"),
        Checkpoint(label="unmapped"),
        *more,
        DmaUnmap(name="l", expect="ok"),
        DmaFree(buffer="own", expect="ok"),
        Checkpoint(label="end", stream=True),
    ]
    return Program(name="dma-story", topology=WHERE, ops=ops)


class Lying:
    """A session that tells another outcome of one operation, or turns bits of an entry once it is done.

    :ivar number: of the operation; `change`: its outcome to what is told.
    :ivar turn: LIOBN, and the bus address that the outcome of an operation gives, and a mask of bits.
    """

    def __init__(self, session, number=-1, change=lambda outcome: outcome, turn=None):
        self._session, self._number, self._change, self._turn = session, number, change, turn
        self._done = 0
        self.outcomes = {}
        self.turned = self._last = None

    def __getattr__(self, name):
        return getattr(self._session, name)

    def perform(self, ops):
        told = []
        for op in ops:
            (outcome,) = self._session.perform([op])
            self.outcomes[self._done] = outcome
            told.append(self._change(outcome) if self._done == self._number else outcome)
            self._meddle()
            self._done += 1
        return told

    def _meddle(self):
        if self._turn is None or self._done != self._number:
            return
        liobn, where, bits = self._turn
        self.turned = ioba = where(self.outcomes) & -4096
        for bit in (bit for bit in range(64) if bits(self.outcomes) >> bit & 1):
            self._session.intervene(Flip(liobn=liobn, ioba=ioba, bit=bit), ())

    def intervene(self, op, frames):
        """A checkpoint that is taken a second time is no operation of the program."""
        self._done += getattr(op, "label", None) != self._last or not isinstance(op, Checkpoint)
        self._last = getattr(op, "label", None)
        return self._session.intervene(op, frames)


def handle_of(number, segment=0):
    """The handle that an operation gave, once it is done."""
    return lambda outcomes: outcomes[number].fields["segments"][segment][0]


def told(outcome, **fields):
    """The same outcome with other fields."""
    return replace(outcome, fields={**outcome.fields, **fields})


def done(guests, program, **lie):
    """The verdict on a program that a fork has done, with the emulator as reference, and the fork: perhaps it lied."""
    with guests.fresh(WHERE.name, 0) as session:
        guest = Lying(session, **lie)
        judge = Judge(program, session.facts, references=second_opinion(WHERE, session.facts))
        record = perform_program(program, guest, judge)
    assert record.ending is None, record.ending.error
    return judge.verdict(record), guest
