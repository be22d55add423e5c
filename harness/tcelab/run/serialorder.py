"""Which order of hypercalls that were made at once explains what they left.

The law: a final table equals what some serial order of the calls would have left, each call as a whole, the calls of
one process in its own order. QEMU makes it so: a hypercall is handled under the big lock (target/ppc, ppc_hypercall;
hw/ppc/spapr.c, emulate_spapr_hypercall), and so are all entries of one H_STUFF_TCE or H_PUT_TCE_INDIRECT.

An entry that one process alone writes holds what it wrote last. One that several write holds what one of them wrote
last: that one's call came after the others' last calls for this entry. All entries together must not contradict each
other: the calls, with "comes after" between them, have no cycle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Final, NamedTuple

from tcelab.papr import hcallnumbers
from tcelab.papr.window import Shape
from tcelab.program import Call, Hcall, HcallBatch, Op, Tce
from tcelab.run.record import Outcome, TableView

_MASK: Final = (1 << 64) - 1
_ARGUMENTS: Final = 4
_MOST_TRIES: Final = 5000

Place = tuple[int, int]
"""LIOBN and number of an entry."""
Turn = tuple[int, int]
"""Number of the operation among those that were begun at once, and of a call in it."""

Lasts = dict[int, tuple[Turn, int]]
"""By operation, its last call for an entry, and what that stored."""


class _Choice(NamedTuple):
    """An entry, one of whose `last` comes after all the others."""

    place: Place
    last: frozenset[Turn]
    all_: frozenset[Turn]


class Serial(NamedTuple):
    """:ivar contended: entries that several processes wrote.

    :ivar order: of the calls of the last rounds; empty if nothing is contended.
    :ivar contradiction: entries that no order explains together.
    :ivar unknown: why nobody can tell; else empty.
    """

    contended: frozenset[Place] = frozenset()
    order: tuple[Turn, ...] = ()
    contradiction: tuple[Place, ...] = ()
    unknown: str = ""


def reading(tables: Iterable[TableView]) -> tuple[dict[int, Shape], dict[Place, int]]:
    """Of each table, as the first view shows it: its shape, and what its entries hold that are not empty."""
    shapes: dict[int, Shape] = {}
    held: dict[Place, int] = {}
    for table in tables:
        if table.liobn not in shapes:
            shapes[table.liobn] = Shape(table.entries, table.page_shift, table.bus_offset)
            pairs = zip(table.index.tolist(), table.tce.tolist(), strict=True)
            held.update(((table.liobn, number), value) for number, value in pairs)
    return shapes, held


def serial(
    done: Sequence[tuple[Op, Outcome]], shapes: Mapping[int, Shape], held: Mapping[Place, int] | None = None
) -> Serial:
    """:param done: what was begun at once, and what came of it; the calls are those of hypercalls alone.
    :param shapes: of the windows, by LIOBN.
    :param held: what entries hold that are not empty; None: only what is contended is asked for.
    """
    written: defaultdict[Place, Lasts] = defaultdict(dict)
    turns: list[list[Turn]] = []
    for lane, (op, outcome) in enumerate(done):
        own: list[Turn] = []
        for position, writes in enumerate(_calls(op, outcome, shapes)):
            if writes is None:
                return Serial(unknown="a hypercall that was made together with others failed, or reads memory")
            own.append((lane, position))
            for place, value in writes:
                written[place][lane] = (lane, position), value
        turns.append(own)
    contended = {place: lanes for place, lanes in written.items() if len(lanes) > 1}
    if not contended or held is None:
        return Serial(frozenset(contended))
    return _ordered(turns, contended, held)


class _Search:
    """Looks for an order.

    :ivar tries: graphs that were looked at.
    :ivar blamed: the entries that the first contradiction was about.
    """

    def __init__(self, turns: Sequence[Sequence[Turn]]) -> None:
        self.tries = 0
        self.blamed: tuple[Place, ...] = ()
        self._after: dict[Turn, dict[Turn, Place | None]] = {}
        for own in turns:
            for before, turn in zip([None, *own], own, strict=False):
                self._after[turn] = {} if before is None else {before: None}

    def order(self, choices: Sequence[_Choice]) -> tuple[Turn, ...] | CycleError:
        """With, of each choice, one turn that comes after the others; or why there is none."""
        self.tries += 1
        try:
            order = tuple(TopologicalSorter(self._after).static_order())
        except CycleError as error:
            return error
        if not choices or self.tries > _MOST_TRIES:
            return order
        (place, last, all_), *rest = choices
        failed: CycleError | None = None
        for turn in sorted(last, key=order.index, reverse=True):
            new = {each: place for each in all_ if each != turn and each not in self._after[turn]}
            self._after[turn].update(new)
            found = self.order(rest)
            if not isinstance(found, CycleError):
                return found
            failed = failed or found
            self.blamed = self.blamed or self._places(found)
            for each in new:
                del self._after[turn][each]
        assert failed is not None
        return failed

    def _places(self, error: CycleError) -> tuple[Place, ...]:
        """The entries that contradict each other, by a cycle of what must come after what."""
        pairs = pairwise(error.args[1])
        found = [self._after.get(later, {}).get(before) for before, later in pairs]
        return tuple(dict.fromkeys(place for place in found if place is not None))


def _ordered(turns: Sequence[Sequence[Turn]], contended: Mapping[Place, Lasts], held: Mapping[Place, int]) -> Serial:
    choices: dict[tuple[frozenset[Turn], frozenset[Turn]], _Choice] = {}
    for place, lanes in sorted(contended.items()):
        all_ = frozenset(turn for turn, _ in lanes.values())
        last = frozenset(turn for turn, value in lanes.values() if value == held.get(place, 0))
        # What nobody has written is for the law `table`; of what all have written, anyone may come last.
        if last and last != all_:
            choices.setdefault((last, all_), _Choice(place, last, all_))
    search = _Search(turns)
    # Where there is no choice first.
    order = search.order(sorted(choices.values(), key=lambda choice: len(choice.last)))
    if search.tries > _MOST_TRIES:
        return Serial(frozenset(contended), unknown="too many orders of hypercalls that were made at once to try")
    if isinstance(order, CycleError):
        return Serial(frozenset(contended), contradiction=search.blamed)
    return Serial(frozenset(contended), order)


def _calls(op: Op, outcome: Outcome, shapes: Mapping[int, Shape]) -> Iterator[list[tuple[Place, int]] | None]:
    """What each call of the last round stored; None: that cannot be told."""
    if outcome.errno or not isinstance(op, Hcall | HcallBatch):
        return
    single = isinstance(op, Hcall)
    calls = [op.call] if isinstance(op, Hcall) else op.calls
    statuses = [outcome.value] if single else outcome.fields.get("statuses", [])
    frames = iter(outcome.frames)
    for call, status in zip(calls, statuses, strict=False):
        args = [_word(word, frames) for word in (*call.args, *[0] * (_ARGUMENTS - len(call.args)))]
        tces = None if call.tces is None else [_word(word, frames) for word in call.tces]
        yield _stored(call, args, tces, shapes) if status == 0 else None


def _stored(
    call: Call, args: Sequence[int], tces: Sequence[int] | None, shapes: Mapping[int, Shape]
) -> list[tuple[Place, int]] | None:
    opcode = hcallnumbers.NAMES[call.opcode] if isinstance(call.opcode, str) else call.opcode
    liobn, ioba, word, count = args
    shape = shapes.get(liobn)
    if opcode == hcallnumbers.H_GET_TCE:
        return []
    if shape is None or (opcode == hcallnumbers.H_PUT_TCE_INDIRECT and tces is None):
        return None
    first = (ioba - shape.start) >> shape.page_shift
    if opcode == hcallnumbers.H_PUT_TCE:
        values = [word]
    elif opcode == hcallnumbers.H_STUFF_TCE:
        values = [word] * count
    else:
        values = [*(tces or ()), *[0] * hcallnumbers.LIST_MOST][:count]
    return [((liobn, first + number), value) for number, value in enumerate(values)]


def _word(word: int | Tce, frames: Iterator[int]) -> int:
    return word if isinstance(word, int) else (next(frames, 0) | word.permissions) + word.plus & _MASK


def single(op: Op, position: int) -> HcallBatch:
    """One call of an operation, as an operation of its own."""
    assert isinstance(op, Hcall | HcallBatch)
    call = op.call if isinstance(op, Hcall) else op.calls[position]
    return HcallBatch(calls=[call], by=op.by)
