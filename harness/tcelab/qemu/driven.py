"""A guest whose devices belong to the kernel's own drivers, for leak checks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, cast

from tcelab.errors import Unsupported
from tcelab.leakcheck import trace
from tcelab.program import Checkpoint, GuestOp
from tcelab.program.topology import KERNEL_DRIVERS, SPARE, Topology
from tcelab.qemu import machine
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession
from tcelab.qemu.typist import CommandEnded, Typist
from tcelab.run.record import Snapshot
from tcelab.scenarios import vocabulary as b

_SHORT: Final = 64
"""Bytes of the one DMA that must be refused."""

_GIVEN_UP: Final = re.compile(
    r": (virtio|virtqueue|cannot map|guest (moved|says)|(looped|incorrect order for) desc|desc next|invalid size for)",
    re.IGNORECASE,
)
"""QEMU gave up a virtio device because its queue led to memory that cannot be mapped, or to no valid request. Its
driver then waits for ever. QEMU logs nothing about a piece that it refuses to map (QEMU hw/virtio/virtio.c,
virtqueue_map_desc and virtio_error). Asking QEMU for the device's state instead is not possible: not every QEMU
survives that.
"""

_SHELL: Final = 30.0
"""Seconds until the shell must be there. It comes a second after the agent."""


class DrivenGuest:
    """See `tcelab.leakcheck.check.LeakGuest`."""

    def __init__(self, session: QemuSession, topology: Topology) -> None:
        """:raise HarnessError: there is no shell at its console."""
        self._session = session
        self._typist = Typist(session, _SHELL)
        self.ram = machine.usable(session.facts.ram)
        self.page_size = session.facts.page_size
        self.devices = {
            phb.liobn: device for phb in topology.phbs for device in phb.devices if device.model in KERNEL_DRIVERS
        }

    def sees_refusals(self) -> bool:
        """See `LeakGuest.sees_refusals`: the spare device writes where its table has no entry."""
        pe = b.Pe(SPARE, "control")
        begin = [*b.bind(pe), *b.open_container(pe), *b.enable(pe), *b.open_device(pe)]
        ops = [*begin, *b.dma(pe, 0, _SHORT, to_memory=True), *b.let_go(pe)]
        self._session.perform(cast("list[GuestOp]", ops))
        log = self._session.guest.log
        log.drain()
        seen = bool(log.take_refusals())
        self._session.renew()
        return seen

    def look(self, cut: Callable[[], None]) -> Snapshot:
        """See `LeakGuest.look`."""
        guest = self._session.guest
        portal().call(guest.standstill.begin())
        try:
            guest.log.drain()
            cut()
            snapshot = self._session.intervene(Checkpoint(stream=True), ())
        finally:
            portal().call(guest.standstill.end())
        assert isinstance(snapshot, Snapshot)
        return snapshot

    def listen(self, hear: Callable[[str], None]) -> None:
        """See `LeakGuest.listen`.

        :raise Unsupported: QEMU has no such trace.
        """
        guest = self._session.guest
        guest.log.tables_listener = hear
        for event in trace.EVENTS:
            known = portal().call(guest.qmp("trace-event-get-state", name=event))
            if not isinstance(known, list) or not known or known[0]["state"] == "unavailable":
                raise Unsupported(f"this QEMU cannot trace {event}: nothing would tell where an entry comes from")
            portal().call(guest.qmp("trace-event-set-state", name=event, enable=True))

    def asked(self) -> bytes:
        """See `LeakGuest.asked`."""
        return self._session.guest.dma_api.read()

    def last_words(self) -> tuple[str, ...]:
        """See `LeakGuest.last_words`."""
        log = self._session.guest.log
        log.drain()
        said = (self._session.folder / "qemu.err").read_text(errors="replace").splitlines()
        given_up = [line for line in said if _GIVEN_UP.search(line)]
        return (*(refusal.line for refusal in log.take_refusals()), *given_up)

    def run(self, command: str, limit: float, meanwhile: Callable[[], None] | None = None) -> CommandEnded | None:
        """See `LeakGuest.run`."""
        return self._typist.run(command, limit, meanwhile)
