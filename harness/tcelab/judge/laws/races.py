"""The law of races."""

from __future__ import annotations

import errno
from collections import Counter
from typing import Final, NamedTuple

from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.files import ContainerModel
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.requests import request_name
from tcelab.papr import tce, window
from tcelab.program import Ioctl
from tcelab.program.topology import Phb
from tcelab.run.points import MOST_PAGES, Point, Race, Reach
from tcelab.run.record import Outcome, Step

LAW: Final = Law(
    "races",
    says="between two hypercalls of a map or an unmap, a device reaches exactly the pages that the table holds then",
    needs="a topology that is raced",
    finds="compares QEMU's answer to a probe, for each page and direction at each point, with the entries that the"
    " trace has told until then, with QEMU's table in memory, and with its log of refused accesses",
)

_CALLS: Final = ("MAP_DMA", "UNMAP_DMA")
_WAYS: Final = ((False, tce.READ), (True, tce.WRITE))


class _Place(NamedTuple):
    """Where in an operation: its step, the point's number of how many, and what the point is."""

    step: int
    number: int
    of: int
    point: Point

    def __str__(self) -> str:
        point = self.point
        when = "after" if point.done else "before"
        what = f"{point.call} of {point.ioba:#x}" if point.call else "all of it"
        return f"operation {self.step}, point {self.number} of {self.of}, {when} {what}"


def races(ledger: Ledger, fold: Fold, step: Step, outcome: Outcome) -> None:
    """At each point of a map or an unmap, before it is folded in, see `LAW`. What the entries were at first says the
    fold; what they are at last, if it succeeded, says its request.
    """
    if not fold.program.topology.raced:
        return
    race = outcome.race
    if race is None:
        _expect_none(ledger, fold, step)
        return
    phb = next(each for each in fold.program.topology.phbs if each.liobn == race.liobn)
    _Points(ledger, fold, phb, step, race).judge(outcome)


def end(ledger: Ledger, fold: Fold) -> None:
    """A raced program of which no probe reached for anything between two hypercalls proves nothing."""
    count = ledger.evidence.races
    if fold.program.topology.raced and not (count.calls and count.reached and count.refused):
        ledger.undecided_because("no probe reached for memory between two hypercalls and was let, or was refused")


def _expect_none(ledger: Ledger, fold: Fold, step: Step) -> None:
    """It was not raced: it concerns no probe's PE, no whole pages, or too many."""
    if not isinstance(step.op, Ioctl) or request_name(step.op.request) not in _CALLS:
        return
    container = fold.target(step.op)
    if not isinstance(container, ContainerModel) or len(container.groups) != 1:
        return
    (group,) = container.groups
    iova, size = (fold.number(step.op.fields.get(name, 0)) for name in ("iova", "size"))
    if all(device.model != "probe" for device in group.phb.devices) or iova is None or size is None:
        return
    if size >> window.PAGE_SHIFT > MOST_PAGES:
        ledger.evidence.races.large += 1
    elif size >= window.PAGE_SIZE and iova % window.PAGE_SIZE == 0:
        ledger.undecided_because("a map or an unmap of a probe's PE was not raced")


