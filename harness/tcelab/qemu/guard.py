"""Guards the PEs of a guest: watches what QEMU refuses their devices, and isolates the PE of one that violates its
table, as the platform's hardware would, until firmware's services bring it back.

QEMU's emulated PHBs refuse an access and freeze nothing. The guard makes up for it from outside: bus mastering off
stops the DMA of a device, and a ROM of ones over its registers stops its MMIO (`tcelab.qemu.rom`). Configuration space
stays as it is, and memory decoding stays on.

What moves registers in the guest's address space is written only while the guest stands still. A TCG vCPU remembers, of
a page of registers, where their region is in the list of all regions, and looks it up there at each access, before it
takes QEMU's lock; QEMU's main thread replaces the list, and has the vCPU forget what it remembers only a moment later.
An access in between goes by its old place in the new list: QEMU up to 10.0 answers a load from a device's registers by
the region of the ROM, which is RAM and has no access functions. That is refused, and 10.0 makes a machine check of it,
of which a guest in TCG dies without a word; 7.2 gives a 0 that no device has said. (7.2 asks its vCPU's copy of the
list, which is replaced first; 10.0 the newest list of the address space; 11.1 remembers the region itself. Source: QEMU
accel/tcg/cputlb.c, system/physmem.c, iotlb_to_section and tcg_commit.) A vCPU that stands is in no access, and forgets
before it goes on. Bus mastering moves nothing that a CPU sees: it goes off first, and at once.

Who calls what: one thread at a time reads QEMU's log, its own or whoever drains it. It tells `TraceReader` each line,
which
takes `_lock`, decides, notes in `GuardedDevice` what will have been written, and hands the writing over to the loop
(`_act`).
It waits for nothing: while it does, nobody reads the log, and a full pipe stops QEMU. The loop writes in the order of
the decisions, and takes `_lock` for an assignment at most. Callers of the session wait for the loop (`_await`), and
never while they hold `_lock`.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final

import msgspec

from tceagent import edu
from tcelab.errors import HarnessError, Unsupported
from tcelab.papr import pe, window
from tcelab.program import Burst, Close, Dma, Engine, Exit, GuestOp, Ioctl, Look, Master, Rtas, Together
from tcelab.program.topology import Topology
from tcelab.qemu.guardeddevice import BARS, COMMAND, MASTER, MEMORY, ROM, Flight, GuardedDevice, GuardedPe
from tcelab.qemu.guest import Guest
from tcelab.qemu.portal import portal
from tcelab.qemu.qtest import Register
from tcelab.qemu.tracereader import EVENTS, Control, TraceReader
from tcelab.qemu.views.live import LiveMemory
from tcelab.run.record import Event, Guarding, Outcome

_LOG: Final = logging.getLogger(__name__)

_NOTIFY: Final = 0x3000
_STATUS: Final = 0x14
"""Of a virtio device in its BAR: where queues are notified, and the status (hw/virtio/virtio-pci.c)."""
_LIVENESS: Final = 0x04
"""A register of an edu that does nothing."""
_ALL_ONES: Final = (1 << 64) - 1
_POLL: Final = 0.005
_EDU_BUFFER: Final = 0x40000
_CONTROL: Final = 4
"""Bytes of the violation that proves that the guard sees."""
_LOGGED: Final = 8
"""Events of one operation that are logged, each in a line of its own, by who asks for them: the thread that sees them
must not wait for anything.
"""
_TOUCHING: Final = (Dma, Together, Burst, Engine, Master, Look, Close, Exit)
"""Operations that may have a device do something, or change how it is configured."""


class Guard(TraceReader):
    """Of one guest. `started` before anything is asked of it; what it saw is fetched by `settle`."""

    def __init__(self, guest: Guest, live: LiveMemory, topology: Topology, mode: Guarding) -> None:
        super().__init__(guest, live, topology)
        self._mode = mode
        self._pending: list[Future[None]] = []
        self._laying = asyncio.Lock()  # hands itself on in the order in which it was asked for

    # -- the beginning

    def start(self) -> None:
        """Learn the devices, and prove for each PE that a violation is seen, and its device known.

        :raise Unsupported: this QEMU does not tell what a guard needs.
        :raise HarnessError: a violation was not seen.
        """
        if len(self._by_slot) < len(self.devices):
            raise Unsupported("devices under guard need slots of their own over the whole topology")
        for event in EVENTS:
            states: Any = self._ask(self._guest.qmp("trace-event-get-state", name=event))
            if not states:
                raise Unsupported(f"this QEMU has no trace event {event}: nobody could be blamed for a violation")
            self._ask(self._guest.qmp("trace-event-set-state", name=event, enable=True))
        self._guest.log.listener = self
        for device in self.devices.values():
            self._ask(self._learn(device))
        for device in self.devices.values():
            if device.model == "edu":
                self._control(device)
        self._expect_controls()

    async def _learn(self, device: GuardedDevice) -> None:
        """Read its registers, and have its doorbells named by ringing them to no effect."""
        port = self._guest.qtest
        for offset in (COMMAND, BARS[device.model], ROM):
            value = await port.read_config(*device.register(offset))
            device.configured(offset, value)
        if device.address is None:
            raise HarnessError(f"{device.name} has no address: the guest's kernel did not give it one")
        before = device.command
        await self._write(device, before | MEMORY)
        self.learning = device
        if device.model == "edu":
            await port.store(device.address + _LIVENESS, 4, 0)
        else:
            await port.store(device.address + _STATUS, 1, 0)
            await port.store(device.address + _NOTIFY, 2, 0)
        await asyncio.to_thread(self._guest.log.drain)
        self.learning = None
        await self._write(device, before)
        if not device.regions:
            raise Unsupported(f"QEMU's trace does not tell of writes to the registers of {device.name}")

    def _control(self, device: GuardedDevice) -> None:
        """Have a device violate its table, from outside, where nothing can come of it."""
        reach = device.mask & ((1 << 47) - 1)
        iova = (reach & ~(window.PAGE_SIZE - 1)) - (device.slot + 1) * window.PAGE_SIZE
        self.controls[device.name] = Control(device.command)
        words = {edu.SOURCE: _EDU_BUFFER, edu.DESTINATION: iova, edu.COUNT: _CONTROL}
        words[edu.COMMAND] = edu.RUN | edu.TO_MEMORY

        async def violate() -> None:
            assert device.address is not None
            await self._write(device, device.command | MASTER | MEMORY)
            for offset, value in words.items():
                await self._guest.qtest.store(device.address + offset, 8, value)

        self._ask(violate())

    def _expect_controls(self) -> None:
        """Each of them is seen; then all is as it was."""
        for name, control in self.controls.items():
            device = self.devices[name]
            if not control.seen.wait(self._guest.limits.control):
                raise HarnessError(
                    f"the guard does not see refused accesses of {name}: a deliberate one was not told",
                    next_step="see qemu.log there",
                )
            self._ask(self._rest(device, control.before))
        self._guest.log.drain()
        self._guest.log.take_refusals()
        if self._events:
            raise HarnessError(f"the guard blames wrongly: {self._events[0].reason}", next_step="see qemu.log there")
        self.controls = {}
        self._forget()

    async def _rest(self, device: GuardedDevice, command: int) -> None:
        await self._ended(device)
        await self._write(device, command)

    # -- what it does

    def violated(self, watched: GuardedPe, event: Event) -> None:
        """A device of a PE violated its table: that isolates it."""
        if self._mode == "observe":
            self._tell(event)
            return
        watched.isolation.violate()
        self._tell(msgspec.structs.replace(event, kind="isolated"))
        self._act(self.isolated(watched), timing=len(self._events) - 1)

    def isolated(self, watched: GuardedPe) -> list[GuardedDevice]:
        """The devices that are isolated with their PE: all of them."""
        return watched.devices

    def changed(self, device: GuardedDevice) -> None:
        """The guest wrote to a device's configuration space: an isolated PE stays isolated."""
        if self._mode != "freeze" or device.pe.isolation.dma or not self.demands(device):
            return
        if device.wish and device.command & MASTER:
            watched = device.pe
            at = self._guest.race.elapsed()
            self._tell(
                Event(kind="reapplied", pe=watched.phb.index, liobn=watched.phb.liobn, device=device.name, at=at)
            )
            self._act(self.again(device), timing=len(self._events) - 1)
        else:
            self._act(self.again(device))

    def demands(self, device: GuardedDevice) -> list[tuple[Register, int]]:
        """What is to be written so that a device is as its PE's condition has it."""
        return device.demands()

    def again(self, device: GuardedDevice) -> list[GuardedDevice]:
        """The devices that are put back when the guest changed one of an isolated PE."""
        return [device]

    def _act(self, devices: Sequence[GuardedDevice], timing: int | None = None) -> None:
        """Have the registers of devices written as they must be. `timing`: number of the event that takes the time."""
        began = time.perf_counter()
        writes = []
        for device in devices:
            for register, value in self.demands(device):
                moves = device.moves(register, value)
                device.written(register, value)
                writes.append((register, value, moves))
        if not writes:
            return

        def done() -> None:
            if timing is not None:
                took = time.perf_counter() - began
                with self._lock:
                    self._events[timing] = msgspec.structs.replace(self._events[timing], took=took)

        write = self._put(writes, done)
        self._pending.append(asyncio.run_coroutine_threadsafe(write, portal().loop))

    async def _write(self, device: GuardedDevice, command: int) -> None:
        """Its command register, whatever its driver wants."""
        register = device.register(COMMAND)
        with self._lock:
            moves = device.moves(register, command)
            device.written(register, command)
        await self._put([(register, command, moves)])

    async def _put(self, writes: Sequence[tuple[Register, int, bool]], done: Callable[[], None] = lambda: None) -> None:
        """Write configuration registers: those that move nothing at once, the others on a guest that stands.

        :param done: called once all are written.
        """
        at_once = [(register, value) for register, value, moves in writes if not moves]
        if at_once:
            await self._guest.qtest.write_configs(at_once)
        moving = [(register, value) for register, value, moves in writes if moves]
        if not moving:
            done()
            return
        async with self._laying, self._guest.standstill.held():
            await self._guest.qtest.write_configs(moving)
            done()

    # -- asked by the session

    def announce(self, op: GuestOp, device: str) -> None:
        """What a device is about to be told: a virtio device has its transfers in memory, and not in registers."""
        watched = self.devices.get(device)
        if watched is None or watched.model == "edu":
            return
        with self._lock:
            if isinstance(op, Engine):
                pages = 2 * window.PAGE_SIZE
                watched.ring = [Flight("read", op.iova, pages), Flight("write", op.iova, pages)]
            elif isinstance(op, Dma | Burst):
                transfers = op.transfers if isinstance(op, Burst) else [op]
                watched.flights = [
                    Flight("write" if each.to_memory else "read", each.iova, each.size) for each in transfers
                ]

    def settle(self) -> list[Event]:
        """Wait until all that QEMU has said was acted upon: what happened since the last call.

        :raise HarnessError: it could not be.
        """
        while True:
            self._guest.log.drain()
            with self._lock:
                if self._failed is not None:
                    raise HarnessError(f"the guard failed: {self._failed!r}", next_step="please report it")
                if astray := self._guest.log.strayed:
                    raise HarnessError(
                        f"QEMU led an access of the guest's astray: {astray}",
                        next_step="what the guest read there is no device's; please report it, with qemu.log",
                    )
                pending, self._pending = self._pending, []
                if not pending:
                    events = list(self._events)
                    self._forget()
                    break
            self._await(pending)
        for event in events[:_LOGGED]:
            _LOG.debug("%s of PE %d by %s: %s", event.kind, event.pe, event.device or "nobody", event.reason)
        if len(events) > _LOGGED:
            _LOG.debug("and %d events more", len(events) - _LOGGED)
        return events

    def _await(self, pending: Sequence[Future[None]]) -> None:
        async def done() -> None:
            for future in pending:
                await asyncio.wrap_future(future)

        self._ask(done())

    def call(self, op: Rtas) -> Outcome:
        """A service of firmware: what it gives, once it is done.

        :raise HarnessError: it could not be done.
        """
        watched = self.devices[op.device].pe
        if self._mode != "freeze":
            return Outcome(value=pe.PARAMETER_ERROR)  # as QEMU answers for a PHB that it emulates
        now = watched.isolation
        then = copy.copy(now)
        answer = then.call(op.call, op.option)
        _LOG.debug("RTAS %s option %s of %s: status %d", op.call, op.option, op.device, answer.status)
        resets = not answer.status and then.condition is pe.Condition.RESET and op.call == pe.SET_RESET
        if then.condition is now.condition and not resets:
            watched.isolation = then
            return _answered(answer)
        if not then.mmio:
            self._become(watched, then, lets_go=resets)
            return _answered(answer)
        if not now.mmio:
            open_ = copy.copy(then)
            open_.condition = pe.Condition.MMIO_THAWED
            self._become(watched, open_)
            self._ask(self._reset_virtio(watched))
        if then.dma:
            self._ask(self._quiet(watched))
            self.thaw(watched, then)
        else:
            watched.isolation = then
        return _answered(answer)

    def thaw(self, watched: GuardedPe, then: pe.Isolation) -> None:
        """DMA of a PE passes again."""
        self._become(watched, then)

    def _become(self, watched: GuardedPe, then: pe.Isolation, *, lets_go: bool = False) -> None:
        with self._lock:
            watched.isolation = then
            for device in watched.devices if lets_go else ():
                device.wish = False
            self._act(watched.devices)
            pending, self._pending = self._pending, []
        self._await(pending)

    async def _reset_virtio(self, watched: GuardedPe) -> None:
        """A request that was blocked would be done late otherwise, once the device masters the bus again."""
        for device in watched.devices:
            if device.model != "edu" and device.address is not None:
                await self._guest.qtest.store(device.address + _STATUS, 1, 0)

    async def _quiet(self, watched: GuardedPe) -> None:
        """No transfer that was begun while DMA was stopped is under way any more."""
        for device in watched.devices:
            await self._ended(device)

    async def _ended(self, device: GuardedDevice) -> None:
        """Wait until an edu does nothing any more, of which no event tells."""
        while device.model == "edu" and device.address is not None:
            command = await self._guest.qtest.load(device.address + edu.COMMAND, 8)
            if command == _ALL_ONES or not command & edu.RUN:
                return
            await asyncio.sleep(_POLL)

    def reset(self) -> None:
        """Every PE is as at the start, for another program."""
        for watched in self.pes.values():
            with self._lock:
                for device in watched.devices:
                    device.wish = False
            self._become(watched, pe.Isolation())
            self._ask(self._reset_virtio(watched))
        self.settle()

    def _ask(self, work: Any) -> Any:  # noqa: ANN401 - gives what the work gives
        return portal().call(self._guest.race.run(work, "control", self._guest.limits.control))


def _answered(answer: pe.Answer) -> Outcome:
    return Outcome(value=answer.status, fields=dict(zip(pe.OUTPUTS, answer.outputs, strict=False)))


def chunks(ops: Sequence[GuestOp]) -> Iterator[list[GuestOp]]:
    """The operations in order, cut after each that may touch a device: what comes of it is awaited."""
    chunk: list[GuestOp] = []
    for op in ops:
        chunk.append(op)
        if isinstance(op, _TOUCHING) or (isinstance(op, Ioctl) and op.into):
            yield chunk
            chunk = []
    if chunk:
        yield chunk
