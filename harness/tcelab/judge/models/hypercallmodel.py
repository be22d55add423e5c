"""What must be true after raw hypercalls: the tables, from what succeeded, and the registers, from the tables.

A failed hypercall changes nothing, with one exception: of several entries, those inside the window are stored before
the first one outside ends the call. Sources: PAPR, H_GET_TCE, H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT; QEMU
hw/ppc/spapr_iommu.c, h_stuff_tce and h_put_tce_indirect (the loops), put_tce_emu; hw/ppc/spapr.c,
emulate_spapr_hypercall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

from tcelab.judge.models.edumodel import Forbidden
from tcelab.judge.models.memorymodel import BufferModel, PageModel
from tcelab.judge.models.pinmodel import Pins
from tcelab.judge.models.tablemodel import LiveEntry, TableModel
from tcelab.judge.models.transfers import Transfers
from tcelab.papr import hcallnumbers, tce
from tcelab.program import Call, Hcall, HcallBatch, Tce
from tcelab.run.record import Outcome, TableView

NUMBERS: Final = hcallnumbers.NAMES
GET, PUT, STUFF, INDIRECT = hcallnumbers.OPCODES
SUCCESS: Final = hcallnumbers.H_SUCCESS
PRIVILEGE: Final = hcallnumbers.H_PRIVILEGE
PARAMETER: Final = hcallnumbers.H_PARAMETER
_LIST: Final = hcallnumbers.LIST_PAGE
_MOST: Final = hcallnumbers.LIST_MOST
_TCE: Final = 8
"""Bytes of one."""
_NO_RAM: Final = "a list outside RAM"
_MASK: Final = (1 << 64) - 1
_ARGUMENTS: Final = 4
LIST_AT: Final = 2
"""The argument that holds the address of H_PUT_TCE_INDIRECT's list: r6."""


class Word(NamedTuple):
    """A register, or a TCE of a list. `value`: None when the agent did not tell. The other fields are of a word that
    names a page of a buffer. `untold`: a TCE with unknown value.
    """

    value: int | None
    buffer: str = ""
    number: int = 0
    page: PageModel | None = None
    untold: bool = False


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    """A wrong result of a hypercall."""

    message: str
    expected: str
    seen: str
    liobn: int | None = None
    ioba: int | None = None


def calls_of(op: Hcall | HcallBatch) -> list[Call]:
    return [op.call] if isinstance(op, Hcall) else op.calls


def words_of(op: Hcall | HcallBatch) -> Iterator[Tce]:
    """Its words that name pages of buffers, in the order of the frames of its outcome."""
    for call in calls_of(op):
        yield from (word for word in (*call.args, *(call.tces or ())) if isinstance(word, Tce))


def seen_registers(op: Hcall | HcallBatch, outcome: Outcome) -> Iterator[list[tuple[bool, int]]]:
    """The registers after each hypercall, and whether each holds a TCE; the module's list page is left out."""
    single = isinstance(op, Hcall)
    statuses, every = (outcome.fields.get(name, []) for name in ("statuses", "registers"))
    told = zip(calls_of(op), [outcome.value] if single else statuses, [every] if single else every, strict=False)
    for call, status, registers in told:
        got = call.opcode in ("H_GET_TCE", GET) and status == SUCCESS
        words = [*call.args, *[0] * (_ARGUMENTS - len(call.args))]
        yield [
            (isinstance(word, Tce) or (got and number == 0), each)
            for number, (word, each) in enumerate(zip(words, registers, strict=False))
            if number != LIST_AT or call.tces is None
        ]