class _Points:
    """The points of one operation. `words`: TCE of each page by what was told so far, None: it has these `rights`, and
    nobody has told its frame.
    """

    def __init__(self, ledger: Ledger, fold: Fold, phb: Phb, step: Step, race: Race) -> None:
        self._ledger, self._fold, self._phb, self._step, self._race = ledger, fold, phb, step, race
        self._pages = len(race.points[0].table) if race.points else 0
        table = fold.windows[phb.index].at(race.first)
        entries = [table.live.get(table.number(self._ioba(number))) for number in range(self._pages)]
        if any(entry is not None and entry.untold for entry in entries):
            ledger.undecided_because("an entry of unknown contents was raced")
        self._words = [0 if entry is None else entry.tce for entry in entries]
        self._rights = [0 if entry is None else entry.permissions for entry in entries]

    def _ioba(self, number: int) -> int:
        return self._race.first + number * window.PAGE_SIZE

    def judge(self, outcome: Outcome) -> None:
        """All of them, in order."""
        points = self._race.points
        count = self._ledger.evidence.races
        count.operations += 1
        if len(points) < 2 or points[0].call or points[-1].call:  # noqa: PLR2004 - before it, and after it
            self._ledger.undecided_because("an operation was raced without a point before it and one after it")
        for number, point in enumerate(points, 1):
            place = _Place(self._step.number, number, len(points), point)
            count.points += 1
            count.calls += bool(point.call and point.done)
            self._ledger.judged("races")
            self._follow(place)
            for page in range(self._pages):
                self._table(place, page)
            for reach in point.reaches:
                self._reach(place, reach)
            self._log(place)
            for page in point.spoilt:
                self._report(place, page, "spoilt", ("memory as it was", "other bytes where its entry had led"))
        if points:
            self._at_last(_Place(self._step.number, len(points), len(points), points[-1]), outcome)

    def _follow(self, place: _Place) -> None:
        """Apply what QEMU says was stored. Between two hypercalls nothing is; by each, what it is about."""
        point = place.point
        stored = 0
        for change in point.changes:
            differs = False
            for page in range(self._pages):
                if 0 <= self._ioba(page) - change.ioba < change.count * window.PAGE_SIZE:
                    differs = differs or change.tce != self._words[page]
                    self._words[page], self._rights[page] = change.tce, tce.permissions(change.tce)
            stored += differs
        if stored > bool(point.call and point.done):
            self._ledger.undecided_because(
                "entries were stored between two points of an operation, and nobody reached for them there"
            )

    def _inside(self, page: int) -> bool:
        return 0 <= self._ioba(page) - self._phb.window_start < self._phb.window_size

    def _table(self, place: _Place, page: int) -> None:
        """QEMU's memory holds what its trace has told."""
        seen, word = place.point.table[page], self._words[page]
        wrong = tce.permissions(seen) != self._rights[page] if word is None else seen != word
        if wrong:
            told = tce.PERMISSION_NAMES[self._rights[page]] if word is None else tce.describe(word)
            self._report(place, page, "table", (f"by the trace, {told}", f"in QEMU's memory, {tce.describe(seen)}"))

    def _reach(self, place: _Place, reach: Reach) -> None:
        """QEMU's answers to a probe are what the entries say."""
        count = self._ledger.evidence.races
        for to_memory, right in _WAYS:
            answers = reach.written if to_memory else reach.read
            if len(answers) != self._pages:
                self._ledger.undecided_because(f"{reach.device} did not reach for each page")
                continue
            for page, answer in enumerate(answers):
                let = bool(self._rights[page] & right)
                count.reached += not answer
                count.refused += bool(answer)
                if let == bool(answer):
                    expected = "reached" if let else "refused"
                    seen = f"refused ({errno.errorcode.get(answer, answer)})" if answer else "reached"
                    kind = "write" if to_memory else "read"
                    self._report(place, page, f"{kind} {let}", (expected, seen), reach.device)
        for page in reach.astray:
            self._report(place, page, "astray", ("the bytes where the entry leads", "others"), reach.device)

    def _log(self, place: _Place) -> None:
        """QEMU's log tells each refusal, and no other: a device's own table refuses without a word there."""
        told = Counter(place.point.refused)
        answered = Counter(
            (page, to_memory)
            for reach in place.point.reaches
            for to_memory in (False, True)
            for page, answer in enumerate(reach.written if to_memory else reach.read)
            if answer
        )
        for page, to_memory in sorted(told.keys() | answered.keys()):
            one, other = answered[page, to_memory], told[page, to_memory]
            if one != other:
                way = "writes" if to_memory else "reads"
                self._report(place, page, f"log {way}", (f"{one} {way} refused", f"{other} in QEMU's log"))

    def _at_last(self, place: _Place, outcome: Outcome) -> None:
        """Once an operation has succeeded, its pages have what it asks for, whatever the trace says."""
        op = self._step.op
        if outcome.value != 0 or not isinstance(op, Ioctl):
            return
        maps = request_name(op.request) == "MAP_DMA"
        iova, size, flags = (self._fold.number(op.fields.get(name, 0)) for name in ("iova", "size", "flags"))
        if iova is None or size is None or flags is None:
            self._ledger.undecided_because("nobody knows which pages an operation was about")
            return
        for page in range(self._pages):
            if 0 <= self._ioba(page) - iova < size and self._inside(page):
                wanted = flags & tce.PERMISSIONS if maps else 0
                if self._rights[page] != wanted:
                    names = tce.PERMISSION_NAMES[wanted], tce.PERMISSION_NAMES[self._rights[page]]
                    self._report(place, page, "last", names)

    def _report(self, place: _Place, page: int, kind: str, sides: tuple[str, str], device: str = "") -> None:
        """:param kind: what is wrong; it is one finding for each page and device of an operation, at its first point.
        :param sides: what was expected, and what was seen.
        """
        ioba, (expected, seen) = self._ioba(page), sides
        who = " ".join(filter(None, (f"{device}'s" if device else "", kind.partition(" ")[0])))
        self._ledger.report(
            "races",
            (place.step, ioba, device, kind),
            f"LIOBN {self._phb.liobn:#x} IOBA {ioba:#x}: {place}: {who}: expected {expected}, seen {seen}",
            liobn=self._phb.liobn,
            ioba=ioba,
            expected=expected,
            seen=seen,
            operation=place.step,
            lasting=False,
        )
