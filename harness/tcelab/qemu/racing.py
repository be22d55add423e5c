"""Stops a guest between two hypercalls of a map or an unmap, and has its probes reach for each page there.

A server of QEMU's may not wait inside a DMA_MAP message: QEMU holds its main lock. So the guest's CPUs are stopped from
outside, by QEMU's gdbstub: at each `sc 1` with which the kernel stores a TCE, before it and after this one instruction.
Then no CPU runs, QEMU answers the probes, and what it answers is judged by its table as it is between two changes.

Sources: Linux arch/powerpc/platforms/pseries/hvCall.S (plpar_hcall_norets: opcode in r3, arguments from r4 on);
QEMU hw/ppc/trace-events (spapr_iommu_pci_put, _stuff; an H_STUFF_TCE tells the address behind its last entry).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from tceagent.problem import SC_1
from tcelab.device.probe import Apart
from tcelab.device.vfio_user.configspace import MASTER
from tcelab.errors import HarnessError
from tcelab.papr import hcallnumbers, tce, window
from tcelab.program import GuestOp, Ioctl, Open
from tcelab.program.topology import Phb, Topology
from tcelab.qemu.conversation import Asking
from tcelab.qemu.gdb import Gdb, Stop
from tcelab.qemu.guest import Guest
from tcelab.qemu.hostviews import HostViews
from tcelab.run.points import MOST_PAGES, Change, Point, Race, Reach

CALLS: Final = ("MAP_DMA", "UNMAP_DMA")
"""The requests that are raced."""

_SITES: Final = ("plpar_hcall_norets", "plpar_hcall_norets_trace")
"""Functions of the kernel with which it stores TCEs."""
_WORD: Final = 4
_REGISTERS: Final = (64, 3, 4, 5)
"""NIP; opcode, LIOBN and bus address."""
_STORES: Final = {hcallnumbers.NAMES[name]: name for name in ("H_PUT_TCE", "H_STUFF_TCE", "H_PUT_TCE_INDIRECT")}
_TRACES: Final = ("spapr_iommu_pci_put",)
"""Trace events beside those that are heard anyway."""
_HEX: Final = "(?:0x)?([0-9a-f]+)"
_PUT: Final = re.compile(rf"spapr_iommu_pci_put liobn={_HEX} ioba={_HEX} tce={_HEX} ret=0")
_STUFF: Final = re.compile(rf"spapr_iommu_pci_stuff liobn={_HEX} ioba={_HEX} tcevalue={_HEX} npages=(\d+) ret=0")
_RESET: Final = re.compile(rf"spapr_iommu_ddw_reset buid={_HEX}")
_BYTES: Final = 16
"""Of one transfer, at the begin of a page."""


def changes(lines: list[str], phb: Phb) -> list[Change]:
    """What QEMU's trace says was stored in the default window of a PHB."""
    out = []
    for line in lines:
        if found := _PUT.search(line):
            liobn, ioba, word = (int(each, 16) for each in found.groups())
            new = Change(ioba & -window.PAGE_SIZE, word)
        elif found := _STUFF.search(line):
            liobn, end, word = (int(each, 16) for each in found.groups()[:3])
            count = int(found[4])
            new = Change(end - count * window.PAGE_SIZE, word, count)
        elif found := _RESET.search(line):
            liobn, new = window.liobn(int(found[1], 16) - window.BASE_BUID), Change(phb.window_start, 0, phb.entries)
        else:
            continue
        if liobn == phb.liobn:
            out.append(new)
    return out


def sites(symbols: str) -> list[tuple[int, int]]:
    """Begin and end of the functions whose hypercalls store TCEs.

    :param symbols: as /proc/kallsyms has them.
    :raise HarnessError: the kernel has none of that name.
    """
    rows = [line.split() for line in symbols.splitlines()]
    at = sorted((int(row[0], 16), row[2]) for row in rows if len(row) > 2 and row[1] in "tT")  # noqa: PLR2004
    found = [
        (begin, next((later for later, _ in at[number:] if later > begin), begin))
        for number, (begin, name) in enumerate(at)
        if name in _SITES and begin
    ]
    if not found:
        raise HarnessError(
            f"the kernel does not tell where it makes hypercalls: /proc/kallsyms has no {_SITES[0]}",
            next_step="races need a kernel with CONFIG_KALLSYMS",
        )
    return found


