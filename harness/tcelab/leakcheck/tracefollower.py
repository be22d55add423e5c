"""Follows the traces of hypercalls and of the DMA API as they arrive: the contents of the tables, and the laws that
were broken on the way, even by short-lived entries.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from tcelab.leakcheck import trace
from tcelab.leakcheck.counts import Counts
from tcelab.leakcheck.directions import Directions, Raws
from tcelab.leakcheck.dmaapi import Asked, Event, Lost, Mark, Raw, Reader, Turned
from tcelab.leakcheck.judge import LeakJudge
from tcelab.leakcheck.leakresult import PHASES, LeakFinding, Phase
from tcelab.leakcheck.tracereplay import Replay, Replayed, Shared, Table
from tcelab.papr import hcallnumbers
from tcelab.program.topology import Device

LIMIT: Final = hcallnumbers.LIST_MOST
"""Entries of one hypercall: PAPR, H_PUT_TCE_INDIRECT (a list of one page of 4 KiB) and H_STUFF_TCE."""

_TOLD: Final = 20
"""Findings of one kind that are listed; more are counted."""

_QUEUE: Final = 4096
"""Events that wait for the next look: those before it belong to the phase that ends with it."""


class Follower:
    """From `begin` on.

    :ivar phase: the phase that new events belong to.
    :ivar heard_all: up to which mark the DMA API was heard.
    """

    def __init__(
        self,
        judge: LeakJudge,
        devices: Mapping[int, Device],
        page_size: int,
        more: Callable[[], bytes],
        *,
        any_size: bool = False,
    ) -> None:
        """:param more: what has come from the DMA API since it was last called.
        :param any_size: a call may have any number of entries.
        """
        self._any_size = any_size
        self.phase: Phase = "bind"
        self.counts = {phase: Counts() for phase in PHASES}
        self.raws = Raws()
        self.heard_all = ""
        self._judge, self._devices, self._more = judge, devices, more
        self.directions = Directions(devices)
        self._reader = Reader(page_size)
        self._replay: Replay | None = None
        self._heard: deque[trace.Hypercall | trace.NewTable] = deque()
        self._broken: list[trace.Hypercall] = []
        # All of them, each once: which are a program's own is known only at the end.
        self._shared: dict[tuple[int, int], Shared] = {}
        self._large: dict[tuple[int, str, int, int], trace.Hypercall] = {}
        self._refused: dict[tuple[int, str, int, int], trace.Hypercall] = {}
        self._turned: Counter[Turned] = Counter()
        self._lost: dict[str, None] = {}
        # Called by the reader of QEMU's log and by the reader of the tables.
        self._lock = threading.Lock()

    def begin(self, tables: Mapping[int, Table]) -> None:
        """Begin with these tables."""
        self._replay = Replay(tables)

    def hear(self, line: str) -> None:
        """Called by whoever reads QEMU's log; never while the guest stands still and the log is drained."""
        event = trace.parse(line)
        if event is not None:
            self._heard.append(event)
            if len(self._heard) > _QUEUE:
                self.consume()

    def consume(self) -> None:
        """Follow the events so far, once the initial tables are known."""
        with self._lock:
            self._follow()
            for said in self._reader.feed(self._more()):
                self._said(said)

    def _follow(self) -> None:
        while self._heard and self._replay is not None:
            event = self._heard.popleft()
            shared = self._replay.feed(event)
            if isinstance(event, trace.Hypercall):
                self._call(event, shared)

    def _said(self, said: Event) -> None:
        match said:
            case Asked():
                self.directions.ask(said)
            case Raw():
                self.raws.add(said)
            case Turned():
                self._turned[said] += 1
            case Mark():
                self.heard_all = said.text
            case Lost():
                self._lost[said.what] = None

    def _call(self, call: trace.Hypercall, shared: list[Shared]) -> None:
        self.counts[self.phase].add(call)
        self.directions.store(call)
        if len(self._broken) < _TOLD and any(self._judge.call(call)):
            self._broken.append(call)
        key = call.liobn, call.name, call.ioba, call.entries
        if call.entries > LIMIT and not self._any_size:
            self._large.setdefault(key, call)
        if call.liobn in self._devices:
            if call.status:
                self._refused.setdefault(key, call)
            for each in shared:
                self._shared.setdefault((call.liobn, each.first), each)

    def freeze(self) -> Replayed:
        """The tables as the trace makes them now."""
        assert self._replay is not None
        return self._replay.freeze()

    # -- once all is heard

    def findings(self, *, asked: bool) -> Iterator[LeakFinding]:
        """Laws that calls broke. What a program made by /dev/tce_hcall is its own affair.

        :param asked: all requests of drivers have arrived.
        """
        for call in self._broken:
            yield from self._judge.call(call)
        yield from _some(map(self._judge.direction, self.directions.wrong(self.raws)))
        if not self.raws.unknown:
            yield from _some(map(self._judge.shared, self._own_shared(asked=asked)))
            yield from _some(map(self._judge.large, self._own(self._large)))
            yield from _some(map(self._judge.refused, self._own(self._refused)))
            if not self.raws.calls(hcallnumbers.H_PUT_TCE_INDIRECT):
                yield from itertools.starmap(self._judge.turned, self._turned.items())

    def undecided_because(self, *, asked: bool) -> Iterator[str]:
        """Why a broken law cannot be excluded. `asked`: see `findings`."""
        for what in self._lost:
            yield f"lost: {what}"
        if asked:
            yield from self.directions.undecided_because(self.raws)
        if self.raws.unknown:
            doubtful = (
                ("stored where entries still stood", list(self._own_shared(asked=asked))),
                (f"of more than {LIMIT} entries", list(self._own(self._large))),
                ("that were refused", [*self._own(self._refused), *self._turned]),
            )
            for what, calls in doubtful:
                if calls:
                    yield f"{len(calls)} hypercalls {what} may be the kernel's or a program's: {self.raws.unknown}"

    def _own(self, calls: Mapping[Any, trace.Hypercall]) -> Iterator[trace.Hypercall]:
        """Those of the kernel."""
        return (call for call in calls.values() if not self.raws.made(call))

    def _own_shared(self, *, asked: bool) -> Iterator[Shared]:
        for each in self._shared.values():
            programs = self.raws.made(each.call) or (each.earlier is not None and self.raws.made(each.earlier))
            # An entry without a request is reported as such: VFIO may replace one entry by another.
            if not programs and not (asked and self.directions.unasked((each.call.liobn, each.first))):
                yield each


def _some(findings: Iterable[LeakFinding]) -> Iterator[LeakFinding]:
    """The first ones; the last of them says how many more there are."""
    found = list(findings)
    more = len(found) - _TOLD
    for number, finding in enumerate(found[:_TOLD], 1):
        last = number == _TOLD and more > 0
        message = f"{finding.message}; and {more} more like it" if last else finding.message
        yield msgspec.structs.replace(finding, message=message)
