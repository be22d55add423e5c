"""Events of the PEs of a run: which violations were tried, with which result, and the timeline of each PE."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from tcelab.judge import Verdict
from tcelab.papr import window
from tcelab.program import Checkpoint, Fresh, Rtas
from tcelab.program.parts import parts
from tcelab.run.record import Event, Outcome, RunRecord, Step
from tcelab.scenarios.stories import KNOWN, parse

STATES: Final = {
    0: "normal, or not configured after a reset",
    1: "reset asserted",
    2: "stopped",
    4: "MMIO thawed",
    5: "unavailable",
}
"""Names of the states that ibm,read-slot-reset-state2 returns."""
_MS: Final = 1e3


class Isolations(msgspec.Struct, kw_only=True):
    """One kind of story of the scenario `isolation`.

    :ivar kind: name of the kind.
    :ivar tried: how many such stories the program has.
    :ivar done: how many of them were finished.
    :ivar expected: isolations that all of them must cause.
    :ivar isolated: isolations that they did cause.
    :ivar findings: findings in their steps.
    """

    kind: str
    tried: int = 0
    done: int = 0
    expected: int = 0
    isolated: int = 0
    findings: int = 0

    @property
    def right(self) -> bool:
        """All stories were finished, with the isolations expected and no finding."""
        return self.done == self.tried and self.isolated == self.expected and not self.findings


class Moment(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An event of a PE, or a call of a firmware service for it. Fields with their default are left out.

    :ivar guest: number of the guest within the run; each has a clock of its own.
    :ivar step: number of the operation during which it happened.
    :ivar pe: index of its PHB; -1 when nobody is to blame.
    :ivar what: kind of the event, or `call` for a call of a firmware service.
    :ivar event: the event.
    :ivar call: name of the service.
    :ivar option: option that it was called with.
    :ivar status: status that it returned.
    :ivar state: state of the PE that it returned, None if it returns none.
    """

    guest: int
    step: int
    pe: int
    what: Literal["isolated", "violation", "blocked", "reapplied", "unblamed", "call"]
    event: Event | None = None
    call: str = ""
    option: int = 0
    status: int | None = None
    state: int | None = None


def isolations(run: RunRecord, verdict: Verdict) -> list[Isolations]:
    """The rows by kind of story; empty if the program has none."""
    steps = {step.number: step for step in run.steps}
    out: dict[str, Isolations] = {}
    began = 0
    for number, op in enumerate(run.program.ops):
        if isinstance(op, Fresh):
            began = number
        story = parse(op.label) if isinstance(op, Checkpoint) else None
        if story is None:
            continue
        row = out.setdefault(story.kind, Isolations(kind=story.kind))
        row.tried += 1
        row.done += number in steps
        row.expected += story.isolations
        events = (event for i in range(began, number + 1) if i in steps for event in events_of(steps[i]))
        row.isolated += sum(event.kind == "isolated" for event in events)
        row.findings += sum(verdict.found(began, number + 1).values())
        began = number + 1
    return sorted(out.values(), key=lambda row: KNOWN.index(row.kind))


def events_of(step: Step) -> Sequence[Event]:
    """Events of PEs during a step."""
    return [] if step.outcome is None else step.outcome.events


def timeline(run: RunRecord) -> list[Moment]:
    """Every event and every firmware service, in program order."""
    firsts = [part.first for part in parts(run.program)]
    phbs = {device.name: phb.index for phb in run.program.topology.phbs for device in phb.devices}
    out: list[Moment] = []
    for step in run.steps:
        if step.outcome is None:
            continue
        guest = bisect_right(firsts, step.number)
        if isinstance(step.op, Rtas):
            out.append(_called(step.number, guest, phbs[step.op.device], step.op, step.outcome))
        out += [
            Moment(guest=guest, step=step.number, pe=event.pe, what=event.kind, event=event)
            for event in step.outcome.events
        ]
    return out


def _called(number: int, guest: int, pe: int, op: Rtas, outcome: Outcome) -> Moment:
    return Moment(
        guest=guest,
        step=number,
        pe=pe,
        what="call",
        call=op.call,
        option=op.option,
        status=outcome.value,
        state=outcome.fields.get("state"),
    )


# -- as text


def table_lines(columns: Mapping[str, Sequence[Isolations]]) -> Iterator[str]:
    """Kinds of stories and, in each column, isolations seen of those expected; nothing without stories."""
    there = {row.kind for rows in columns.values() for row in rows}
    kinds = [kind for kind in KNOWN if kind in there]
    if not kinds:
        return
    by_kind = {name: {row.kind: row for row in rows} for name, rows in columns.items()}
    cells = {name: [cell(rows.get(kind)) for kind in kinds] for name, rows in by_kind.items()}
    # Topology names have several words; below each other they are no wider than the counts.
    heads = {name: name.split("-") for name in columns}
    widths = {name: max(map(len, [*heads[name], *cells[name]])) for name in columns}
    first = max(map(len, [_TITLE, *kinds]))
    for i in range(max(map(len, heads.values()))):
        words = [(heads[name][i : i + 1] or [""])[0].rjust(widths[name]) for name in columns]
        yield "  ".join([(_TITLE if i == 0 else "").ljust(first), *words]).rstrip()
    for i, kind in enumerate(kinds):
        yield "  ".join([kind.ljust(first), *(cells[name][i].rjust(widths[name]) for name in columns)])


