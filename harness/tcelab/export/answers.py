"""What each operation must give, and what a kernel with the known defects gives: by the emulator, without and with all
quirks.

A checkpoint looks at tables from outside. What a program in the guest can see of them instead is asked for here as
well: pinned pages, charged memory, what devices have written, and the kernel's warnings.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from tcelab.emulator import EmulatorSession
from tcelab.errors import TcelabError, UsageError, died
from tcelab.judge.models.consolelines import warned_in
from tcelab.program import Buffer, Checkpoint, Dma, Frames, GuestOp, Op, Program, Protect, Put, Read, pagetags
from tcelab.program.parts import Part, parts
from tcelab.quirks import QUIRKS
from tcelab.run.record import Outcome, Refusal, Snapshot

_WENT: Final = ("passed", "refused")
NONCE: Final = bytes(16)
"""Of the tags: a reproducer writes the same ones whenever it runs."""


class Sight(NamedTuple):
    """What a process in the guest sees at a checkpoint, or at the end of a part.

    :ivar pins: pages pinned since the part began; `vmlck`: KiB charged to the first process.
    :ivar warnings: how often the kernel has warned since the sight before.
    """

    pins: int
    vmlck: int
    warnings: int


class Given(NamedTuple):
    """What one operation gives: an outcome, or what is seen at a checkpoint.

    :ivar contents: after a device has written: CRC-32 of each buffer of the first process.
    :ivar went: of a transfer: `passed`, `refused`, `in part`.
    """

    outcome: Outcome | None = None
    sight: Sight | None = None
    contents: Mapping[str, int] = MappingProxyType({})
    went: str = ""


class Answer(NamedTuple):
    """An operation of a part.

    :ivar number: in the program, from 0 on; the end of a part has that of what would follow.
    :ivar op: None: the end of a part.
    :ivar right: what it must give; `known`: what a kernel with the known defects gives.
    """

    number: int
    op: Op | None
    right: Given
    known: Given

    @property
    def differs(self) -> bool:
        """The known defects show here."""
        return told(self.right) != told(self.known)


class Answers(NamedTuple):
    """All of a part. :ivar quirks: names of those that a kernel with all of them meets in it, sorted."""

    part: Part
    steps: list[Answer]
    quirks: list[str]

    @property
    def differs(self) -> bool:
        """The known defects show in it."""
        return any(each.differs for each in self.steps)


def told(given: Given) -> object:
    """What of it a program can compare: addresses and descriptors differ from run to run."""
    if given.outcome is None:
        return given.sight
    return given.outcome.value, given.outcome.errno, given.outcome.fields, dict(given.contents), given.went


def answers(program: Program, page_size: int) -> list[Answers]:
    """Of each part of a program that the emulator has rules for.

    :param page_size: of the kernel that it is for, in bytes.
    :raise UsageError: the emulator cannot follow an operation, or its kernel dies of it.
    """
    out = []
    for part in parts(program):
        right, _ = _follow(program, part, (), page_size)
        known, met = _follow(program, part, QUIRKS, page_size)
        numbers = range(part.first, part.first + len(right))
        steps = [
            Answer(number, op, *given)
            for number, op, *given in zip(numbers, (*part.ops, None)[: len(right)], right, known, strict=True)
        ]
        out.append(Answers(part, steps, met))
    return out


def _follow(program: Program, part: Part, quirks: Collection[str], page_size: int) -> tuple[list[Given], list[str]]:
    out: list[Given] = []
    with EmulatorSession(program.topology, quirks=quirks, nonce=NONCE, page_size=page_size) as session:
        eyes = _Eyes(session)
        for number, op in enumerate(part.ops, part.first):
            try:
                out.append(eyes.perform(op))
                if op.expect in _WENT and not quirks and out[-1].went != op.expect:
                    raise UsageError(f"it expects {op.expect}, and by the rules it is {out[-1].went}")
            except TcelabError as error:
                what = f"operation {number} ({type(op).__name__.lower()})"
                if died(error):
                    raise UsageError(f"{what} ends the kernel, and what does so is not exported") from None
                raise UsageError(f"{what} cannot be exported: {error.message}") from None
        if not part.ops or not isinstance(part.ops[-1], Checkpoint):
            out.append(Given(sight=eyes.sight(session.finish())))
        met = {hit.quirk for hit in session.take_quirk_hits()}
    return out, sorted(met & QUIRKS.keys())


class _Eyes:
    """Of the first process in the emulated guest."""

    def __init__(self, session: EmulatorSession) -> None:
        self._session = session
        self._first = self._read("pins")
        self._compared: set[str] = set()
        self._warnings = 0
        self._refused: list[Refusal] = []

    def perform(self, op: Op) -> Given:
        """Do an operation. :raise TcelabError: it cannot be done."""
        if isinstance(op, Checkpoint):
            snapshot = self._session.intervene(op, ())
            assert isinstance(snapshot, Snapshot)
            return Given(sight=self.sight(snapshot.console))
        outcome = self._perform(op)  # type: ignore[arg-type]
        match op:
            case Read(what="pins") if outcome.value is not None:
                outcome = Outcome(value=outcome.value - self._first)
            case Buffer(by="") if outcome.value is not None:
                self._compared.add(op.name)
            case Put() | Protect(access="none"):
                self._compared.discard(op.buffer)  # a struct holds addresses; and what cannot be read
        if not isinstance(op, Dma):
            return Given(outcome)
        moved = op.to_memory and not outcome.errno
        contents = {name: self._crc(name) for name in sorted(self._compared)} if moved else {}
        return Given(outcome, contents=contents, went=self._went(op))

    def _went(self, op: Dma) -> str:
        """`passed`, `refused`, or `in part`."""
        snapshot = self._session.intervene(Checkpoint(), ())
        assert isinstance(snapshot, Snapshot)
        self._warnings += _warnings(snapshot.console)
        refused = sum(each.size for each in (*self._refused, *snapshot.refusals))
        self._refused.clear()
        return "passed" if not refused else "refused" if refused >= op.size else "in part"

    def sight(self, said: Sequence[str]) -> Sight:
        """:param said: trouble on the console."""
        warnings, self._warnings = self._warnings + _warnings(said), 0
        return Sight(self._read("pins") - self._first, self._read("vmlck"), warnings)

    def _crc(self, name: str) -> int:
        """CRC-32 of all that a buffer holds."""
        frames = self._perform(Frames(buffer=name)).frames
        snapshot = self._session.intervene(Checkpoint(), frames)
        assert isinstance(snapshot, Snapshot)
        self._warnings += _warnings(snapshot.console)
        self._refused += snapshot.refusals
        pages = [snapshot.pages[frame] for frame in frames]
        return zlib.crc32(b"".join(pagetags.expand(page) for page in pages if page is not None))

    def _read(self, what: str) -> int:
        value = self._perform(Read(what=what)).value
        assert value is not None
        return value

    def _perform(self, op: GuestOp) -> Outcome:
        return self._session.perform([op])[0]


def _warnings(said: Sequence[str]) -> int:
    return sum(bool(warned_in(line)) for line in said)
