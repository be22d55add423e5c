"""A device in flight over an event: its transfer is started while the guest stands still, and ends during the event.

An edu translates at the end of its transfer, 100 ms of the guest's clock after its start (QEMU hw/misc/edu.c,
edu_dma_timer). That clock stands while the guest does, so what comes first is no matter of speed: the event is brought
to its decisive moment before the guest goes on, and until the transfer is over the guest's CPU does nothing that could
touch memory. Where the transfer leads is looked up when it starts; whether it got there is read from guest RAM.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from tceagent import edu
from tcelab.errors import Unsupported
from tcelab.papr import tce, window
from tcelab.program import Flight
from tcelab.program.topology import Device, Phb
from tcelab.qemu import guardeddevice
from tcelab.qemu.guardeddevice import BARS, COMMAND, MASTER, MEMORY, GuardedDevice, GuardedPe
from tcelab.qemu.guest import Guest
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession
from tcelab.qemu.second.trampoline import STAY
from tcelab.run.flown import Flown, flown_page
from tcelab.run.record import Refusal

TIME: Final = 0.1
"""Seconds of the guest's clock from a transfer's start to its end."""
_MORE: Final = 0.01
_ENTRY: Final = 0x100
"""Where the first CPU begins after a reset (QEMU hw/ppc/spapr_cpu_core.c, SPAPR_ENTRY_POINT)."""


class InFlight:
    """One transfer.

    :ivar started: the device took it: its registers could be reached.
    """

    def __init__(self, session: QemuSession, flight: Flight) -> None:
        """:raise Unsupported: nobody sees where it leads."""
        if "live" in session.facts.cannot:
            raise Unsupported(
                f"nobody sees where a transfer in flight leads: {session.facts.cannot['live']}", scene=session.scene()
            )
        self._session, self._flight = session, flight
        place = session.plugged.place(flight.device)
        assert place is not None, flight.device  # validated
        self._phb, self._device = place
        self._frames: dict[int, int] = {}
        self._before: dict[int, bytes | None] = {}
        self._earlier: tuple[Refusal, ...] = ()
        self.started = False

    @property
    def _guest(self) -> Guest:
        """In the QEMU that has it now."""
        return self._session.guest

    def start(self, *, masters: bool = False) -> None:
        """Start it. The guest stands still.

        :param masters: the device is let master the bus, whatever its driver has left.
        """
        guest = self._guest
        guest.log.drain()
        self.started = portal().call(_started(guest, self._phb, self._device, self._flight, masters=masters))
        self._frames = self._leads_to()
        self._earlier = guest.log.take_refusals()
        self.look()

    def look(self) -> None:
        """From now on nobody but the device touches what it leads to."""
        self._before = self._guest.ram.pages(self._frames.values())

    def goes_on(self) -> None:
        """The machine was reset, and its guard has forgotten the transfer."""
        guard = self._session.guard
        if guard is not None and self.started:
            guard.flies(self._flight.device, self._of_guard())

    def _of_guard(self) -> guardeddevice.Flight:
        iova = self._flight.iova & self._device.mask
        return guardeddevice.Flight("write" if self._flight.to_memory else "read", iova, self._flight.size)

    def _leads_to(self) -> dict[int, int]:
        """By bus page of 4 KiB, the page in guest RAM to which the tables lead."""
        flight, out = self._flight, {}
        first = flight.iova & self._device.mask
        for page in range(first >> window.PAGE_SHIFT, (first + max(flight.size, 1) - 1 >> window.PAGE_SHIFT) + 1):
            ioba = page << window.PAGE_SHIFT
            for liobn in (self._phb.liobn, self._phb.liobn | 1):
                if (frame := self._frame(liobn, ioba)) is not None:
                    out[ioba] = frame
        return out

    def _frame(self, liobn: int, ioba: int) -> int | None:
        session = self._session
        at, shape = self._guest.log.tables.at.get(liobn), session.views.shape(liobn)
        if at is None or shape is None:
            return None
        index = ioba - shape.start >> shape.page_shift
        if not 0 <= index < shape.entries:
            return None
        (entry,) = session.views.live.entries(at, index, 1)
        inside = ioba - shape.start & (1 << shape.page_shift) - 1 & ~(window.PAGE_SIZE - 1)
        return tce.address(entry, shape.page_shift) + inside if tce.permissions(entry) else None

    def depart(self) -> None:
        """Start it. The guest runs before and after."""
        standstill = self._guest.standstill
        portal().call(standstill.begin())
        self.start()
        portal().call(standstill.end())

    def arrive(self) -> dict[str, Any]:
        """Wait for its end, and give what came of it. The guest runs before and after."""
        self.over()
        standstill = self._guest.standstill
        portal().call(standstill.begin())
        told = self.told()
        portal().call(standstill.end())
        return told

    def over(self) -> None:
        """Wait until it must be over: the guest runs."""
        guest = self._guest
        portal().call(guest.waiter.run(_passed(guest), "control", guest.limits.control + TIME))

    def told(self) -> dict[str, Any]:
        """What came of it, as the outcome of its event tells it: `tcelab.run.flown.Flown`. Nobody else has touched the
        pages since.
        """
        guest = self._guest
        guest.log.drain()
        own: list[Refusal] = []
        others = [*self._earlier]
        for refusal in guest.log.take_refusals():
            (own if self._is_own(refusal) else others).append(refusal)
        guest.log.carry(tuple(others))
        after = guest.ram.pages(self._frames.values())
        pages = [flown_page(*place, self._before[place[1]], after[place[1]]) for place in sorted(self._frames.items())]
        return Flown(self.started, [(each.address, each.size) for each in own], pages).fields()

    def _is_own(self, refusal: Refusal) -> bool:
        flight = self._of_guard()
        shapes = (self._session.views.shape(liobn) for liobn in (self._phb.liobn, self._phb.liobn | 1))
        starts = {0, self._phb.window_start, window.SECOND_START, *(each.start for each in shapes if each is not None)}
        return refusal.direction == flight.direction and any(
            flight.iova - start < refusal.address + max(refusal.size, 1)
            and refusal.address < flight.iova + flight.size - start
            for start in starts
        )


async def _started(guest: Guest, phb: Phb, device: Device, flight: Flight, *, masters: bool) -> bool:
    known = GuardedDevice(device, GuardedPe(phb))
    for offset in (COMMAND, BARS[device.model]):
        known.configured(offset, await guest.qtest.read_config(*known.register(offset)))
    if known.address is None:
        return False
    wanted = known.command | MEMORY | (MASTER if masters else 0)
    if wanted != known.command:
        await guest.qtest.write_config(*known.register(COMMAND), wanted)
    if await guest.qtest.load(known.address + edu.COMMAND, 8) == edu.ALL_ONES:
        return False  # its PE is isolated: what is written where a ROM covers them is an access that went astray
    words = edu.words(flight.iova, flight.size, flight.offset, to_memory=flight.to_memory)
    for offset, value in words.items():
        await guest.qtest.store(known.address + offset, 8, value)
    return bool(await guest.qtest.load(known.address + edu.COMMAND, 8) & edu.RUN)


async def _passed(guest: Guest) -> None:
    """The guest's clock is the host's while it runs. QEMU's main loop answers the test port, and then does what is due:
    once it has answered twice, that was done.
    """
    await asyncio.sleep(TIME + _MORE)
    for _ in range(2):
        await guest.qtest.commands([f"read {_ENTRY:#x} 0x4"])


class HeldCpu:
    """After a reset, keeps the guest's first CPU where it begins, while the guest's clock goes on. The others wait to
    be started.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        (self._was,) = portal().call(guest.qtest.commands([f"read {_ENTRY:#x} 0x4"]))
        self._write(f"{STAY:#x}")

    def go(self) -> None:
        """Let it begin. The guest stands still."""
        self._write(self._was)

    def _write(self, word: str) -> None:
        portal().call(self._guest.qtest.commands([f"write {_ENTRY:#x} 0x4 {word}"]))
