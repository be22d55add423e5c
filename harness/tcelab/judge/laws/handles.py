"""The law of handles: what the kernel's DMA API tells a driver, and what its device then reaches."""

from __future__ import annotations

from typing import Final

from tcelab.errors import counted
from tcelab.judge import blame
from tcelab.judge.finding import Finding
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger, op_name
from tcelab.judge.models.dmamodel import DmaModel, MapModel, Segment, Span, segments_of
from tcelab.judge.models.eventfold import EventFold
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.reading import TableReading
from tcelab.papr import tce, window
from tcelab.program import DmaAlloc, DmaMap, DmaMapSg, DmaMask, DmaMove, DmaRepeat
from tcelab.run.record import Outcome, Step, TableView

LAW: Final = Law(
    "handles",
    says="each byte that a driver maps is reached at its handle, within the mask, in the direction asked for, and in no"
    " other way; once it is unmapped, it is reached no more",
    needs="the operations dmamap, dmamapsg, dmaalloc, dmamask or dmarepeat",
    finds="follows each handle through the tables to the page behind it, and compares it with its mask and with others",
)

WRONG: Final = (
    "no entry at its handle",
    "gives other permissions",
    "leads elsewhere",
    "in no window",
    "an entry survives",
    "has an entry of",
    "is above its mask",
    "its segments have",
    "mask is of",
    "is answered with",
    "says that its transfer",
    "its entry does not lead to",
    "given an entry that another list",
)
"""What may be wrong, in the words of its findings."""
MOST: Final = 8
"""Entries of one mapping that are told; more are counted."""


def wrong(finding: Finding) -> str:
    """Which of `WRONG` a finding tells of; empty if it is another law's."""
    return next((each for each in WRONG if finding.law == LAW.name and each in finding.message), "")


def told(ledger: Ledger, fold: EventFold, step: Step, got: Outcome) -> None:
    """What the kernel tells a driver is right in itself. Call it before the operation is folded in."""
    match step.op:
        case DmaMask():
            _masked(ledger, fold.dma, step, got)
        case DmaAlloc() | DmaMap() | DmaMapSg() if not got.errno and (segments := segments_of(got)) is not None:
            ledger.judged("handles")
            _fit(ledger, fold, step, segments)
            _within(ledger, fold.dma, step, segments)
        case DmaRepeat(loop="checked"):
            _looped(ledger, fold, step, got)


def _looped(ledger: Ledger, fold: EventFold, step: Step, got: Outcome) -> None:
    """While a loop had its lists mapped, their entries led to their bytes, and were no other loop's.

    The driver has read them in the kernel, and tells of the first that was wrong (guest/kmod/tce_dma_tables.c).
    """
    op, fields = step.op, got.fields
    assert isinstance(op, DmaRepeat)
    if fields.get("checked"):
        ledger.judged("handles")
    elif not got.errno and not fold.dma.state(op.device).direct:
        fold.unknown.append(f"the loop of step {step.number} was to be checked, and read no entry")
    said = []
    if wrong := fields.get("wrong"):
        sides = tce.describe(wrong["expected"]), tce.describe(wrong["seen"])
        said.append((wrong, "read while a loop had it mapped, its entry does not lead to its bytes", sides))
    if shared := fields.get("shared"):
        said.append(
            (
                shared,
                "a list was given an entry that another list of a loop had at that time",
                ("an entry of its own", "one of both"),
            )
        )
    for each, what, (expected, seen) in said:
        liobn, ioba = fields["liobn"], each["ioba"]
        times = counted(each["count"], "time")
        ledger.report(
            "handles",
            (step.number, what),
            f"LIOBN {liobn:#x} IOBA {ioba:#x}: {what} ({times}, operation {step.number});"
            f" expected {expected}, seen {seen}",
            liobn=liobn,
            ioba=ioba,
            expected=expected,
            seen=seen,
            operation=step.number,
        )


def _masked(ledger: Ledger, dma: DmaModel, step: Step, got: Outcome) -> None:
    """A mask that was taken is set, one that was refused changes nothing, and the same question has the same answer.

    Source: kernel/dma/mapping.c, dma_set_mask and dma_set_coherent_mask.
    """
    op = step.op
    assert isinstance(op, DmaMask)
    ledger.judged("handles")
    state = dma.state(op.device)
    for name in ("streaming", "coherent"):
        before, seen = getattr(state, name), got.fields.get(name)
        right = op.bits if op.which in (name, "both") and not got.errno else before
        if seen not in ({right} if not got.errno or op.which != "both" else {right, op.bits}):
            _tell(ledger, step, f"the {name} mask is of {seen} bits", (f"{right} bits", f"{seen} bits"))
    answer = got.errno or f"direct {got.fields.get('direct')}"
    if (asked := dma.asked(op)) in state.answers:
        errno, direct = state.answers[asked]
        first = errno or f"direct {direct}"
        if first != answer:
            what = f"the mask of {op.bits} bits is answered with {answer}, and was with {first} before"
            _tell(ledger, step, what, (first, answer))


