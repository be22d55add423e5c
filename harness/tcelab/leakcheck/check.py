"""One leak check, from the baseline to the tables after the unbind."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from tcelab.errors import GuestLost, Unsupported
from tcelab.leakcheck import drivers, trace
from tcelab.leakcheck.counts import Counts
from tcelab.leakcheck.judge import Judge, Stayed, Tables, occupancy
from tcelab.leakcheck.replay import Replay, Replayed
from tcelab.leakcheck.result import PHASES, Calls, Finding, Permissions, Phase, Refused, Result, TableAt
from tcelab.papr import tce, window
from tcelab.run import Snapshot, TableView
from tcelab.topology import Device

_TURN: Final = 0.3
"""Seconds from one look at the tables to the next while they settle."""

_TOLD: Final = 20
"""Stores that break a law and are told."""

_QUEUE: Final = 4096
"""Events that wait for the next look: those before it belong to the phase that ends with it."""

_OWN_LIMIT: Final = 60.0
"""Seconds for what is typed besides the command."""


class Ended(Protocol):
    """How a command ended; `output`: what was seen on the console meanwhile."""

    @property
    def status(self) -> int: ...
    @property
    def output(self) -> str: ...


class Guest(Protocol):
    """A guest whose drivers are not bound yet.

    :ivar ram: bytes that its kernel was given, from 0 on.
    :ivar devices: that have drivers of the kernel's own, by LIOBN.
    """

    @property
    def ram(self) -> int: ...
    @property
    def devices(self) -> Mapping[int, Device]: ...

    def sees_refusals(self) -> bool:
        """Have a device do what its table forbids: is that told?"""
        ...

    def look(self, cut: Callable[[], None]) -> Snapshot:
        """Stop, hear all of the trace up to then, call `cut`, read the tables by each view, and go on."""
        ...

    def listen(self, hear: Callable[[str], None]) -> None:
        """From now on, have each line of the trace heard by `hear`."""
        ...

    def run(self, command: str, limit: float) -> Ended | None:
        """Type a command at its shell; None: it does not end within `limit` seconds."""
        ...


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done.

    :ivar command: a line for the guest's shell.
    :ivar limit: seconds for it.
    :ivar settle: seconds in which what was begun may come to its end.
    :ivar any_status: a command that fails says something as well.
    """

    command: str
    limit: float = 300.0
    settle: float = 5.0
    any_status: bool = False


class _Moment(NamedTuple):
    """The tables at one stop, by live memory and by the trace. `at`: seconds since 1970."""

    at: float
    tables: Tables
    replayed: Replayed


