"""The law of isolation: a violation isolates the PE of the device that caused it, and no other; the PE stays isolated
until firmware's recovery, step by step, brings it back.

Sources: tcelab.papr.isolationrules; Documentation/arch/powerpc/eeh-pci-error-recovery.rst (what an isolated PE still
does).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from operator import itemgetter
from typing import Final

from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger, op_name
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.pes import NO_SERVICE, Effect
from tcelab.judge.models.tablemodel import ANYTHING, UNKNOWN
from tcelab.run.record import Event, Outcome, Step

LAW: Final = Law(
    "isolation",
    says="exactly the PE whose device violates its table is isolated, and only its recovery brings it back",
    needs="a guard, or a program for a platform that isolates",
    finds="compares the state that each operation shows of a PE, and each event, with the PE's model",
)


_FIELDS = ("device", "liobn", "iova", "start", "size", "direction", "reason", "entry", "neighbours")
"""Fields of an event that must be right; a `reapplied` event has only the first two."""
_NUMBERS = {"liobn", "iova", "start", "entry"}
Pair = tuple[Event, Event | None]


def isolation(ledger: Ledger, fold: Fold, step: Step, got: Outcome) -> None:
    """The state that an operation showed of the PEs, and the events reported, are what the PEs' conditions demand.

    Call it after the operation is folded in.
    """
    pes = fold.pes
    if pes.isolates or pes.observes:
        ledger.judged("isolation", len(pes.effects) + len(pes.events))
    for effect in pes.effects:
        if effect.expected != effect.seen:
            _shown(ledger, effect, step)
    told = [event for event in got.events if event.kind != "unblamed"]
    for event in got.events:
        if event.kind == "unblamed":
            access = f"a device {event.direction} at {event.iova:#x}"
            ledger.undecided_because(f"nobody can be blamed for {access} that was refused: {event.reason}")
    if pes.certain and (pes.events or told):
        pairs, extra = _pairs(pes.events, told)
        for expected, seen in pairs:
            _told(ledger, step, expected, seen)
        unreached = {effect.device for effect in pes.effects if effect.what == "reach" and not effect.expected}
        for event in extra:
            if event.kind != "blocked" or event.device not in unreached:  # else reported above: it was reached
                _unexplained(ledger, step, event)


def _pairs(expected: Sequence[Event], told: Sequence[Event]) -> tuple[list[Pair], list[Event]]:
    """Each expected event with the reported one, matched by device, then by PE; and the reported ones left over."""
    found: list[Event | None] = [None] * len(expected)
    left = list(enumerate(told))
    for sort in (_by_device, _by_pe):
        waiting: defaultdict[object, deque[tuple[int, Event]]] = defaultdict(deque)
        for number, event in left:
            waiting[sort(event)].append((number, event))
        for i, event in enumerate(expected):
            if found[i] is None and waiting[sort(event)]:
                found[i] = waiting[sort(event)].popleft()[1]
        left = sorted((each for those in waiting.values() for each in those), key=itemgetter(0))
    return list(zip(expected, found, strict=True)), [event for _, event in left]


def _by_pe(event: Event) -> object:
    return event.pe, event.kind == "reapplied"


def _by_device(event: Event) -> object:
    return _by_pe(event), event.device


def _told(ledger: Ledger, step: Step, expected: Event, seen: Event | None) -> None:
    if seen is None or seen.kind != expected.kind:
        _missing(ledger, step, expected, seen)
        return
    for name in _FIELDS:
        wanted, got = getattr(expected, name), getattr(seen, name)
        if not _equal(wanted, got):
            texts = _value(name, wanted), _value(name, got)
            ledger.report(
                "isolation",
                (step.number, expected.device, name),
                f"operation {step.number}: PE {expected.pe} {_PAST[expected.kind]}, and the event says {name} "
                f"{texts[1]}, expected {texts[0]}",
                liobn=expected.liobn,
                ioba=expected.iova,
                expected=f"{name} {texts[0]}",
                seen=f"{name} {texts[1]}",
                operation=step.number,
            )


_PAST = {
    "isolated": "was isolated",
    "violation": "was violated",
    "blocked": "blocked an access",
    "reapplied": "had its isolation reapplied",
}
_INSTEAD = {
    None: "it was not",
    "violation": "it was only observed",
    "blocked": "the access is reported as blocked",
    "isolated": "the access is reported as the one that isolated it",
}


def _missing(ledger: Ledger, step: Step, expected: Event, seen: Event | None) -> None:
    instead = _INSTEAD[None if seen is None else seen.kind]
    access = _access(expected)
    message = {
        "isolated": f"PE {expected.pe} must be isolated by the DMA of operation {step.number} ({access}): {instead}",
        "violation": f"operation {step.number} violates the table of PE {expected.pe} ({access}): no event reports it",
        "blocked": f"PE {expected.pe} is isolated and must block the DMA of operation {step.number} ({access}): "
        + (instead if seen else "no event reports it"),
        "reapplied": f"operation {step.number} lets {expected.device} master the bus, whose PE {expected.pe} is "
        "isolated, and nothing undid it",
    }[expected.kind]
    ledger.report(
        "isolation",
        (expected.kind, instead, expected.pe, expected.direction, expected.reason),
        message,
        liobn=expected.liobn,
        ioba=expected.iova,
        expected=f"{expected.kind}: {expected.device}",
        seen="no event" if seen is None else f"{seen.kind}: {seen.device}",
        operation=step.number,
    )


def _unexplained(ledger: Ledger, step: Step, event: Event) -> None:
    message = {
        "isolated": f"PE {event.pe} was isolated, and no operation of its devices explains it ({_access(event)})",
        "violation": f"a violation of PE {event.pe} is reported that no operation explains ({_access(event)})",
        "blocked": f"PE {event.pe} is reported to have blocked an access that no operation explains ({_access(event)})",
        "reapplied": f"isolation is reported as reapplied to {event.device} of PE {event.pe}, and no operation had "
        "let it master the bus",
    }[event.kind]
    ledger.report(
        "isolation",
        ("unexplained", event.kind, event.pe, event.device, event.direction, event.reason),
        f"operation {step.number}: {message}",
        liobn=event.liobn,
        ioba=event.iova,
        expected="no event",
        seen=f"{event.kind}: {event.device}",
        operation=step.number,
    )


def _access(event: Event) -> str:
    return f"{event.device} {event.direction}s {event.iova:#x}, {event.reason}"


def _shown(ledger: Ledger, effect: Effect, step: Step) -> None:
    """An operation showed another condition than the PE has. A condition that stays wrong is reported once."""
    name, pe = effect.device, f"PE {effect.pe} is {effect.title}"
    operation = f"operation {step.number}"
    texts = tuple(_answer(value) for value in (effect.expected, effect.seen))
    if effect.what == "reach":
        texts = tuple("reached" if reached else "not reached" for reached in (effect.expected, effect.seen))
        what = "reached the registers" if effect.seen else "could not reach the registers"
        message = f"{operation} {what} of {name}, and {pe}"
    elif effect.what == "answer":
        message = f"{operation} ({op_name(step.op)}) gave {texts[1]}, expected {texts[0]}: {pe}"
    else:
        message = f"{operation} saw {texts[1]} as the {effect.what} of {name}, expected {texts[0]}: {pe}"
    # Firmware that lacks one of these services lacks them all: one finding is enough.
    same = "none" if effect.seen == NO_SERVICE else (effect.freezes, name, texts)
    ledger.report(
        "isolation",
        (effect.what, effect.pe, same),
        message,
        expected=texts[0],
        seen=texts[1],
        operation=step.number,
    )


def _answer(value: object) -> str:
    if isinstance(value, tuple):
        status, fields = value
        outputs = ", ".join(f"{name} {output}" for name, output in fields.items())
        return f"{status} ({outputs})" if outputs else str(status)
    return f"{value:#x}" if isinstance(value, int) else str(value)


def _equal(wanted: object, got: object) -> bool:
    """`UNKNOWN` equals any entry that is not empty, `ANYTHING` equals any entry."""
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(map(_equal, wanted, got))
    return wanted in (got, ANYTHING) or (wanted == UNKNOWN and bool(got))


def _value(name: str, value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"{each:#x}" for each in value) + "]"
    if value is None:
        return "none"
    return f"{value:#x}" if isinstance(value, int) and name in _NUMBERS else str(value)
