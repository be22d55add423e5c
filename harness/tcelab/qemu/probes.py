"""The probes of one machine: PCI devices that live in this process, one server for each, on the loop.

QEMU reaches a probe through a socket that it inherits and that has no name. It waits for a reply to each message in the
middle of a hypercall, with its main lock held: so a server answers at once, and never waits for an answer of QEMU's
before that. Rules of QEMU 11.1 that are kept here and in `tcelab.program.topology`: two probes share a PHB; its window
is small, since each entry that a kernel empties at boot is a message.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tcelab.device.probe import Probe
from tcelab.device.vfio_user import Change, Server
from tcelab.errors import HarnessError
from tcelab.program.topology import Device, Topology
from tcelab.qemu.portal import portal
from tcelab.run.record import Apart, Run, Told

_COMPLAINTS: Final = ("vfio-user", "vfio_user", "unexpected reply", "unexpected FDs", "reply larger than", "short read")
"""What QEMU's client says on its standard error when it gives up on a server (hw/vfio-user/proxy.c), which changes
nothing for the guest: it goes on, and its messages are lost.
"""

_WARNING: Final = "warning:"
"""That there is no error recovery, for example: the device has no such interrupt."""


def option(device: Device, bus: str, descriptor: int, rom: int) -> list[str]:
    """The arguments that plug a probe in: only JSON has a place for a socket's address.

    :param rom: the descriptor of its ROM of ones, see `tcelab.qemu.rom`.
    """
    return [
        "-device",
        json.dumps(
            {
                "driver": "vfio-user-pci",
                "id": device.name,
                "bus": bus,
                "addr": f"{device.slot:#x}",
                "socket": {"type": "unix", "path": f"/proc/self/fd/{descriptor}"},
                "romfile": f"/proc/self/fd/{rom}",
            }
        ),
    ]


def in_rows(changes: Iterable[Change]) -> list[Run]:
    """Changes, those about what follows the one before joined."""
    out: list[Run] = []
    maps, first, size, count = False, 0, 0, 0
    for change in changes:
        if count and (change.maps, change.size, change.address) == (maps, size, first + count * size):
            count += 1
            continue
        if count:
            out.append(Run(maps, first, size, count))
        maps, first, size, count = change.maps, change.address, change.size, 1
    return [*out, Run(maps, first, size, count)] if count else out


class Probes:
    """:ivar servers: by the device's name, once they listen."""

    def __init__(self, topology: Topology, said: Path) -> None:
        """:param said: the file of QEMU's standard error."""
        self._phbs = {device.name: phb for phb in topology.phbs for device in phb.devices if device.model == "probe"}
        self._said = said
        self.servers: dict[str, Server] = {}

    def listen(self) -> dict[str, int]:
        """Make the servers; on the loop. The descriptor of each, for QEMU to inherit."""
        for name in self._phbs:
            self.servers[name] = Server(Probe(), hidden=True)
        return {name: server.descriptor or 0 for name, server in self.servers.items()}

    def probe(self, name: str) -> Probe:
        """:raise HarnessError: no such probe."""
        if name not in self.servers:
            raise HarnessError(f"{name} is no probe")
        device = self.servers[name].device
        assert isinstance(device, Probe)
        return device

    async def lost(self) -> str:
        """Wait until the link of one ends, and say why."""
        waits = {asyncio.ensure_future(server.ended()): name for name, server in self.servers.items()}
        if not waits:
            await asyncio.get_running_loop().create_future()
        try:
            (first, *_), _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        why = self.servers[waits[first]].why
        return f"the link of the probe {waits[first]} ended: {'closed' if why is None else why.message}"

    async def idle(self) -> None:
        """Wait until none has anything left to do that its registers told it; on the loop."""
        for name in self.servers:
            await self.probe(name).idle()

    async def at_rest(self, seconds: float) -> bool:
        """As `idle`, but False after so many seconds in which a page of a transfer was answered. A refused page of a
        transfer of 1 MiB is a thousand lines of QEMU's log.
        """
        before = self._asked()
        try:
            async with asyncio.timeout(seconds):
                await self.idle()
        except TimeoutError:
            if self._asked() != before:
                return False
            await self.idle()
        return True

    def _asked(self) -> int:
        return sum(self.probe(name).asked for name in self.servers)

    def told(self) -> tuple[Told, ...]:
        """What each has been told; the guest stands still.

        :raise HarnessError: a message may be missing.
        """
        return portal().call(self._told()) if self._phbs else ()

    def heard(self) -> dict[str, list[Run]]:
        """What each was told since the last call; the guest has answered what it was asked."""
        return portal().call(self._heard()) if self.servers else {}

    def apart(self) -> dict[str, list[Apart]]:
        """Pieces of transfers since the last call that were judged in two ways; the guest has answered."""
        return portal().call(self._apart()) if self.servers else {}

    async def _apart(self) -> dict[str, list[Apart]]:
        out = {}
        for name in self.servers:
            found, self.probe(name).apart = self.probe(name).apart, []
            if found:
                out[name] = [Apart(*each) for each in found]
        return out

    async def _heard(self) -> dict[str, list[Run]]:
        return {name: in_rows(server.device.maps.take()) for name, server in self.servers.items()}

    async def _told(self) -> tuple[Told, ...]:
        out = []
        if complaint := self.complaint():
            raise HarnessError(f"QEMU complains of a probe: {complaint}")
        for name, phb in self._phbs.items():
            server, probe = self.servers[name], self.probe(name)
            maps = probe.maps
            if server.connection is None or server.why is not None:
                raise HarnessError(f"the probe {name} has no link to QEMU")
            if maps.dropped:
                raise HarnessError(f"{maps.dropped} messages to the probe {name} were dropped, {maps.total} came")
            live = {at: (each.offset, each.flags, each.size) for at, each in maps.live.items()}
            out.append(Told(name, phb.index, live, maps.total, probe.judged))
        return tuple(out)

    def complaint(self) -> str:
        """The first line in which QEMU says that it gave up on a probe, empty if there is none."""
        lines = self._said.read_text(errors="replace").splitlines() if self._said.exists() else []
        return next(
            (line.strip() for line in lines if _WARNING not in line and any(map(line.__contains__, _COMPLAINTS))), ""
        )

    def close(self) -> None:
        """On the loop."""
        for server in self.servers.values():
            server.close()
