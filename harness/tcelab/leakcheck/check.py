"""One leak check, from the baseline to the tables after the unbind."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from tcelab.errors import GuestLost, TcelabError, Unsupported
from tcelab.leakcheck import drivers
from tcelab.leakcheck.judge import LeakJudge, Stayed, Tables, occupancy
from tcelab.leakcheck.leakresult import AskedMappings, Calls, LeakFinding, LeakResult, Permissions, Refused, TableAt
from tcelab.leakcheck.tracefollower import Follower
from tcelab.leakcheck.tracereplay import Replayed
from tcelab.logs import PHASE
from tcelab.papr import tce, window
from tcelab.program.topology import Device
from tcelab.run.record import Snapshot, TableView

_LOG: Final = logging.getLogger(__name__)

_TURN: Final = 0.3
"""Seconds between two readings of the tables while they settle."""

_TOLD: Final = 20
"""Lines of the command's output that the result holds."""

_GLANCE: Final = 1.0
"""Least seconds between two readings while the command runs, and least multiple of the time that a reading takes."""
_SHARE: Final = 4

_OWN_LIMIT: Final = 60.0
"""Seconds for what is typed besides the command."""


class CommandEnd(Protocol):
    """How a command ended; `output`: what was seen on the console meanwhile."""

    @property
    def status(self) -> int: ...
    @property
    def output(self) -> str: ...


class LeakGuest(Protocol):
    """A guest whose drivers are not bound yet.

    :ivar ram: bytes that its kernel was given, from 0 on.
    :ivar page_size: of its kernel, in bytes.
    :ivar devices: that have drivers of the kernel's own, by LIOBN.
    """

    @property
    def ram(self) -> int: ...
    @property
    def page_size(self) -> int: ...
    @property
    def devices(self) -> Mapping[int, Device]: ...

    def sees_refusals(self) -> bool:
        """Make a device do a forbidden access: is the refusal seen?"""
        ...

    def look(self, cut: Callable[[], None]) -> Snapshot:
        """Stop the guest, read the trace up to that moment, call `cut`, read the tables by each view, and continue."""
        ...

    def listen(self, hear: Callable[[str], None]) -> None:
        """From now on, pass each line of the trace to `hear`."""
        ...

    def asked(self) -> bytes:
        """The new text of its kernel's own trace, see `drivers.listen`."""
        ...

    def last_words(self) -> tuple[str, ...]:
        """QEMU's refusals and the devices that it gave up, since the last reading; also when the guest is lost."""
        ...

    def run(self, command: str, limit: float, meanwhile: Callable[[], None] | None = None) -> CommandEnd | None:
        """Type a command at its shell; None: it does not end within `limit` seconds.

        :param meanwhile: called now and then while it runs.
        """
        ...


class LeakPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done.

    :ivar command: lines for the guest's shell; `title`: what the result calls them, by default the lines themselves.
    :ivar limit: seconds for it.
    :ivar settle: seconds for pending work to finish.
    :ivar any_status: a failing command is judged as well.
    :ivar any_direction: the DMA API's trace is not recorded, and entries are not compared with it.
    :ivar any_size: calls of more than 512 entries are no findings.
    :ivar expect_entries: entries that at least one hypercall of the command must store at once; 0: any number.
    """

    command: str
    title: str = ""
    limit: float = 300.0
    settle: float = 5.0
    any_status: bool = False
    any_direction: bool = False
    any_size: bool = False
    expect_entries: int = 0


class _Moment(NamedTuple):
    """The tables at one stop, by live memory and by the trace. `at`: seconds since 1970."""

    at: float
    tables: Tables
    replayed: Replayed


class LeakCheck:
    """One leak check: call `perform` once; its results are available at any time.

    :ivar findings: broken laws so far.
    :ivar could_not: why there can be no pass.
    """

    def __init__(self, guest: LeakGuest, plan: LeakPlan) -> None:
        self.findings: list[LeakFinding] = []
        self.could_not: list[str] = []
        self.status: int | None = None
        self.output: list[str] = []
        self._guest, self._plan = guest, plan
        self._names = {liobn: device.name for liobn, device in guest.devices.items()}
        self._judge = LeakJudge(self._names, guest.ram)
        self._follower = Follower(self._judge, guest.devices, guest.page_size, guest.asked, any_size=plan.any_size)
        self._views = {"stream": 0, "replay": 0}
        self._tables: list[TableAt] = []
        self._entries: dict[tuple[str, int | None, int | None, int | None], LeakFinding] = {}
        self._heard = self._ended = False
        self._glance_at = 0.0

    def perform(self) -> None:
        """The whole check. However it ends, everything seen until then is judged.

        :raise Unsupported: a driver cannot be bound.
        :raise TcelabError: the guest or QEMU is lost.
        """
        try:
            self._perform()
        finally:
            self._conclude()

    def _perform(self) -> None:
        if not self._guest.sees_refusals():
            self.could_not.append("QEMU did not tell of a DMA that a table forbids: others would not be seen either")
        self._look(begin=True)
        _LOG.info("binding the drivers", extra=PHASE)
        if not self._plan.any_direction:
            self._listen()
        for device in self._guest.devices.values():
            self._type(drivers.bind(device))
        baseline = self._settled()
        self._judge.baseline_at = baseline.at
        self._follower.phase = "command"
        _LOG.info("running %s", self._plan.title or self._plan.command, extra=PHASE)
        if not self._command():
            return
        after, stayed = self._after(baseline)
        self._proven()
        self._follower.phase = "unbind"
        _LOG.info("unbinding the drivers", extra=PHASE)
        unbound = self._unbind()
        if not self._plan.any_direction:
            self._hear_all()
        self._tables = occupancy(self._names, baseline.tables, after.tables, unbound.tables)
        self.findings += self._judge.leaks(stayed, after.replayed, unbound.tables)
        self.findings += self._judge.unbound(unbound.tables, self.findings, unbound.replayed)
        self._ended = True

    def _conclude(self) -> None:
        """Judge the refusals since the last reading, each entry and each hypercall."""
        try:
            self.findings += [LeakFinding(law="refusals", message=line) for line in self._guest.last_words()]
        except TcelabError as error:
            self.could_not.append(error.message)
        self._follower.consume()
        told = list(self._follower.findings(asked=self._heard))
        self._note_entries(finding for finding in told if finding.tce is not None)
        self.findings += [*self._entries.values(), *(finding for finding in told if finding.tce is None)]
        self.could_not += self._follower.undecided_because(asked=self._heard)

    def _note_entries(self, findings: Iterable[LeakFinding]) -> None:
        """Report an entry that is seen at two readings, or at one and in the trace, only once."""
        for finding in findings:
            self._entries.setdefault((finding.law, finding.liobn, finding.ioba, finding.tce), finding)

    def _proven(self) -> None:
        """Was there anything to leak?"""
        counts = self._follower.counts["command"]
        if not counts.total:
            self.could_not.append("no hypercall on any table while the command ran: there was nothing to leak")
        most = max((row.size for row in counts.rows() if row.name == "H_PUT_TCE_INDIRECT"), default=0)
        if most < self._plan.expect_entries:
            self.could_not.append(
                f"no hypercall of the command stored {self._plan.expect_entries} entries at once: {most} at most"
            )

    def died(self, error: GuestLost) -> None:
        """The kernel under test died: a finding, whatever was going on."""
        self.findings.append(LeakFinding(law="kernel", message=error.message))

    # -- the parts

    def _listen(self) -> None:
        """From now on, record the drivers' requests."""
        ended = self._guest.run(drivers.listen(), _OWN_LIMIT)
        said = ended.output.strip().splitlines() if ended is not None else []
        if ended is None or ended.status:
            why = said[-1] if said else "it does not answer"
            self.could_not.append(
                f"this kernel does not tell what its drivers ask for: {why}; with --any-direction that is not judged"
            )
        elif drivers.RAW_UNTOLD in said:
            self._follower.raws.unknown = "this kernel does not tell of programs' own hypercalls: CONFIG_KPROBE_EVENTS"

    def _hear_all(self) -> None:
        """Wait until all requests of drivers have arrived."""
        mark = f"tcelab-{secrets.token_hex(8)}"
        self._guest.run(drivers.mark(mark), _OWN_LIMIT)
        deadline = time.monotonic() + _OWN_LIMIT
        while self._follower.heard_all != mark:
            if time.monotonic() > deadline:
                self.could_not.append("not all has come that drivers asked for")
                return
            time.sleep(_TURN)
            self._look()
        self._heard = True

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
        ended = self._guest.run(self._plan.command, self._plan.limit, self._glance)
        if ended is None:
            self.could_not.append(f"the command did not end within {self._plan.limit:g} s")
            self._look()  # the report of the kernel or QEMU
            return False
        self.status = ended.status
        self.output = ended.output.splitlines()
        if ended.status and not self._plan.any_status:
            self.could_not.append(f"the command failed with status {ended.status}: nothing is proven")
        return True

    def _glance(self) -> None:
        """Read the tables while the command runs, to judge short-lived entries too. Most of the time is left to the
        command.
        """
        began = time.monotonic()
        if began >= self._glance_at:
            self._look(glance=True)
            self._glance_at = max(began + _GLANCE, time.monotonic() + _SHARE * (time.monotonic() - began))

    def _settled(self) -> _Moment:
        """The tables once two readings are equal, or when the time for that is over."""
        deadline = time.monotonic() + self._plan.settle
        before = self._look()
        while True:
            time.sleep(_TURN)
            now = self._look()
            if now.tables == before.tables or time.monotonic() > deadline:
                return now
            before = now

    def _after(self, baseline: _Moment) -> tuple[_Moment, Stayed]:
        """The tables once no entry stays, or when the time for that is over."""
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

    def _look(self, *, begin: bool = False, glance: bool = False) -> _Moment:
        """:param begin: follow the trace from here on.
        :param glance: a window of another page size may come and go.
        """
        cuts: list[tuple[float, Replayed]] = []

        def cut() -> None:
            if begin:
                self._guest.listen(self._follower.hear)
            else:
                self._follower.consume()
                cuts.append((time.time(), self._follower.freeze()))

        snapshot = self._guest.look(cut)
        self.findings += [LeakFinding(law="kernel", message=line) for line in snapshot.console]
        self.findings += [LeakFinding(law="refusals", message=refusal.line) for refusal in snapshot.refusals]
        missing = [f"no {view} view: {why}" for view, why in snapshot.missing.items()]
        self.could_not += [line for line in missing if line not in self.could_not]
        tables, odd = _tables(snapshot.tables, "live")
        streamed, _ = _tables(snapshot.tables, "stream")
        if begin:
            self._follower.begin(tables)
            cuts.append((0.0, self._follower.freeze()))
        ((at, replayed),) = cuts
        for liobn in sorted(tables.keys() | streamed.keys()):
            live = tables.get(liobn, {})
            self._compare(f"LIOBN {liobn:#x}: the state stream shows another table", live == streamed.get(liobn, {}))
            self._views["stream"] += len(live)
            if liobn in odd:
                if not glance:
                    self._compare(f"LIOBN {liobn:#x} has pages of {1 << odd[liobn]} bytes: not replayed", ok=False)
                continue
            for line in replayed.differences(liobn, live)[:1]:
                self._compare(line, ok=False)
            self._views["replay"] += len(live)
        if not begin:
            self._follower.directions.look(tables, replayed)
        self._note_entries(self._judge.entries(tables, replayed))
        return _Moment(at, tables, replayed)

    def _compare(self, what: str, ok: bool) -> None:  # noqa: FBT001 - private
        if not ok and what not in self.could_not:
            self.could_not.append(what)

    # -- what it leaves

    def fill(self, result: LeakResult) -> None:
        """Fill a result with everything except versions and times."""
        result.status, result.output = self.status, self.output[-_TOLD:]
        result.findings, result.could_not, result.judged = self.findings, self.could_not, self._ended
        result.tables, result.views = self._tables, self._views
        directions = self._follower.directions
        if not self._plan.any_direction:
            result.views |= {"asked stored": directions.stored, "asked live": directions.live}
        result.asked = [
            AskedMappings(liobn=liobn, direction=direction, mappings=times)
            for (liobn, direction), times in sorted(directions.asked.items())
        ]
        for phase, counts in self._follower.counts.items():
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
