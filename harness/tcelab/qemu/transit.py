"""A guest's way into a file and out of it: QEMU's migration, with what QEMU itself leaves behind.

A base and its forks share RAM, and only the devices' state is moved (`tcelab.qemu.fork`). A guest that is saved whole
is moved with its RAM, each page at a place of its own, so that pages of zeros cost nothing (`mapped-ram`, QEMU
docs/devel/migration/mapped-ram.rst). Either way the configuration of an edu is put back by hand: QEMU does not save it
(hw/misc/edu.c has no vmstate). Its registers, its memory and a transfer under way are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from tcelab.errors import HarnessError, TcelabError
from tcelab.image.bases import SavedRegister
from tcelab.papr import window
from tcelab.program.topology import Topology
from tcelab.qemu.console import Console
from tcelab.qemu.disks import Disks
from tcelab.qemu.dmaapilog import DmaApi
from tcelab.qemu.limits import Limits
from tcelab.qemu.log import Log
from tcelab.qemu.probe import Abilities
from tcelab.qemu.qtest import Qtest
from tcelab.qemu.standstill import Standstill
from tcelab.qemu.waiter import GuestWaiter
from tcelab.run.record import Refusal

DEVICES: Final = ("events", "x-ignore-shared")
"""Capabilities of a migration that saves a base and loads a fork: report its end, leave RAM in place."""

WHOLE: Final = ("events", "mapped-ram")
"""Those of one with RAM."""

ROM: Final = 0x30
_REGISTERS: Final = ((0x0C, 1), *((0x10 + 4 * bar, 4) for bar in range(6)), (ROM, 4), (0x3C, 1), (0x04, 2))
"""(offset, size) of what a kernel writes into a configuration header, the command last: not in an edu's state."""

_PROMPT: Final = "tcelab#"
_PUT_OFF: Final = 0.5
"""Seconds for which an idle kernel may defer work (delayed work, RCU callbacks)."""

_ANY_SPEED: Final = 1 << 40
"""Bytes per second: QEMU saves 128 MiB a second unless it is told."""
_BLOCK: Final = 512
"""Bytes of a block, as the host counts those of a file."""

Execute = Callable[[str, dict[str, object]], Awaitable[object]]


def impossible(abilities: Abilities, cpus: int) -> dict[str, str]:
    """Events that this QEMU cannot go through with a guest of so many CPUs, by the operation's name, and why."""
    if cpus > 1 and not abilities.all_cpus_go_on:
        why = f"QEMU {abilities.version} loads a guest with several CPUs, and only the first goes on"
        return dict.fromkeys(("Save", "Load"), why)
    if abilities.mapped_ram:
        return {}
    why = f"QEMU {abilities.version} cannot save a guest whole: its migration knows no mapped-ram, which 9.0 brought"
    return dict.fromkeys(("Save", "Load"), why)


@dataclass(slots=True)
class SavedGuest:
    """A guest that was saved whole: what another QEMU begins with, and what of the harness's own goes with it.

    :ivar stream: descriptor of the file; `size`: its bytes, holes not counted.
    :ivar windows: shapes of the windows that RTAS created, by LIOBN.
    :ivar began: when its session began, by the loop's clock; `boot`: number of its boot.
    :ivar refusals: of QEMU's, which nobody has taken yet.
    """

    stream: int
    size: int
    registers: list[SavedRegister]
    windows: dict[int, window.Shape]
    console: Console
    disks: Disks
    dma_api: DmaApi
    began: float
    boot: int
    refusals: tuple[Refusal, ...] = ()