class HypercallModel:
    """Folds hypercalls into the tables.

    :ivar wrong: of the last operation.
    :ivar judged: how many hypercalls of the last operation told their registers.
    """

    def __init__(  # noqa: PLR0917 - what a fold is made of
        self,
        tables: Mapping[int, TableModel],
        buffers: Callable[[], Mapping[str, BufferModel]],
        ram: int,
        transfers: Transfers,
        pins: Pins,
        unknown: list[str],
    ) -> None:
        """:param buffers: by name, as they are at the moment.
        :param ram: bytes of the guest's RAM.
        :param transfers: called with the platform's own accesses that must have been refused.
        :param pins: called with entries that hypercalls overwrite.
        :param unknown: takes reasons why something could not be folded.
        """
        self._pins = pins
        self._tables, self._buffers, self._ram, self._unknown = tables, buffers, ram, unknown
        self._transfers = transfers
        self.wrong: list[WrongAnswer] = []
        self.judged = 0

    def apply(self, op: Hcall | HcallBatch, outcome: Outcome, step: int) -> None:
        """Fold in one operation."""
        self.wrong, self.judged = [], 0
        if outcome.errno:
            return
        frames = iter(outcome.frames)
        if isinstance(op, Hcall):
            given = self._given(op.call, frames)
            self._one(given, outcome.value, outcome.fields.get("registers"), step, op.problem_state)
            return
        ready = [self._given(call, frames) for call in op.calls]
        statuses, registers = outcome.fields.get("statuses", []), outcome.fields.get("registers", [])
        if len(statuses) != len(ready) or len(registers) != len(ready):
            self._unknown.append(f"HcallBatch of step {step} gave {len(statuses)} statuses for {len(ready)} hypercalls")
            return
        # From the second round on, each finds what the one before it left: registers are those of the last one.
        for last in (False, True)[op.times == 1 :]:
            for given, status, after in zip(ready, statuses, registers, strict=True):
                self._one(given, status, after if last else None, step)

    # -- one hypercall

    def _given(self, call: Call, frames: Iterator[int]) -> tuple[int, list[Word], list[Word] | None]:
        """Opcode, registers from r4 on, and the list."""
        opcode = NUMBERS[call.opcode] if isinstance(call.opcode, str) else call.opcode
        args = [self._word(word, frames) for word in call.args]
        args += [Word(0)] * (_ARGUMENTS - len(args))
        return opcode, args, None if call.tces is None else [self._word(word, frames) for word in call.tces]

    def _word(self, word: int | Tce, frames: Iterator[int]) -> Word:
        if isinstance(word, int):
            return Word(word)
        frame = next(frames, 0)
        buffer = self._buffers().get(word.buffer)
        page = buffer.pages[word.index] if buffer is not None and word.index < len(buffer.pages) else None
        if not frame:
            return Word(None, word.buffer, word.index, page)
        value = (frame | word.permissions) + word.plus & _MASK
        if tce.address(value) != frame:
            return Word(value)  # the count runs into another page
        if page is not None:
            page.frame = frame
        return Word(value, word.buffer, word.index, page)

    def _one(
        self,
        given: tuple[int, list[Word], list[Word] | None],
        status: int | None,
        after: Sequence[int] | None,
        step: int,
        problem_state: bool = False,  # noqa: FBT001, FBT002 - private
    ) -> None:
        opcode, args, tces = given
        liobn, ioba, _, npages = (word.value for word in args)
        if problem_state:
            if status != PRIVILEGE:
                self._wrong("a hypercall of a process", "H_PRIVILEGE (-3)", f"status {status}", (liobn, ioba))
            return
        if opcode not in NUMBERS.values():
            return  # firmware's answers are not predicted
        model = self._tables.get(-1 if liobn is None else liobn)
        if liobn is None or ioba is None:
            self._unknown.append(f"a hypercall of step {step} has a LIOBN or an IOBA that is not known")
            return
        first = 0 if model is None else model.number(ioba)
        if opcode == GET:
            self._got(model, first, args, (status, after))
            return
        if after is not None:
            self._unchanged(args, after, tces)
        count = 1 if opcode == PUT else npages
        if count is None:
            self._unknown.append(f"a hypercall of step {step} has a number of pages that is not known")
            return
        if opcode == INDIRECT and tces is None:
            self._refused(model, args, (first, count, status), step)
        kept = self._kept(model, first, (opcode, status, count), args[2].value)
        if kept < 0:
            what = "a hypercall that succeeded must have stored its entries in a window"
            self._wrong(what, "a failure", "H_SUCCESS", (liobn, ioba))
        elif model is not None and kept:
            words = self._stored((opcode, kept), args[2], tces, step)
            self._store(model, first, words, step, listed=opcode == INDIRECT)
        elif model is not None:
            model.tried(first, first + min(count, model.entries), step)

    def _refused(
        self, model: TableModel | None, args: Sequence[Word], how: tuple[int, int, int | None], step: int
    ) -> None:
        """A list outside RAM: QEMU reports each TCE read from it as refused. A TCE past the window's end is read before
        its place is checked (h_put_tce_indirect, the loop).
        """
        first, count, status = how
        liobn, address = args[0].value or 0, args[2].value or 0
        there = model is not None or liobn ^ 1 in self._tables
        if args[2].page or address < self._ram or address % _LIST or not 0 < count <= _MOST or not there:
            return
        if status not in (SUCCESS, PARAMETER) or self._page_at(address) is not None:
            return
        room = model.entries - first if model is not None and 0 <= first < model.entries else 0
        size = _TCE * (count if status == SUCCESS else room + 1)
        self._transfers.forbidden.append(_unreadable(liobn, address, size, step))

    @staticmethod
    def _kept(model: TableModel | None, first: int, how: tuple[int, int | None, int], tce_list: int | None) -> int:
        """How many entries it has stored; -1: it cannot have succeeded."""
        opcode, status, count = how
        room = 0 if model is None else model.entries - first
        inside = model is not None and 0 <= first < model.entries
        if status == SUCCESS:
            return count if inside and 0 < count <= room else -1
        if opcode == PUT or status != PARAMETER or not inside or model is None:
            return 0
        most = model.entries if opcode == STUFF else _MOST
        aligned = opcode == STUFF or (tce_list or 0) % _LIST == 0
        return room if room < count <= most and aligned else 0

    def _stored(self, how: tuple[int, int], word: Word, tces: list[Word] | None, step: int) -> list[tuple[Word, int]]:
        """The TCEs that it stored, in order, each with the number of entries that it was stored in."""
        opcode, count = how
        if opcode in (PUT, STUFF):
            return [(word, count)]
        return [(each, 1) for each in self._listed(count, word, tces, step)]

    def _listed(self, count: int, word: Word, tces: list[Word] | None, step: int) -> list[Word]:
        """What the list of H_PUT_TCE_INDIRECT held."""
        if tces is not None:
            return [*tces, *[Word(0)] * (_MOST - len(tces))][:count]
        page = word.page or self._page_at(word.value)
        content = page.read(0, 8 * count) if page is not None else None
        if page is None and word.value is not None and word.value >= self._ram:
            content = bytes(8 * count)  # value of a bus read there
        if content is None:
            self._unknown.append(f"H_PUT_TCE_INDIRECT of step {step} took a list that nobody knows")
            return [Word(None, untold=True)] * count
        return [Word(int.from_bytes(content[at : at + 8], "big")) for at in range(0, len(content), 8)]

    def _page_at(self, address: int | None) -> PageModel | None:
        """The page of a buffer that lies at a real address."""
        pages = (page for buffer in self._buffers().values() for page in buffer.pages)
        return next((page for page in pages if address is not None and page.frame == address), None)

    def _store(
        self, model: TableModel, first: int, words: Sequence[tuple[Word, int]], step: int, *, listed: bool
    ) -> None:
        """:param listed: they come from a list."""
        del listed  # they are stored as they are
        at = first
        for empty, run in groupby(words, lambda word: word[0].value == 0):
            same = list(run)
            count = sum(times for _, times in same)
            if empty:
                gone = model.clear(at, at + count, step)
            else:
                gone = model.put(at, [entry for word, times in same for entry in [_entry(word, step)] * times], step)
            self._pins.stored(gone)
            at += count

    # -- unknown entries

    def seen(self, model: TableModel, shown: TableView) -> None:
        """Take the contents of untold entries from a table that was read."""
        held = dict(zip(shown.index.tolist(), shown.tce.tolist(), strict=True)) if model.untold else {}
        for number in sorted(model.untold):
            self._tell(model, number, held.get(number, 0))

    def _tell(self, model: TableModel, number: int, value: int) -> None:
        page = self._page_at(tce.address(value))
        name, at = "", 0
        for buffer in self._buffers().values() if page is not None else ():
            at = next((i for i, each in enumerate(buffer.pages) if each is page), -1)
            if at >= 0:
                name = buffer.name
                break
        made = model.live[number].step
        model.tell(number, _entry(Word(value, name, at, page), made) if value else None)

    # -- registers

    def _got(
        self, model: TableModel | None, number: int, args: list[Word], told: tuple[int | None, Sequence[int] | None]
    ) -> None:
        status, after = told
        liobn, ioba = args[0].value, args[1].value
        inside = model is not None and 0 <= number < model.entries
        if status == SUCCESS and not inside:
            self._wrong("H_GET_TCE of an entry that there is not", "a failure", "H_SUCCESS", (liobn, ioba))
        if after is None or status != SUCCESS or model is None or not inside:
            if after is not None:
                self._unchanged(args, after, None)
            return
        if number in model.untold:
            self._tell(model, number, after[0])
        expected = self._held(model, number)
        if expected is not None and after[0] != expected:
            message = (
                f"H_GET_TCE of LIOBN {model.liobn:#x} IOBA {model.ioba(number):#x} gives another TCE than it holds"
            )
            self._wrong(message, tce.describe(expected), tce.describe(after[0]), (liobn, ioba))
        self._unchanged(args, after, None, first=1)

    def _held(self, model: TableModel, number: int) -> int | None:
        """What the guest must read of an entry; None: nobody knows."""
        entry = model.live.get(number)
        return 0 if entry is None else entry.tce

    def _unchanged(
        self, args: Sequence[Word], after: Sequence[int], tces: Sequence[Word] | None, *, first: int = 0
    ) -> None:
        """Registers from number `first` on come back unchanged; only the module knows its list page's address."""
        self.judged += 1
        for number, (word, seen) in enumerate(zip(args, after, strict=False)):
            if number < first or (number == LIST_AT and tces is not None) or word.value is None:
                continue
            if word.value != seen:
                message = f"a hypercall changed r{number + 4}, which is no output of it"
                self._wrong(message, f"{word.value:#x}", f"{seen:#x}", (args[0].value, args[1].value))

    def _wrong(self, message: str, expected: str, seen: str, where: tuple[int | None, int | None]) -> None:
        liobn, ioba = where
        self.wrong.append(WrongAnswer(message, expected, seen, liobn, ioba))


def _unreadable(liobn: int, address: int, size: int, step: int) -> Forbidden:
    return Forbidden("H_PUT_TCE_INDIRECT", liobn, False, address, address, size, _NO_RAM, step)  # noqa: FBT003


def _entry(word: Word, step: int) -> LiveEntry:
    if word.value is None:
        return LiveEntry(tce.PERMISSIONS, word.buffer, word.number, word.page, None, step, untold=word.untold)
    frame, bits = tce.address(word.value), tce.permissions(word.value)
    return LiveEntry(bits, word.buffer, word.number, word.page, frame, step, word.value)