_TITLE: Final = "isolated/expected"


def cell(row: Isolations | None) -> str:
    """Isolations seen of those expected, and whether everything was right."""
    if row is None:
        return "-"
    verdict = "ok" if row.right else "BAD" if row.findings or row.done == row.tried else "?"
    return f"{row.isolated}/{row.expected} {verdict}"


def access(event: Event) -> str:
    """Who did what, and why it was refused."""
    reason = f": {event.reason}" if event.reason else ""
    at = f"{event.size} byte{'s' if event.size > 1 else ''} at {event.start:#x}"
    first = f", refused from {event.iova:#x} on" if event.iova != event.start else ""
    return f"{event.device} {event.direction}s {at}{first}{reason}"


def entries(event: Event) -> str:
    """The entry of the refused address, and those beside it."""
    beside = ", ".join(f"{each:#x}" for each in event.neighbours) or "none"
    own = "outside the table" if event.entry is None else f"{event.entry:#x}"
    return f"entry {own}, neighbours {beside}"


def isolation_line(event: Event) -> str:
    """An isolation in one line, for a log."""
    where = f"PE {event.pe} (LIOBN {event.liobn:#x})"
    return f"{where}: {access(event)}; isolated after {event.took * _MS:.1f} ms; {entries(event)}"


def log_lines(moments: Sequence[Moment]) -> Iterator[str]:
    """Every event in a line of its own, by the clock of its guest."""
    for moment in moments:
        event = moment.event
        if event is None:
            continue
        when = f"guest {moment.guest} {event.at:10.6f} s  "
        if event.kind == "isolated":
            yield when + isolation_line(event)
        elif event.kind == "reapplied":
            undone = f"{event.device} was let master the bus, undone after {event.took * _MS:.1f} ms"
            yield f"{when}PE {event.pe} (LIOBN {event.liobn:#x}): {undone}"
        else:
            where = f"PE {event.pe} (LIOBN {event.liobn:#x})" if event.pe >= 0 else "nobody's"
            more = f", {event.count} of them" if event.count > 1 else ""
            yield f"{when}{where}: {event.kind}: {access(event)}{more}; {entries(event)}"


def timeline_lines(moments: Sequence[Moment], shown: int = 1) -> Iterator[str]:
    """For each PE, its first isolations, each from the violation to the next one, and counts of all events.

    :param shown: isolations of each PE.
    """
    for pe in sorted({moment.pe for moment in moments if moment.event is not None}):
        mine = [moment for moment in moments if moment.pe == pe]
        yield _head(pe, mine)
        begins = [i for i, moment in enumerate(mine) if moment.what in {"isolated", "violation"}]
        for begin in begins[:shown]:
            end = next((i for i in begins if i > begin), len(mine))
            yield from _story(mine[begin:end])


def _head(pe: int, moments: Sequence[Moment]) -> str:
    if pe < 0:
        return f"nobody's: {len(moments)} refused accesses of which nobody can be blamed"
    count: Counter[str] = Counter()
    for moment in moments:
        count[moment.what] += moment.event.count if moment.event else 1
    names = {
        "isolated": "isolation{s}",
        "violation": "violation{s} observed",
        "blocked": "blocked attempt{s}",
        "reapplied": "re-applied",
        "call": "call{s} of firmware",
    }
    parts_ = [
        f"{count[what]:,} {name.format(s='s' if count[what] > 1 else '')}"
        for what, name in names.items()
        if count[what]
    ]
    return f"PE {pe} (LIOBN {window.liobn(pe):#x}): {', '.join(parts_)}"


def _story(moments: Sequence[Moment]) -> Iterator[str]:
    """The events after one violation, with times since it; repeated events share a line."""
    zero = moments[0].event.at if moments[0].event else 0.0
    guest, last, times = moments[0].guest, "", 0
    for moment in moments:
        if moment.guest != guest:
            break
        for line in _moment(moment, zero):
            if line[_TIME:] == last[_TIME:]:
                times += 1
                continue
            if last:
                yield _told(last, times)
            last, times = line, 1
    if last:
        yield _told(last, times)


def _told(line: str, times: int) -> str:
    return f"  {line} ({times} times)" if times > 1 else f"  {line}"


_TIME: Final = 12
"""Letters of the time before each line."""


def _moment(moment: Moment, zero: float) -> Iterator[str]:
    event = moment.event
    if event is None:
        option = f" {moment.option}" if moment.option else ""
        state = "" if moment.state is None else f": state {moment.state}, {STATES.get(moment.state, '?')}"
        yield f"{'':{_TIME}}{moment.call}{option} gives {moment.status}{state}"
        return
    since = f"{'+' + format((event.at - zero) * _MS, ',.1f') + ' ms':>{_TIME - 2}}  "
    end = f"{'+' + format((event.at + event.took - zero) * _MS, ',.1f') + ' ms':>{_TIME - 2}}  "
    if event.kind in {"isolated", "violation"}:
        yield f"{since}{access(event)}; {entries(event)}"
        if event.kind == "isolated":
            yield f"{end}isolated"
    elif event.kind == "reapplied":
        yield f"{since}{event.device} was let master the bus; undone after {event.took * _MS:.1f} ms"
    else:
        yield f"{since}{event.kind}: {access(event)}"
