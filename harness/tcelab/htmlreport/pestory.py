"""Draws what befell a PE: from a violation over its isolation and blocked accesses to its recovery, beside what the
other PEs of its guest did meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tcelab.papr import isolationrules
from tcelab.papr.isolationrules import Condition
from tcelab.report import Moment
from tcelab.report.isolationlog import access

LANES: Final = 96
"""Pixels: where the first lane is."""
STEP: Final = 112
"""From one lane to the next, and `ROW`: from one event to the next."""
ROW: Final = 26
MOST: Final = 30
"""Events of a story that are drawn."""
_NEAR: Final = 20
"""Operations after the last event of a story that still belong to it."""
_MS: Final = 1e3
_LETTER: Final = 7.3
"""Pixels of a letter."""
_KINDS: Final = {
    Condition.NORMAL: "normal",
    Condition.STOPPED: "stopped",
    Condition.MMIO_THAWED: "thawed",
    Condition.RESET: "reset",
    Condition.UNCONFIGURED: "unconfigured",
    Condition.UNAVAILABLE: "unavailable",
}
_WORDS: Final = {"isolated": "violation, isolated", "violation": "violation, observed", "unblamed": "nobody's access"}


class Event(NamedTuple):
    """A row of the story. `kind`: as of a moment, or `recovered` for a call that made the PE normal again."""

    y: float
    x: float
    kind: str
    time: str
    text: str


class Stretch(NamedTuple):
    """A PE in one condition. `kind` is for the eye, `name` what firmware calls it."""

    x: float
    y: float
    height: float
    kind: str
    name: str


class Lane(NamedTuple):
    x: float
    name: str


class Story(NamedTuple):
    """:ivar more: events of it that are not drawn."""

    title: str
    lanes: list[Lane]
    stretches: list[Stretch]
    events: list[Event]
    text_x: float
    width: float
    height: float
    says: str
    more: int


def first_stories(moments: Sequence[Moment], most: int) -> list[Story]:
    """The first story of each PE."""
    firsts: dict[int, int] = {}
    for i, each in enumerate(moments):
        if _begins(each):
            firsts.setdefault(each.pe, i)
    return [_story(moments, begin) for begin in list(firsts.values())[:most]]


def count(moments: Sequence[Moment]) -> int:
    """How many stories there are."""
    return sum(map(_begins, moments))


def around(moments: Sequence[Moment], step: int) -> Story | None:
    """The story in which a step lies; None: it lies in none."""
    begins = [i for i, each in enumerate(moments) if _begins(each) and each.step <= step]
    if not begins:
        return None
    begin = begins[-1]
    own = _own(moments, begin)
    return _story(moments, begin) if step <= moments[own[-1]].step + _NEAR else None


def _begins(moment: Moment) -> bool:
    return moment.what in {"isolated", "violation"}


def _own(moments: Sequence[Moment], begin: int) -> list[int]:
    """The moments from one violation to the next one of that PE, on the same guest."""
    first, out = moments[begin], [begin]
    for i in range(begin + 1, len(moments)):
        each = moments[i]
        if each.guest != first.guest or (_begins(each) and each.pe == first.pe):
            break
        out.append(i)
    return out


def _story(moments: Sequence[Moment], begin: int) -> Story:
    own = [moments[i] for i in _own(moments, begin)]
    first = own[0]
    conditions = _conditions(moments[:begin], first.guest)
    pes = sorted({each.pe for each in own})
    places = {pe: LANES + STEP * i for i, pe in enumerate(pes)}
    stretches: list[Stretch] = []
    events: list[Event] = []
    since = dict.fromkeys(pes, (0.0, Condition.NORMAL)) | {pe: (0.0, conditions[pe]) for pe in pes if pe in conditions}
    zero = first.event.at if first.event is not None else 0.0
    drawn = 0
    for moment in own:
        was = since[moment.pe][1]
        now = _after(was, moment)
        event = _event(moment, zero, places[moment.pe], _recovers(was, now))
        if events and (event.kind, event.text, event.x) == (events[-1].kind, events[-1].text, events[-1].x):
            drawn += 1
            continue
        if len(events) == MOST:
            break
        drawn += 1
        y = ROW * (len(events) + 1)
        events.append(event._replace(y=y))
        if now is not was:
            stretches.append(_stretch(places[moment.pe], *since[moment.pe], y))
            since[moment.pe] = y, now
    height = ROW * (len(events) + 1)
    stretches += [_stretch(places[pe], *since[pe], height) for pe in pes]
    text_x = LANES + STEP * len(pes)
    longest = max(len(each.text) for each in events)
    return Story(
        f"guest {first.guest}, from operation {first.step}: PE {first.pe}",
        [Lane(places[pe], f"PE {pe}" if pe >= 0 else "nobody") for pe in pes],
        [each for each in stretches if each.height > 0],
        events,
        text_x,
        text_x + _LETTER * longest,
        height,
        " ".join(f"{each.time or '-'} {each.text}." for each in events),
        len(own) - drawn,
    )


def _stretch(x: float, begin: float, condition: Condition, end: float) -> Stretch:
    return Stretch(x, begin, end - begin, _KINDS[condition], condition.title)


def _conditions(moments: Sequence[Moment], guest: int) -> dict[int, Condition]:
    """What the PEs of a guest had come to."""
    out: dict[int, Condition] = {}
    for each in moments:
        if each.guest == guest:
            out[each.pe] = _after(out.get(each.pe, Condition.NORMAL), each)
    return out


def _after(condition: Condition, moment: Moment) -> Condition:
    """By the platform's rules, where it did as they say; where firmware told a state, that one."""
    if moment.what == "isolated":
        return Condition.STOPPED
    if moment.what != "call" or moment.status != 0:
        return condition
    if moment.state is not None:
        return condition if condition.state == moment.state else _of_state(moment.state, condition)
    if (moment.call, moment.option) == (isolationrules.ERROR_DETAIL, isolationrules.PERMANENT):
        return condition if condition is Condition.NORMAL else Condition.UNAVAILABLE
    return isolationrules.TRANSITIONS.get((moment.call, moment.option), {}).get(condition, condition)


def _of_state(state: int, otherwise: Condition) -> Condition:
    return next((each for each in Condition if each.state == state), otherwise)


def _recovers(was: Condition, now: Condition) -> bool:
    return was is not Condition.NORMAL and now is Condition.NORMAL


def _event(moment: Moment, zero: float, x: float, recovers: bool) -> Event:  # noqa: FBT001 - private, one call
    event = moment.event
    if event is None:
        option = f" {moment.option}" if moment.option else ""
        state = "" if moment.state is None else f", state {moment.state}"
        text = f"{moment.call}{option}: status {moment.status}{state}{'; recovered' if recovers else ''}"
        return Event(0, x, "recovered" if recovers else "call", "", text)
    time = f"{(event.at - zero) * _MS:+,.1f} ms"
    if event.kind == "reapplied":
        return Event(0, x, event.kind, time, f"{event.device} was let master the bus: undone")
    after = f"; after {event.took * _MS:.1f} ms" if event.kind == "isolated" else ""
    return Event(0, x, event.kind, time, f"{_WORDS.get(event.kind, event.kind)}: {access(event)}{after}")


def legend() -> Iterator[tuple[str, str]]:
    """Kind and meaning of each event."""
    yield "isolated", "violation that isolated the PE"
    yield "violation", "violation, only observed"
    yield "blocked", "access of an isolated PE, blocked"
    yield "reapplied", "bus mastering, undone"
    yield "call", "call of firmware"
    yield "recovered", "call that ended the isolation"