def device_said(ledger: Ledger, fold: Fold, step: Step, got: Outcome) -> None:
    """The device tells of a refusal what the tables say of it. Call it after the transfer was folded in."""
    if not isinstance(step.op, DmaMove) or "refused" not in got.fields or got.errno:
        return
    refused = any(piece.refused for pieces in fold.transfers.done for piece in pieces)
    if fold.transfers.done and refused != got.fields["refused"]:
        words = {True: "refused", False: "passed"}
        sides = words[refused], words[bool(got.fields["refused"])]
        ledger.judged("handles")
        _tell(ledger, step, f"the device says that its transfer {sides[1]}", sides)


def _fit(ledger: Ledger, fold: EventFold, step: Step, segments: list[Segment]) -> None:
    """Segments have the bytes of the parts, in order, and each byte its place in a page."""
    op = step.op
    assert isinstance(op, DmaAlloc | DmaMap | DmaMapSg)
    match op:
        case DmaAlloc():
            sizes = [op.pages * window.PAGE_SIZE]
        case DmaMap():
            sizes = [op.size]
        case DmaMapSg():
            sizes = [part.size for part in op.parts]
    given = sum(segment.size for segment in segments)
    if given != sum(sizes):
        _tell(ledger, step, f"its segments have {given} bytes", (f"{sum(sizes)} bytes", f"{given} bytes"))
    state = fold.dma.state(op.device)
    bits = state.coherent if isinstance(op, DmaAlloc) else state.streaming
    for segment in segments:
        if segment.last >> bits:
            what = f"handle {segment.handle:#x} of {segment.size} bytes is above its mask"
            sides = f"at most {(1 << bits) - 1:#x} ({bits} bits)", f"{segment.last:#x}"
            _tell(ledger, step, what, sides, ioba=segment.handle)


def _within(ledger: Ledger, dma: DmaModel, step: Step, segments: list[Segment]) -> None:
    """Two mappings of a PE that are there at the same time share no page of its bus, unless it leads to what both map:
    where all RAM is mapped.
    """
    op = step.op
    assert isinstance(op, DmaAlloc | DmaMap | DmaMapSg)
    group = dma.group(op.device)
    for other in dma.maps.values():
        if dma.group(other.device) is not group:
            continue
        for segment in segments:
            shared = next((each for each in other.segments if _pages(each) & _pages(segment)), None)
            if shared is None or dma.is_direct(group, segment.handle):
                continue
            what = f"handle {segment.handle:#x} has an entry of mapping {other.name!r} (operation {other.step})"
            place = max(segment.handle, shared.handle) & -window.PAGE_SIZE
            _tell(ledger, step, what, ("entries of its own", f"{shared.handle:#x}"), ioba=place)


_NUMBERS: Final = 1 << 32
"""A table's entries are numbered by 32 bits."""


def _pages(segment: Segment) -> set[int]:
    return set(range(segment.handle >> window.PAGE_SHIFT, (segment.last >> window.PAGE_SHIFT) + 1))


def _tell(ledger: Ledger, step: Step, what: str, sides: tuple[str, str], *, ioba: int | None = None) -> None:
    expected, seen = sides
    ledger.report(
        "handles",
        (step.number, what),
        f"operation {step.number} ({op_name(step.op)}): {what}; expected {expected}, seen {seen}",
        ioba=ioba,
        expected=expected,
        seen=seen,
        operation=step.number,
    )


def handles(ledger: Ledger, fold: EventFold, seen: TableReading) -> None:
    """Each byte of each mapping is reached at its handle, and entries of those that ended are gone.

    An entry that it reports, the law of tables does not report again. A page whose content is a tag of this session
    proves its frame: no other page has it.
    """
    dma = fold.dma
    for view, tables in seen.views.items():
        for made in dma.maps.values():
            ledger.judged("handles")
            for span in made.spans:
                _reached(ledger, fold, seen, (tables, view), (made, span))
        ended = {liobn for liobn, _ in dma.gone} & tables.keys()
        held = {liobn: frozenset(tables[liobn].index.tolist()) for liobn in ended}
        for (liobn, number), (name, step) in dma.gone.items():
            if number not in held.get(liobn, ()):  # nearly always: a long run has ended thousands
                continue
            value = _value(tables.get(liobn), number)
            if value and liobn in fold.tables and number not in fold.tables[liobn].live:
                shown = tables[liobn]
                what = f"an entry survives mapping {name!r}, which operation {step} ended"
                key, place = (liobn, number, value, step), (liobn, shown.ioba(number))
                seen.handled.add((liobn, number))
                _entry(ledger, key, place, (what, tce.describe(0), tce.describe(value)), (step, view))