class Racing:
    """Of one guest whose topology is raced.

    :ivar race: the points of the last operation that was raced.
    """

    def __init__(self, guest: Guest, views: HostViews, topology: Topology, symbols: str) -> None:
        """:param symbols: see `sites`."""
        self._guest, self._views = guest, views
        self._phbs = {device.name: phb for phb in topology.phbs for device in phb.devices if device.model == "probe"}
        self._functions = sites(symbols)
        self._gdb = Gdb(guest.ends["gdb"], self._monitor, "little")
        self._breakpoints: list[int] = []
        self._lines: list[str] = []
        self._groups: dict[str, str] = {}
        self._containers: dict[str, str] = {}
        self.race: Race | None = None

    async def _monitor(self, line: str) -> object:
        return await self._guest.command("human-monitor-command", **{"command-line": line})

    # -- which operations

    def follow(self, op: GuestOp) -> None:
        """An operation is about to be done: it may say whose container a file is."""
        if isinstance(op, Open):
            self._groups[op.file] = op.path.rpartition("/$")[2]
        elif isinstance(op, Ioctl) and op.request == "GROUP_SET_CONTAINER":
            self._containers[str(op.fields.get("container"))] = self._groups.get(op.file, "")

    def concerned(self, op: GuestOp) -> tuple[Phb, int, int] | None:
        """The PE that an operation maps or unmaps pages of, the first bus address to reach for, and how many pages:
        those of the operation, and one on either side. None: it is not raced.
        """
        if not isinstance(op, Ioctl) or op.request not in CALLS:
            return None
        phb = self._phbs.get(self._containers.get(op.file, ""))
        iova, size = op.fields.get("iova", 0), op.fields.get("size", 0)
        if phb is None or not isinstance(iova, int) or not isinstance(size, int):
            return None
        pages = size // window.PAGE_SIZE
        if iova % window.PAGE_SIZE or not 0 < pages <= MOST_PAGES or not 0 <= iova < 1 << 32:
            return None
        before = min(iova, window.PAGE_SIZE)
        return phb, iova - before, pages + 1 + before // window.PAGE_SIZE

    # -- one operation

    def at(self, where: tuple[Phb, int, int]) -> Asking:
        """How the agent is asked to do one operation, with a stop at each point of it. The points are in `race` then.

        :param where: see `concerned`.
        """

        async def ask(request: bytes, progress: Callable[[], object]) -> bytes:
            one = _One(*where)
            limit = self._guest.limits.perform
            work = self._stepwise(one, request)
            answer = await self._guest.waiter.run(work, "perform", limit, lambda: (progress(), len(one.points)))
            self.race = Race(liobn=one.phb.liobn, first=one.first, points=one.points)
            return answer

        return ask

    async def _stepwise(self, one: _One, request: bytes) -> bytes:
        tables, gdb = self._guest.log, self._gdb
        heard = tables.tables_listener
        await gdb.stop()
        await self._begin()
        tables.tables_listener = _both(self._lines.append, heard)
        try:
            await self._point(one, "", 0, done=False)
            await gdb.breakpoints(self._breakpoints, there=True)
            asked = asyncio.ensure_future(self._guest.channel.ask(request))
            try:
                await self._until(asked, one)
            finally:
                if not asked.done():
                    asked.cancel()
            await gdb.stop()
            await gdb.breakpoints(self._breakpoints, there=False)
            await self._point(one, "", 0, done=True)
        finally:
            tables.tables_listener = heard
        await self._trace(on=False)
        await gdb.cont()
        return asked.result()

    async def _begin(self) -> None:
        """The guest stands still: find the hypercalls, once, and have them traced."""
        if not self._breakpoints:
            for begin, end in self._functions:
                code = await self._gdb.memory(begin, end - begin)
                words = range(0, len(code) - _WORD + 1, _WORD)
                self._breakpoints += [
                    begin + at for at in words if int.from_bytes(code[at : at + _WORD], "little") == SC_1
                ]
            if not self._breakpoints:
                raise HarnessError(f"{_SITES[0]} of the guest's kernel has no hypercall in it")
        await self._trace(on=True)
        await asyncio.to_thread(self._guest.log.drain)
        self._lines.clear()

    async def _trace(self, *, on: bool) -> None:
        for name in _TRACES:
            await self._guest.command("trace-event-set-state", name=name, enable=on)

    async def _until(self, asked: asyncio.Future[bytes], one: _One) -> None:
        """Stop at each hypercall until the agent has answered."""
        while True:
            stopped = asyncio.ensure_future(self._gdb.stopped())
            try:
                await self._gdb.cont()
                either: set[asyncio.Future[Any]] = {asked, stopped}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not stopped.done():
                    return
                await self._met(stopped.result(), one)
            finally:
                if not stopped.done():
                    stopped.cancel()
                    with suppress(asyncio.CancelledError):
                        await stopped

    async def _met(self, stop: Stop, one: _One) -> None:
        """A CPU stands before a hypercall: let it make this one."""
        if not stop.trapped:
            raise HarnessError(f"the guest was stopped by signal {stop.signal} amidst an operation")
        at, opcode, liobn, ioba = await self._gdb.registers(stop.thread, _REGISTERS)
        if at not in self._breakpoints:
            return
        call = _STORES.get(opcode, "") if liobn == one.phb.liobn else ""
        if call:
            await self._point(one, call, ioba, done=False)
        await self._gdb.step(stop.thread)
        if call:
            await self._point(one, call, ioba, done=True)

    # -- one point

    async def _point(self, one: _One, call: str, ioba: int, *, done: bool) -> None:
        log = self._guest.log
        await asyncio.to_thread(log.drain)
        told, self._lines[:] = changes(self._lines, one.phb), []
        before = log.take_refusals()
        table = await asyncio.to_thread(self._table, one)
        for number, word in enumerate(table):
            if tce.permissions(word):
                one.frames[number].add(tce.address(word))
        memory = {frame: self._bytes(frame) for frames in one.frames for frame in frames}
        reaches = [reach for name in one.devices if (reach := await self._reach(name, one, table)) is not None]
        spoilt = []
        for number, frames in enumerate(one.frames):
            for frame in frames:
                if (data := memory[frame]) is not None and self._bytes(frame) != data:
                    spoilt.append(number)
                    self._views.ram.write(frame, data)
        await asyncio.to_thread(log.drain)
        refused = [
            ((each.address - one.first) // window.PAGE_SIZE, each.direction == "write") for each in log.take_refusals()
        ]
        log.carry(before)
        one.points.append(
            Point(
                call=call,
                done=done,
                ioba=ioba,
                changes=told,
                table=table,
                reaches=reaches,
                refused=refused,
                spoilt=spoilt,
            )
        )

    def _table(self, one: _One) -> list[int]:
        """Each page's TCE, in QEMU's memory."""
        at = self._guest.log.tables.at.get(one.phb.liobn)
        shape = self._views.shape(one.phb.liobn)
        begin = (one.first - one.phb.window_start) >> window.PAGE_SHIFT
        numbers = range(begin, begin + one.pages)
        if at is None or shape is None:
            return [0] * len(numbers)
        inside = [number for number in numbers if 0 <= number < shape.entries]
        words = dict(zip(inside, self._views.live.entries(at, inside[0], len(inside)), strict=True)) if inside else {}
        return [words.get(number, 0) for number in numbers]

    def _bytes(self, frame: int) -> bytes | None:
        return self._views.ram.read(frame, _BYTES)

    async def _reach(self, name: str, one: _One, table: list[int]) -> Reach | None:
        """Have one probe reach for each page. None: its driver does not let it master the bus."""
        probe = self._guest.probes.probe(name)
        if not probe.config.command & MASTER:
            return None
        read, written, astray = [], [], []
        known, probe.apart = probe.apart, []
        for number, word in enumerate(table):
            at, frame = one.first + number * window.PAGE_SIZE, tce.address(word)
            there = self._bytes(frame) if tce.permissions(word) else None
            got = await probe.dma(at, _BYTES)
            read.append(got.pieces[0].errno)
            wrong = not read[-1] and there is not None and got.data != there
            other = bytes(each ^ 0xFF for each in there or bytes(_BYTES))
            written.append((await probe.dma(at, other)).pieces[0].errno)
            if not written[-1] and there is not None:
                wrong = wrong or self._bytes(frame) != other
                self._views.ram.write(frame, there)
            if wrong:
                astray.append(number)
        probe.apart = known + [each for each in probe.apart if not _untellable(each, one, table)]
        return Reach(name, read, written, astray)


class _One:
    """One operation. :ivar frames: by page, where its entries led to so far."""

    def __init__(self, phb: Phb, first: int, pages: int) -> None:
        self.phb, self.first, self.pages = phb, first, pages
        self.devices = [device.name for device in phb.devices]
        self.frames: list[set[int]] = [set() for _ in range(pages)]
        self.points: list[Point] = []


def _untellable(piece: Apart, one: _One, table: list[int]) -> bool:
    """A read through an entry that is write-only now: no message tells that it is (see the law `messages`)."""
    address, _, to_memory, _, own = piece
    word = table[(address - one.first) >> window.PAGE_SHIFT]
    return not to_memory and not own and tce.permissions(word) == tce.WRITE


def _both(one: Callable[[str], None], other: Callable[[str], None] | None) -> Callable[[str], None]:
    def tell(line: str) -> None:
        one(line)
        if other is not None:
            other(line)

    return tell