class Check:
    """`perform` once; what it leaves can be asked for at any time.

    :ivar findings: broken laws so far.
    :ivar could_not: why there can be no pass.
    """

    def __init__(self, guest: Guest, plan: Plan, note: Callable[[str], None] = lambda _: None) -> None:
        self.findings: list[Finding] = []
        self.could_not: list[str] = []
        self.status: int | None = None
        self.output: list[str] = []
        self._guest, self._plan, self._note = guest, plan, note
        self._names = {liobn: device.name for liobn, device in guest.devices.items()}
        self._judge = Judge(self._names, guest.ram)
        self._phase: Phase = "bind"
        self._counts = {phase: Counts() for phase in PHASES}
        self._replay: Replay | None = None
        self._heard: deque[trace.Hypercall | trace.NewTable] = deque()
        self._wrong: list[trace.Hypercall] = []
        self._views = {"stream": 0, "replay": 0}
        self._tables: list[TableAt] = []

    def perform(self) -> None:
        """All of it.

        :raise Unsupported: a driver cannot be bound.
        :raise TcelabError: the guest or QEMU is lost.
        """
        if not self._guest.sees_refusals():
            self.could_not.append("QEMU did not tell of a DMA that a table forbids: others would not be seen either")
        self._look(begin=True)
        self._note("binding the drivers")
        for device in self._guest.devices.values():
            self._type(drivers.bind(device))
        baseline = self._settled()
        self._judge.baseline_at = baseline.at
        self._phase = "command"
        self._note(f"running {self._plan.command}")
        if not self._command():
            return
        after, stayed = self._after(baseline)
        if not self._counts["command"].total:
            self.could_not.append("no hypercall on any table while the command ran: there was nothing to leak")
        self._phase = "unbind"
        self._note("unbinding the drivers")
        unbound = self._unbind()
        self._tables = occupancy(self._names, baseline.tables, after.tables, unbound.tables)
        self.findings += self._judge.leaks(stayed, after.replayed, unbound.tables)
        self.findings += self._judge.unbound(unbound.tables, self.findings, unbound.replayed)
        seen: set[tuple[str, int | None, int | None, int | None]] = set()
        entries = [
            *self._judge.entries(baseline.tables, baseline.replayed),
            *self._judge.entries(after.tables, after.replayed),
            *(finding for call in self._wrong for finding in self._judge.call(call)),
        ]
        for finding in entries:
            key = (finding.law, finding.liobn, finding.ioba, finding.tce)
            if key not in seen:
                seen.add(key)
                self.findings.append(finding)

    def died(self, error: GuestLost) -> None:
        """The kernel under test died: a finding, whatever was going on."""
        self.findings.append(Finding(law="kernel", message=error.message))

    # -- what the trace says, as it comes

    def _hear(self, line: str) -> None:
        """Called by whoever reads the log; never while the guest stands still and the log is drained."""
        event = trace.parse(line)
        if event is not None:
            self._heard.append(event)
            if len(self._heard) > _QUEUE:
                self._consume()

    def _consume(self) -> None:
        """Follow what was heard, as soon as it is known from where on."""
        if self._replay is None:
            return
        while self._heard:
            event = self._heard.popleft()
            self._replay.feed(event)
            if isinstance(event, trace.Hypercall):
                self._counts[self._phase].add(event)
                if len(self._wrong) < _TOLD and any(self._judge.call(event)):
                    self._wrong.append(event)

    # -- the parts

    def _type(self, command: str) -> None:
        ended = self._guest.run(command, _OWN_LIMIT)
        if ended is None or ended.status:
            said = ended.output.strip().splitlines() if ended is not None else []
            raise Unsupported(
                f"the guest cannot bind a driver: {said[-1] if said else 'it does not answer'}",
                next_step="the image carries the drivers of its own kernel; build yours with them built in",
            )

    def _command(self) -> bool:
        """:return: it ended, so that its tables can be judged."""
        ended = self._guest.run(self._plan.command, self._plan.limit)
        if ended is None:
            self.could_not.append(f"the command did not end within {self._plan.limit:g} s")
            self._look()  # what the kernel or QEMU had to say about it
            return False
        self.status = ended.status
        self.output = ended.output.splitlines()
        if ended.status and not self._plan.any_status:
            self.could_not.append(f"the command failed with status {ended.status}: nothing is proven")
        return True

    def _settled(self) -> _Moment:
        """The tables once they are the same at two moments, or after the time for that."""
        deadline = time.monotonic() + self._plan.settle
        before = self._look()
        while True:
            time.sleep(_TURN)
            now = self._look()
            if now.tables == before.tables or time.monotonic() > deadline:
                return now
            before = now

    def _after(self, baseline: _Moment) -> tuple[_Moment, Stayed]:
        """The tables when nothing stays any more, or after the time for that."""
        self._guest.run(drivers.SETTLE, _OWN_LIMIT)
        deadline = time.monotonic() + self._plan.settle
        while True:
            now = self._look()
            stayed = Stayed(baseline.tables, now.tables)
            if not stayed.excess or time.monotonic() > deadline:
                return now, stayed
            time.sleep(_TURN)

    def _unbind(self) -> _Moment:
        for device in self._guest.devices.values():
            ended = self._guest.run(drivers.unbind(device), _OWN_LIMIT)
            if ended is None or ended.status:
                self.could_not.append(f"the driver of {device.name} does not let go of it")
        deadline = time.monotonic() + self._plan.settle
        while True:
            now = self._look()
            full = any(now.tables.get(liobn) for liobn in self._guest.devices)
            if not full or time.monotonic() > deadline:
                return now
            time.sleep(_TURN)

    # -- looking

    def _look(self, *, begin: bool = False) -> _Moment:
        """:param begin: listen to the trace from here on."""
        cuts: list[tuple[float, Replayed]] = []

        def cut() -> None:
            if begin:
                self._guest.listen(self._hear)
            self._consume()
            if self._replay is not None:
                cuts.append((time.time(), self._replay.freeze()))

        snapshot = self._guest.look(cut)
        self.findings += [Finding(law="kernel", message=line) for line in snapshot.console]
        self.findings += [Finding(law="refusals", message=refusal.line) for refusal in snapshot.refusals]
        self.could_not += [f"no {view} view: {why}" for view, why in snapshot.missing.items()]
        tables, odd = _tables(snapshot.tables, "live")
        streamed, _ = _tables(snapshot.tables, "stream")
        if begin:
            self._replay = Replay(tables)
            cuts.append((0.0, Replay(tables).freeze()))
        ((at, replayed),) = cuts
        for liobn in sorted(tables.keys() | streamed.keys()):
            live = tables.get(liobn, {})
            self._compare(f"LIOBN {liobn:#x}: the state stream shows another table", live == streamed.get(liobn, {}))
            self._views["stream"] += len(live)
            if liobn in odd:
                self._compare(f"LIOBN {liobn:#x} has pages of {1 << odd[liobn]} bytes: not replayed", ok=False)
                continue
            for line in replayed.differences(liobn, live)[:1]:
                self._compare(line, ok=False)
            self._views["replay"] += len(live)
        return _Moment(at, tables, replayed)

    def _compare(self, what: str, ok: bool) -> None:  # noqa: FBT001 - private
        if not ok and what not in self.could_not:
            self.could_not.append(what)

    # -- what it leaves

    def fill(self, result: Result) -> None:
        """Put what is known into a result: everything but the versions and times."""
        result.status, result.output = self.status, self.output[-_TOLD:]
        result.findings, result.could_not = self.findings, self.could_not
        result.tables, result.views = self._tables, self._views
        for phase, counts in self._counts.items():
            result.calls += [
                Calls(phase=phase, liobn=row.liobn, hypercall=row.name, entries=row.size, calls=row.calls)
                for row in counts.rows()
            ]
            result.permissions += [
                Permissions(phase=phase, liobn=liobn, permissions=tce.PERMISSION_NAMES[bits], tces=times)
                for (liobn, bits), times in sorted(counts.permissions.items())
            ]
            result.refused += [
                Refused(phase=phase, liobn=liobn, status=status, calls=times)
                for (liobn, status), times in sorted(counts.refused.items())
            ]


def _tables(views: Sequence[TableView], name: str) -> tuple[dict[int, dict[int, int]], dict[int, int]]:
    """The tables of one view; and by LIOBN, page shifts that are not the default window's."""
    tables = {}
    odd = {}
    for view in views:
        if view.view == name:
            words = zip(view.index.tolist(), view.tce.tolist(), strict=True)
            tables[view.liobn] = {view.ioba(number): word for number, word in words}
            if view.entries and view.page_shift != window.PAGE_SHIFT:
                odd[view.liobn] = view.page_shift
    return tables, odd
