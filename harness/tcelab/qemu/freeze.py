"""Freezes a PE: writes its devices' registers so that their DMA stops and their MMIO reads as all ones; and thaws it.

QEMU's emulated PHBs refuse an access and freeze nothing. This makes up for it from outside: bus mastering off stops the
DMA of a device, and a ROM of ones over its registers stops its MMIO (`tcelab.qemu.rom`). Configuration space stays as
it is, and memory decoding stays on.

What moves registers in the guest's address space is written only while the guest stands still. A TCG vCPU remembers, of
a page of registers, where their region is in the list of all regions, and looks it up there at each access, before it
takes QEMU's lock; QEMU's main thread replaces the list, and has the vCPU forget what it remembers only a moment later.
An access in between goes by its old place in the new list: QEMU up to 10.0 answers a load from a device's registers by
the region of the ROM, which is RAM and has no access functions. That is refused, and 10.0 makes a machine check of it,
of which a guest in TCG dies without a word; 7.2 gives a 0 that no device has said. (7.2 asks its vCPU's copy of the
list, which is replaced first; 10.0 the newest list of the address space; 11.1 remembers the region itself. Source: QEMU
accel/tcg/cputlb.c, system/physmem.c, iotlb_to_section and tcg_commit.) A vCPU that stands is in no access, and forgets
before it goes on. Bus mastering moves nothing that a CPU sees: it goes off first, and at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

import msgspec

from tcelab.papr import isolationrules
from tcelab.program.topology import Topology
from tcelab.qemu.guardeddevice import BAR_FLAGS, COMMAND, MASTER, ROM, Flight, GuardedDevice, GuardedPe
from tcelab.qemu.guest import Guest
from tcelab.qemu.portal import portal
from tcelab.qemu.qtest import ConfigRegister
from tcelab.qemu.tracereader import TraceReader
from tcelab.qemu.views.live import LiveMemory
from tcelab.run.record import Event, Guarding

_ROM_ENABLE: Final = 1


class PeFreezer(TraceReader):
    """Of one guest. `_pending`: writes that were handed to the loop and that nobody has waited for."""

    def __init__(self, guest: Guest, live: LiveMemory, topology: Topology, mode: Guarding) -> None:
        super().__init__(guest, live, topology)
        self._mode = mode
        self._pending: list[Future[None]] = []
        self._laying = asyncio.Lock()  # hands itself on in the order in which it was asked for

    def violated(self, guarded: GuardedPe, event: Event) -> None:
        """A device of a PE violated its table: that freezes the PE."""
        if self._mode == "observe":
            self._tell(event)
            return
        guarded.isolation.violate()
        self._tell(msgspec.structs.replace(event, kind="isolated"))
        self._act(self.isolated(guarded), timing=len(self._events) - 1)

    def began(self, device: GuardedDevice, flight: Flight) -> None:
        """A device that is a process of the host begins a transfer."""
        with self._lock:
            device.flights.append(flight)

    def answered(self, device: GuardedDevice, flight: Flight, address: int) -> list[Future[None]]:
        """QEMU has answered such a device that it refuses its transfer, at a bus address first. Not for the loop: it
        reads the log, which says where tables are.

        :return: what was begun and has not ended.
        """
        try:
            self._guest.log.drain()
            with self._lock:
                if device.name in self.controls:
                    self.controls[device.name].seen.set()
                else:
                    self._judge(device, flight, address)
        except Exception as error:  # noqa: BLE001 - told when the guard is asked next
            with self._lock:
                self._failed = self._failed or error
        with self._lock:
            return list(self._pending)

    def isolated(self, guarded: GuardedPe) -> list[GuardedDevice]:
        """The devices that are isolated with their PE: all of them."""
        return guarded.devices

    def changed(self, device: GuardedDevice) -> None:
        """The guest wrote to a device's configuration space: an isolated PE stays isolated."""
        if self._mode != "freeze" or device.pe.isolation.dma or not self.demands(device):
            return
        if device.wish and device.command & MASTER:
            guarded = device.pe
            at = self._guest.waiter.elapsed()
            self._tell(
                Event(kind="reapplied", pe=guarded.phb.index, liobn=guarded.phb.liobn, device=device.name, at=at)
            )
            self._act(self.again(device), timing=len(self._events) - 1)
        else:
            self._act(self.again(device))

    def demands(self, device: GuardedDevice) -> list[tuple[ConfigRegister, int]]:
        """The writes that bring a device's registers into the state that its PE's condition demands."""
        isolation = device.pe.isolation
        master = MASTER if device.wish and isolation.dma else 0
        wanted = {COMMAND: device.command & ~MASTER | master}
        if device.address is not None:
            wanted[ROM] = 0 if isolation.mmio else device.bar & ~BAR_FLAGS | _ROM_ENABLE
        now = {COMMAND: device.command, ROM: device.rom}
        return [(device.register(offset), value) for offset, value in wanted.items() if now[offset] != value]

    def again(self, device: GuardedDevice) -> list[GuardedDevice]:
        """The devices to isolate again, after the guest changed one of an isolated PE."""
        return [device]

    def _act(self, devices: Sequence[GuardedDevice], timing: int | None = None) -> None:
        """Write the devices' registers as they must be. `timing`: number of the event whose duration is measured."""
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

    async def _put(
        self, writes: Sequence[tuple[ConfigRegister, int, bool]], done: Callable[[], None] = lambda: None
    ) -> None:
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

    def thaw(self, guarded: GuardedPe, then: isolationrules.Isolation) -> None:
        """DMA of a PE passes again."""
        self._become(guarded, then)

    def _become(self, guarded: GuardedPe, then: isolationrules.Isolation, *, lets_go: bool = False) -> None:
        with self._lock:
            guarded.isolation = then
            for device in guarded.devices if lets_go else ():
                device.wish = False
            self._act(guarded.devices)
            pending, self._pending = self._pending, []
        self._await(pending)

    def _await(self, pending: Sequence[Future[None]]) -> None:
        async def done() -> None:
            for future in pending:
                await asyncio.wrap_future(future)

        self._ask(done())

    def _ask(self, work: Any) -> Any:  # noqa: ANN401 - gives what the work gives
        return portal().call(self._guest.waiter.run(work, "control", self._guest.limits.control))
