"""Guards the PEs of a guest: reads which device accesses QEMU refuses, freezes the PE of a device that violates its
table (`tcelab.qemu.freeze`), and answers firmware's services, which bring it back.

Who calls what: one thread at a time reads QEMU's log, its own or whoever drains it. It tells `TraceReader` each line,
which takes `_lock`, decides, notes in `GuardedDevice` what will have been written, and hands the writing over to the
loop (`PeFreezer._act`). It waits for nothing: while it does, nobody reads the log, and a full pipe stops QEMU. The loop
writes in the order of the decisions, and takes `_lock` for an assignment at most. Callers of the session wait for the
loop (`_await`), and never while they hold `_lock`.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

from tceagent import edu, virtio
from tcelab.errors import HarnessError, Unsupported
from tcelab.papr import isolationrules, window
from tcelab.program import Burst, Close, Dma, Doorbell, Engine, Exit, GuestOp, Ioctl, Look, Master, Rtas, Together
from tcelab.program.topology import EDUS
from tcelab.qemu.freeze import PeFreezer
from tcelab.qemu.guardeddevice import BARS, COMMAND, MASTER, MEMORY, ROM, Flight, GuardedDevice, GuardedPe
from tcelab.qemu.probewatch import ProbeWatch
from tcelab.qemu.tracereader import EVENTS, Control
from tcelab.run.record import Event, Outcome, Refusal

_LOG: Final = logging.getLogger(__name__)

_NOTIFY: Final = 0x3000
_STATUS: Final = virtio.STATUS
"""Of a virtio device in its BAR: where queues are notified, and the status (hw/virtio/virtio-pci.c)."""
_POLL: Final = 0.005
_CONTROL: Final = 4
"""Bytes of the violation that proves that the guard sees."""
_LOGGED: Final = 8
"""Events of one operation that are logged, one line each. The caller that fetches them logs them: the thread that sees
them must not wait for anything.
"""
_TOUCHING: Final = (Dma, Together, Burst, Doorbell, Engine, Master, Look, Close, Exit)
"""Operations that may start a device or change its configuration."""


class Guard(PeFreezer):
    """Of one guest. `started` before anything is asked of it; what it saw is fetched by `settle`."""

    # -- the beginning

    def start(self) -> None:
        """Learn the devices, and prove for each PE that a violation is seen and attributed to its device.

        :raise Unsupported: this QEMU does not tell what a guard needs.
        :raise HarnessError: a violation was not seen.
        """
        self.meet()
        self._guest.log.take_refusals()

    def meet(self) -> None:
        """As `start`, on a machine that was reset. What it refused before stays to be told.

        :raise TcelabError: as `start`.
        """
        self._listen()
        self._meet(list(filter(_there, self.devices.values())))

    def _listen(self) -> None:
        if len(self._by_slot) < len(self.devices):
            raise Unsupported("devices under guard need slots of their own over the whole topology")
        for event in EVENTS:
            states: Any = self._ask(self._guest.qmp("trace-event-get-state", name=event))
            if not states:
                raise Unsupported(f"this QEMU has no trace event {event}: nobody could be blamed for a violation")
            self._ask(self._guest.qmp("trace-event-set-state", name=event, enable=True))
        self._guest.log.listener = self

    def resume(self, before: Guard) -> None:
        """Guard a guest that another QEMU has taken in and that stands still: what was isolated is isolated again.

        An isolated PE is left alone by whoever proves what the guard sees: it has been seen to be isolated. A virtio
        device in one is reset, as it would be before it is thawed; any other goes on with its queue.

        :raise TcelabError: as `start`.
        """
        self._listen()
        earlier = self._earlier()
        for index, guarded in self.pes.items():
            was = before.pes[index]
            for device in filter(_there, guarded.devices):
                other = before.devices[device.name]
                self._ask(self._learn(device, reset=not was.isolation.dma))
                device.wish, device.ring = other.wish, other.ring
            self._become(guarded, copy.copy(was.isolation))
        self._guest.log.drain()
        self._guest.log.take_refusals()
        self._guest.log.carry(earlier)
        self._forget()

    def prove(self) -> None:
        """Prove for each PE whose DMA passes that a violation is seen and attributed to its device.

        :raise HarnessError: one was not seen.
        """
        self._see(device for device in self.devices.values() if device.there and device.pe.isolation.dma)

    def _meet(self, devices: Sequence[GuardedDevice]) -> None:
        """Learn some devices, and see each violate its table."""
        for device in devices:
            self._ask(self._learn(device))
        self._see(devices)

    def _see(self, devices: Iterable[GuardedDevice]) -> None:
        """See some devices violate their table. What was refused before stays to be told."""
        earlier = self._earlier()
        for device in devices:
            if device.model in EDUS:
                self._control(device)
        self._expect_controls()
        self._guest.log.carry(earlier)

    def _earlier(self) -> tuple[Refusal, ...]:
        self._guest.log.drain()
        return self._guest.log.take_refusals()

    def arrived(self, name: str) -> None:
        """A device was plugged in, and the guest has it. A PE that is isolated stays so, and isolates it.

        :raise HarnessError: as `start`.
        """
        self.settle()
        device = self.devices[name]
        self._meet([device])
        with self._lock:
            device.there = True
            self._act([device])
        self.settle()

    def new_pe(self, index: int) -> None:
        """A PHB was plugged in: its PE is not isolated, whatever the one of its index was."""
        with self._lock:
            self.pes[index].isolation = isolationrules.Isolation()

    async def _learn(self, device: GuardedDevice, *, reset: bool = True) -> None:
        """Read its registers, and learn the names of its doorbells by ringing them without effect.

        :param reset: a virtio device is reset before; otherwise it looks for requests in its queue, and finds none.
        """
        port = self._guest.qtest
        for offset in (COMMAND, BARS[device.model], ROM):
            value = await port.read_config(*device.register(offset))
            device.configured(offset, value)
        if device.address is None:
            raise HarnessError(f"{device.name} has no address: the guest's kernel did not give it one")
        if device.model == "probe":
            self._guest.probes.probe(device.name).watcher = ProbeWatch(self, device)
            return
        before = device.command
        await self._write(device, before | MEMORY)
        self.learning = device
        if device.model == "edu":
            await port.store(device.address + edu.LIVENESS, 4, 0)
        else:
            if reset:
                await port.store(device.address + _STATUS, 1, 0)
            await port.store(device.address + _NOTIFY, 2, 0)
        await asyncio.to_thread(self._guest.log.drain)
        self.learning = None
        await self._write(device, before)
        if not device.regions:
            raise Unsupported(f"QEMU's trace does not tell of writes to the registers of {device.name}")

    def _control(self, device: GuardedDevice) -> None:
        """Make a device violate its table, from outside, where it has no consequences."""
        reach = device.mask & ((1 << 47) - 1)
        iova = (reach & ~(window.PAGE_SIZE - 1)) - (device.slot + 1) * window.PAGE_SIZE
        self.controls[device.name] = Control(device.command)
        words = {edu.SOURCE: edu.BUFFER, edu.DESTINATION: iova, edu.COUNT: _CONTROL}
        words[edu.COMMAND] = edu.RUN | edu.TO_MEMORY

        async def violate() -> None:
            assert device.address is not None
            await self._write(device, device.command | MASTER | MEMORY)
            if device.model == "probe":
                await self._guest.probes.probe(device.name).dma(iova, bytes(_CONTROL))
                return
            for offset, value in words.items():
                await self._guest.qtest.store(device.address + offset, 8, value)

        self._ask(violate())

    def _expect_controls(self) -> None:
        """Check that each was seen, then restore the state."""
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

    # -- asked by the session

    def announce(self, op: GuestOp, device: str) -> None:
        """Note what a device is about to be told: a virtio device finds its transfers in memory, not in registers."""
        guarded = self.devices.get(device)
        if guarded is None or guarded.model in EDUS:
            return
        with self._lock:
            if isinstance(op, Engine):
                pages = 2 * window.PAGE_SIZE
                guarded.ring = [Flight("read", op.iova, pages), Flight("write", op.iova, pages)]
            elif isinstance(op, Dma | Burst):
                transfers = op.transfers if isinstance(op, Burst) else [op]
                guarded.flights = [
                    Flight("write" if each.to_memory else "read", each.iova, each.size) for each in transfers
                ]

    def settle(self) -> list[Event]:
        """Wait until everything that QEMU has logged was acted upon. Returns the events since the last call.

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

    def call(self, op: Rtas) -> Outcome:
        """Perform a firmware service; returns its answer.

        :raise HarnessError: it could not be done.
        """
        guarded = self.devices[op.device].pe
        if self._mode != "freeze":
            return Outcome(value=isolationrules.PARAMETER_ERROR)  # as QEMU answers for a PHB that it emulates
        now = guarded.isolation
        then = copy.copy(now)
        answer = then.call(op.call, op.option)
        _LOG.debug("RTAS %s option %s of %s: status %d", op.call, op.option, op.device, answer.status)
        resets = (
            not answer.status
            and then.condition is isolationrules.Condition.RESET
            and op.call == isolationrules.SET_RESET
        )
        if then.condition is now.condition and not resets:
            guarded.isolation = then
            return _answered(answer)
        if not then.mmio:
            self._become(guarded, then, lets_go=resets)
            return _answered(answer)
        if not now.mmio:
            open_ = copy.copy(then)
            open_.condition = isolationrules.Condition.MMIO_THAWED
            self._become(guarded, open_)
            self._ask(self._reset_virtio(guarded))
        if then.dma:
            self._ask(self._quiet(guarded))
            self.thaw(guarded, then)
        else:
            guarded.isolation = then
        return _answered(answer)

    async def _reset_virtio(self, guarded: GuardedPe) -> None:
        """Otherwise a blocked request would be done late, once the device masters the bus again."""
        for device in guarded.devices:
            if device.model not in EDUS and device.address is not None:
                await self._guest.qtest.store(device.address + _STATUS, 1, 0)

    async def _quiet(self, guarded: GuardedPe) -> None:
        """Wait until no transfer that began while DMA was stopped is still running."""
        for device in guarded.devices:
            await self._ended(device)

    async def _ended(self, device: GuardedDevice) -> None:
        """Wait until a device is idle; of an edu, no event reports that. One whose driver has closed it cannot be
        asked, and masters the bus no more.
        """
        if device.model == "probe":
            await self._guest.probes.probe(device.name).idle()
        while device.model == "edu" and device.address is not None and device.command & MEMORY:
            command = await self._guest.qtest.load(device.address + edu.COMMAND, 8)
            if command == edu.ALL_ONES or not command & edu.RUN:
                return
            await asyncio.sleep(_POLL)

    def restarted(self, plugged: Collection[str]) -> None:
        """The machine was reset: no PE is isolated.

        :param plugged: names of its devices, which are as at its start.
        """
        with self._lock:
            for guarded in self.pes.values():
                guarded.isolation = isolationrules.Isolation()
            for device in self.devices.values():
                device.restarted()
                device.there = device.name in plugged
                if not device.there:
                    self.left(device)

    def flies(self, name: str, flight: Flight) -> None:
        """The transfer of a device goes on although the machine was reset: it is to blame for what is refused of it."""
        with self._lock:
            self.devices[name].flights = [flight]

    def reset(self) -> None:
        """Reset every PE to its initial state, for another program."""
        for guarded in self.pes.values():
            with self._lock:
                for device in guarded.devices:
                    device.wish = False
            self._become(guarded, isolationrules.Isolation())
            self._ask(self._reset_virtio(guarded))
        self.settle()


def _there(device: GuardedDevice) -> bool:
    return device.there


def _answered(answer: isolationrules.ServiceAnswer) -> Outcome:
    return Outcome(value=answer.status, fields=dict(zip(isolationrules.OUTPUTS, answer.outputs, strict=False)))


def chunks(ops: Sequence[GuestOp]) -> Iterator[list[GuestOp]]:
    """The operations in order, cut after each one that may touch a device, whose consequences are awaited."""
    chunk: list[GuestOp] = []
    for op in ops:
        chunk.append(op)
        if isinstance(op, _TOUCHING) or (isinstance(op, Ioctl) and op.into):
            yield chunk
            chunk = []
    if chunk:
        yield chunk
