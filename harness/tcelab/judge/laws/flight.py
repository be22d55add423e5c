"""The law of a device in flight over an event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger, op_name
from tcelab.judge.models.eventfold import EventFold
from tcelab.judge.models.flightmodel import FlightModel, Target
from tcelab.judge.models.reading import SLACK
from tcelab.papr import window
from tcelab.program import pagetags
from tcelab.run.flown import Flown, FlownPage
from tcelab.run.record import Outcome, Step

LAW: Final = Law(
    "flight",
    says="a device in flight over an event does what the tables say when its transfer ends, byte by byte",
    needs="an event with a flight",
    finds="compares guest RAM where it led, and what QEMU refused of it, with the tables and the device at its end",
)


class _Wrong(NamedTuple):
    """:ivar what: what is wrong, in words."""

    liobn: int
    ioba: int
    what: str
    expected: str
    seen: str


def flight(ledger: Ledger, fold: EventFold, step: Step, outcome: Outcome) -> None:
    """What passes is in guest RAM, and what is refused, or never done, changed nothing there.

    Call it after the operation is folded in. Source: QEMU hw/misc/edu.c, edu_dma_timer; see `flightmodel`.
    """
    model = fold.flown
    if model is None:
        return
    try:
        told = msgspec.convert(outcome.fields.get("flight"), Flown)
    except msgspec.ValidationError:
        ledger.undecided_because(f"operation {step.number} did not tell what came of the device in flight over it")
        return
    ledger.judged("flight")
    if told.refused:
        ledger.control(model.flight.device)
    for wrong in _wrong(model, told):
        _report(ledger, step, model, wrong)


def _report(ledger: Ledger, step: Step, model: FlightModel, wrong: _Wrong) -> None:
    way = "write" if model.flight.to_memory else "read"
    ledger.report(
        "flight",
        (step.number, wrong.ioba, wrong.what),
        f"LIOBN {wrong.liobn:#x} IOBA {wrong.ioba:#x}: the {way} of {model.flight.device} in flight over operation "
        f"{step.number} ({op_name(step.op)}) {wrong.what}; expected {wrong.expected}, seen {wrong.seen}",
        liobn=wrong.liobn,
        ioba=wrong.ioba,
        expected=wrong.expected,
        seen=wrong.seen,
        operation=step.number,
    )


def _wrong(model: FlightModel, told: Flown) -> Iterator[_Wrong]:
    first = model.flight.iova & ~(window.PAGE_SIZE - 1)
    if told.started != model.reached:
        texts = [
            "a device that takes it" if each else "a device out of reach" for each in (model.reached, told.started)
        ]
        yield _Wrong(model.liobn, first, "did not start as it must", *texts)
        return
    if model.never and told.refused:
        text = f"{sum(size for _, size in told.refused)} bytes refused at {told.refused[0][0]:#x}"
        yield _Wrong(model.liobn, first, f"is never done ({model.never}), and was translated", "no access", text)
    for target in model.targets:
        yield from _refusals(target, told)
    pages = {page.ioba: page for page in told.pages}
    for ioba, page in pages.items():
        yield from _contents(model, ioba, page)
    for target in model.targets:
        yield from _place(target, pages)


def _refusals(target: Target, told: Flown) -> Iterator[_Wrong]:
    """QEMU refused exactly what must be refused. It tells words, so a few bytes more or less."""
    piece = target.piece
    near = {each >> window.PAGE_SHIFT for each in (piece.iova, piece.told, piece.offset)}
    refused = sum(size for address, size in told.refused if address >> window.PAGE_SHIFT in near)
    ioba = piece.iova & ~(window.PAGE_SIZE - 1)
    place = f"{piece.size} bytes at {piece.iova:#x}"
    if piece.refused and refused < piece.size - SLACK:
        text = f"{refused} bytes refused" if refused else "no refusal"
        yield _Wrong(target.liobn, ioba, f"must be refused ({piece.refused}): {place}", "refused", text)
    elif not piece.refused and refused:
        yield _Wrong(target.liobn, ioba, f"must pass: {place}", "no refusal", f"{refused} bytes refused")


def _place(target: Target, pages: dict[int, FlownPage]) -> Iterator[_Wrong]:
    """Where a piece that passes led when it was started is where its entry leads."""
    ioba = target.piece.iova & ~(window.PAGE_SIZE - 1)
    if target.piece.refused or target.frame is None:
        return
    seen = pages.get(ioba)
    if seen is None or seen.address != target.frame:
        text = "no entry" if seen is None else f"{seen.address:#x}"
        yield _Wrong(target.liobn, ioba, "had another page to go to at its start", f"{target.frame:#x}", text)


def _contents(model: FlightModel, ioba: int, page: FlownPage) -> Iterator[_Wrong]:
    """One page holds what it held, and the bytes that passed."""
    here = [each for each in model.targets if each.piece.iova & ~(window.PAGE_SIZE - 1) == ioba]
    through = [each.piece for each in here if model.flight.to_memory and not each.piece.refused]
    if not page.before or (through and model.data is None):
        return
    before = pagetags.expand(bytes.fromhex(page.before))
    expected, seen = bytearray(before), bytearray(before)
    for piece in through:
        at = piece.iova % window.PAGE_SIZE
        assert model.data is not None
        expected[at : at + piece.size] = model.data[piece.start : piece.start + piece.size]
    for at, content in page.changed:
        data = bytes.fromhex(content)
        seen[at : at + len(data)] = data
    if expected != seen:
        liobn = here[0].liobn if here else model.liobn
        texts = pagetags.contrast(pagetags.compact(bytes(expected)), pagetags.compact(bytes(seen)))
        must = _must(model, here)
        yield _Wrong(liobn, ioba, f"{must}: guest RAM at {page.address:#x} is wrong", *texts)


def _must(model: FlightModel, here: list[Target]) -> str:
    reasons = sorted({each.piece.refused for each in here} - {""})
    if model.never:
        return f"is never done ({model.never})"
    if not model.flight.to_memory:
        return "changes no memory"
    return f"must be refused ({', '.join(reasons)})" if reasons else "must pass"