class Transit:
    """Of one QEMU; lives on the loop."""

    def __init__(self, execute: Execute, qtest: Qtest, topology: Topology) -> None:
        self._execute, self._qtest, self._topology = execute, qtest, topology
        self._moved: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def heard(self, status: str) -> None:
        """QEMU reports the status of a migration."""
        if status in {"completed", "failed"} and not self._moved.done():
            self._moved.set_result(status)

    async def move(self, command: str, file: int, capabilities: Sequence[str]) -> None:
        """Save to, or load from, a file by its descriptor, which QEMU has inherited.

        :raise HarnessError: QEMU cannot.
        """
        self._moved = asyncio.get_running_loop().create_future()
        names = dict.fromkeys((*capabilities, "x-ignore-shared"))
        told = [{"capability": name, "state": name in capabilities} for name in names]
        await self._execute("migrate-set-capabilities", {"capabilities": told})
        await self._execute("migrate-set-parameters", {"max-bandwidth": _ANY_SPEED})
        await self._execute(command, {"uri": f"file:/proc/self/fd/{file}"})
        if await self._moved != "completed":
            why = msgspec.convert(await self._execute("query-migrate", {}), dict[str, Any])
            raise HarnessError(f"QEMU's {command} failed: {why.get('error-desc', 'it does not say why')}")

    async def registers(self) -> list[SavedRegister]:
        """What the state lacks, of a guest that stands still."""
        out = []
        for phb in self._topology.at_start.added:
            for device in phb.devices:
                for offset, size in _REGISTERS:
                    place = window.buid(phb.index), device.slot, offset, size
                    # An untouched device has zeros there.
                    if value := await self._qtest.read_config(*place):
                        out.append(SavedRegister(*place, value))
        return out

    async def put_back(self, registers: Iterable[SavedRegister]) -> None:
        """:raise HarnessError: a device does not take its register back."""
        for register in registers:
            place = register.buid, register.slot, register.offset, register.size
            await self._qtest.write_config(*place, register.value)
            seen = await self._qtest.read_config(*place)
            if seen != register.value:
                raise HarnessError(
                    f"slot {register.slot} of PHB {register.buid:#x} does not take its register {register.offset:#x}"
                    f" back: {register.value:#x} written, {seen:#x} read"
                )


class MovedGuest(Protocol):
    """What is moved with a guest, or put right: see `tcelab.qemu.guest.Guest`."""

    state: int
    transit: Transit
    log: Log
    console: Console
    disks: Disks
    dma_api: DmaApi
    waiter: GuestWaiter
    standstill: Standstill
    limits: Limits


async def rest(guest: MovedGuest) -> None:
    """Wait until a guest is idle: work that is pending when the base is saved is done again by every fork.

    Waits for init's prompt, which another init may never print, and then for work that the kernel deferred, which
    nothing reports. Neither is an error.
    """

    async def prompt() -> None:
        while _PROMPT not in "".join(guest.console.tail(1)):
            guest.waiter.activity.clear()
            await guest.waiter.activity.wait()

    with contextlib.suppress(TcelabError):
        await guest.waiter.run(prompt(), "settle", guest.limits.settle)
    await asyncio.sleep(_PUT_OFF)


async def save_devices(guest: MovedGuest) -> tuple[bytes, list[SavedRegister]]:
    """The device state of a stopped guest, and the registers that this state lacks.

    :raise HarnessError: QEMU cannot save it.
    """
    registers = await guest.transit.registers()
    os.ftruncate(guest.state, 0)
    await guest.transit.move("migrate", guest.state, DEVICES)
    return os.pread(guest.state, os.fstat(guest.state).st_size, 0), registers


async def save(guest: MovedGuest, *, guarded: bool) -> SavedGuest:
    """A guest that stands still, with its RAM. Until another QEMU has it, this one can still go on.

    :param guarded: a ROM that lies over registers is the guard's, who looks at the registers before he lays it again.
    :raise HarnessError: QEMU cannot save it.
    """
    registers = await guest.transit.registers()
    os.ftruncate(guest.state, 0)
    await guest.transit.move("migrate", guest.state, WHOLE)
    return SavedGuest(
        stream=os.dup(guest.state),
        size=os.fstat(guest.state).st_blocks * _BLOCK,
        registers=[each for each in registers if each.offset != ROM or not guarded],
        windows=dict(guest.log.tables.shapes),
        console=guest.console,
        disks=guest.disks,
        dma_api=guest.dma_api,
        began=guest.waiter.began,
        boot=guest.waiter.boot,
        refusals=guest.log.take_refusals(),
    )


async def take_in(guest: MovedGuest, saved: SavedGuest) -> None:
    """Have a fresh QEMU begin where a guest was saved, and stand still: much of the harness's is still to be put right.

    :raise HarnessError: QEMU cannot.
    """
    guest.log.tables.shapes.update(saved.windows)
    guest.log.carry(saved.refusals)
    guest.waiter.began, guest.waiter.boot, guest.waiter.handshake_done = saved.began, saved.boot, True
    await guest.transit.move("migrate-incoming", saved.stream, WHOLE)
    await guest.transit.put_back(saved.registers)
    await guest.standstill.adopt()