Shown = tuple[dict[int, TableView], str]
"""The tables of a view, and its name."""


def _reached(ledger: Ledger, fold: EventFold, seen: TableReading, shown: Shown, of: tuple[MapModel, Span]) -> None:
    tables, view = shown
    made, span = of
    if span.handle is None:
        return  # told when it was mapped
    windows = fold.dma.group(made.device).windows
    there = [tables[liobn] for liobn in windows.liobns if liobn in tables]
    table = next((each for each in there if 0 <= _number(each, span.handle) < each.entries), None)
    who = f"{span.buffer}:{span.number} of mapping {made.name!r} (operation {made.step})"
    if table is None:
        what = f"{who} has a handle in no window"
        sides = "a handle in a window", f"{span.handle:#x}"
        _entry(ledger, (made.step, "nowhere"), (windows.phb.liobn, span.handle), (what, *sides), (made.step, view))
        return
    number = _number(table, span.handle)
    value = _value(table, number)
    direct = fold.dma.is_direct(fold.dma.group(made.device), span.handle)
    granted = tce.PERMISSIONS if direct else made.permissions
    offset = (span.handle - table.bus_offset) & ((1 << table.page_shift) - 1)
    real = tce.address(value, table.page_shift) + offset
    wanted = None if span.frame is None else (span.frame & -window.PAGE_SIZE) + span.offset
    if value and tce.permissions(value) == granted and real == (real if wanted is None else wanted):
        _proven(ledger, seen, view, span, real)
        return
    sides = _sides(span, granted, wanted), f"{tce.describe(value)}" + (f", byte {real:#x}" if value else "")
    model = fold.tables.get(table.liobn)
    blamed = made.step if model is None else blame.entry(ledger, model, number).operation
    seen.handled.add((table.liobn, number))
    what = f"{who}: {_how(value, granted)}"
    place = table.liobn, span.handle & -window.PAGE_SIZE
    wrong = fold.dma.wrong.setdefault(made.step, set())
    if len(wrong) >= MOST and (table.liobn, number, value) not in wrong:
        if (table.liobn, number, value) not in fold.dma.untold:
            fold.dma.untold.add((table.liobn, number, value))
            ledger.count("handles")
        return
    wrong.add((table.liobn, number, value))
    _entry(ledger, (table.liobn, number, value, made.step, span.number), place, (what, *sides), (blamed, view))


def _how(value: int, granted: int) -> str:
    if not value:
        return "no entry at its handle"
    if tce.permissions(value) != granted:
        return "the entry at its handle gives other permissions"
    return "the entry at its handle leads elsewhere"


def _sides(span: Span, granted: int, wanted: int | None) -> str:
    where = f"{span.buffer}:{span.number}" if wanted is None else f"byte {wanted:#x} = {span.buffer}:{span.number}"
    return f"{where}, {tce.PERMISSION_NAMES[granted]}"


def _proven(ledger: Ledger, seen: TableReading, view: str, span: Span, real: int) -> None:
    """Count a page that is proven by its content, once for all views, unless the law of tags counts it."""
    if view != next(iter(seen.views)) or span.page is None or span.page.tagged is None or span.handle is None:
        return
    if span.page.tagged[1] == span.handle & -window.PAGE_SIZE:
        return
    if seen.snapshot.pages.get(real & -window.PAGE_SIZE) == span.page.content:
        ledger.evidence.tags += 1


def _entry(
    ledger: Ledger,
    key: tuple[object, ...],
    place: tuple[int, int],
    said: tuple[str, str, str],
    by: tuple[int | None, str],
) -> None:
    """:param said: what is wrong, what was expected, what was seen."""
    (liobn, ioba), (what, expected, seen), (operation, view) = place, said, by
    ledger.report(
        "handles",
        key,
        f"LIOBN {liobn:#x} IOBA {ioba:#x}: {what}; expected {expected}, seen {seen}",
        liobn=liobn,
        ioba=ioba,
        expected=expected,
        seen=seen,
        operation=operation,
        view=view,
    )


def _number(table: TableView, handle: int) -> int:
    return (handle - table.bus_offset) >> table.page_shift


def _value(table: TableView | None, number: int) -> int:
    """An entry of a table as it was seen; 0: it is empty."""
    if table is None or not 0 <= number < _NUMBERS:
        return 0
    # Sought as what the numbers are: for an int, numpy makes all of them anew as signed ones.
    at = int(table.index.searchsorted(table.index.dtype.type(number)))
    there = at < len(table.index) and int(table.index[at]) == number
    return int(table.tce[at]) if there else 0
