"""Memory that is plugged in and pulled: QEMU tells the guest, whose kernel does all the rest by itself.

QEMU says when memory is gone (DEVICE_DELETED), or that the guest keeps it. That the guest has taken memory only the
guest knows: its kernel maps memory before it has it online (arch/powerpc/platforms/pseries/hotplug-memory.c).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from tcelab.errors import HarnessError
from tcelab.program import MemoryAdd, MemoryRemove
from tcelab.program.lifeops import KEPT
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession
from tcelab.qemu.ram import MIB
from tcelab.run.record import Outcome

_KEEPS: Final = frozenset({"DEVICE_UNPLUG_GUEST_ERROR", "MEM_UNPLUG_ERROR"})
"""Events by which QEMU says that the guest gives nothing back: the second is of QEMU up to 9."""


def _names(dimm: str) -> tuple[str, str]:
    """QEMU's, of the memory and of what is behind it."""
    return f"dimm-{dimm}", f"dimm-{dimm}-ram"


def add(session: QemuSession, op: MemoryAdd) -> Outcome:
    """QMP object-add and device_add; then wait until the guest has it."""
    guest, size = session.guest, op.mib * MIB
    device, backend = _names(op.dimm)
    before = session.counter("memory")
    path = f"/proc/self/fd/{guest.ram.take(op.dimm, size)}"
    behind = {"qom-type": "memory-backend-file", "id": backend, "size": size, "mem-path": path, "share": True}
    portal().call(guest.qmp("object-add", **behind))
    portal().call(guest.qmp("device_add", driver="pc-dimm", id=device, memdev=backend))
    address = _address(session, device)
    guest.ram.plug(op.dimm, address)
    session.await_counter("memory", before + op.mib)
    return Outcome(value=0, fields={"address": address, "size": size})


def _address(session: QemuSession, device: str) -> int:
    known: Any = portal().call(session.guest.qmp("query-memory-devices"))
    for each in known:
        if each["data"].get("id") == device:
            return int(each["data"]["addr"])
    raise HarnessError(f"QEMU does not know its {device}", scene=session.scene())


def remove(session: QemuSession, op: MemoryRemove) -> Outcome:
    """QMP device_del; then wait until it is gone, or kept. Memory that is kept is online again: EBUSY."""
    guest = session.guest
    device, backend = _names(op.dimm)
    before = session.counter("memory")
    if not portal().call(guest.waiter.run(_pulled(session, device), "plug", guest.limits.plug)):
        session.await_counter("memory", before)
        return Outcome(errno=KEPT)
    portal().call(guest.qmp("object-del", id=backend))
    size = guest.ram.unplug(op.dimm)
    session.await_counter("memory", before - size // MIB)
    return Outcome(value=0)


async def _pulled(session: QemuSession, device: str) -> bool:
    """Pull it. Returns whether it is gone, once QEMU has said so or that it is kept."""
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def heard(event: str, data: dict[str, Any]) -> None:
        gone = event == "DEVICE_DELETED"
        if (gone or event in _KEEPS) and data.get("device") == device and not ended.done():
            ended.set_result(gone)

    session.guest.on_event = heard
    await session.guest.command("device_del", id=device)
    return await ended
