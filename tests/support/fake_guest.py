"""What a session needs of a running guest, without QEMU: it notes every call in order and fails where it is told."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import Collection, Coroutine
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np

from tcelab.coverage.cover import NOTHING
from tcelab.errors import Scene
from tcelab.image.bases import SavedRegister
from tcelab.papr.window import Shape
from tcelab.qemu.channel import Cell
from tcelab.qemu.conduct import Heard
from tcelab.qemu.limits import Limits
from tcelab.qemu.probe import LOG_FLAGS, TRACES, Abilities
from tcelab.qemu.tableaddresses import TableAddresses
from tcelab.qemu.views.stream import MAGIC
from tcelab.run.record import TableView

CELL = 0x3000
RAM = 0x10000
NOW = Scene("perform", 1.5, ["last line"])
HELLO = {
    "protocol": 1,
    "digest": "d" * 64,
    "cell": CELL,
    "page_size": 4096,
    "huge": 2 << 20,
    "kernel": "6.12",
    "version": "#1",
    "machine": "ppc64le",
    "python": "3.11",
    "cmdline": "console=hvc0",
    "modules": ["vfio"],
    "clock": 1000.0,
    "drawn": "5a" * 16,
}


def abilities(**changes: Any) -> Abilities:
    """Those of a QEMU that can do everything."""
    can: dict[str, Any] = {
        "version": "9.9.9",
        "edu": True,
        "vof": True,
        "exit_with_parent": True,
        "traces": TRACES,
        "log_flags": LOG_FLAGS,
        "device_state": True,
        "private_ram": True,
        "cpus": ("power10", "power11", "power8", "power9"),
        "firmware_sha256": {"slof.bin": "f" * 64, "vof.bin": "0" * 64},
    }
    return Abilities(**can | changes)


def section(liobn: int, words: list[int]) -> bytes:
    """A table as QEMU saves it."""
    head = b"\x04\x00\x00\x00\x07\x0bspapr_iommu" + struct.pack(">IIIIB", liobn, 3, liobn, len(words), 0)
    return head + struct.pack(f">{len(words)}Q", *words) + b"\x01\x7e\x00\x00\x00\x07"


class FakeGuest:
    """Takes the place of the class `Guest` and of its only object.

    :ivar calls: names of all calls, in order.
    :ivar fail: call name to the error that it ends with.
    :ivar answers: what the agent answers to its requests, in order; an error is raised. The id is filled in.
    :ivar saved: the state stream.
    :ivar registers: what `save` gives beside it.
    :ivar clock_off: seconds by which a clock that was set is wrong.
    """

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.fail: dict[str, BaseException] = {}
        self.answers: list[Any] = []
        self.hello_is: dict[str, Any] = dict(HELLO)
        self.saved = MAGIC
        self.state_sizes: list[int] = []
        self.memory = bytearray(RAM)
        self.begun = (0, 0)
        self.words: list[str] = []
        self.registers: list[SavedRegister] = []
        self.clock_off = 0.0
        self.cover = NOTHING.guest()
        self.refusals: list[Any] = []
        self.pid = 77
        self.state = os.memfd_create("fake-state")
        self.console = SimpleNamespace(reached={"kernel": 0.5}, heard=Heard())
        self.limits = Limits()
        self.waiter = SimpleNamespace(
            handshake_done=False, elapsed=lambda: 2.5, now=lambda: NOW, lost=Future(), run=self._run
        )
        self.log = SimpleNamespace(tables=TableAddresses(), drain=self._drain, take_refusals=self._take_refusals)
        self.ram = SimpleNamespace(size=RAM, read=self._read, pages=self._pages)
        self.standstill = SimpleNamespace(begin=self._begin, end=self._end)
        self.probes = SimpleNamespace(servers={}, heard=dict, apart=dict, told=tuple, at_rest=self._at_rest)
        self.disks = SimpleNamespace(read=lambda: {"disk1": b"on the disk"}, renew=lambda: self.calls.append("disks"))

    def __call__(
        self, qemu: Any, abilities: Abilities, options: Any, limits: Any, folder: Any, *, base: Any = None
    ) -> FakeGuest:
        self.made_of = (qemu, abilities, options, limits, folder)
        self.base = base
        return self

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail:
            raise self.fail[name]

    def _read(self, address: int, size: int) -> bytes | None:
        return bytes(self.memory[address : address + size]) if address + size <= RAM else None

    def _pages(self, addresses: Collection[int]) -> dict[int, bytes | None]:
        self.calls += [f"page {address:#x}" for address in addresses]
        return {address: self._read(address, 4096) for address in addresses}

    def _drain(self) -> None:
        self._note("drain")

    def _take_refusals(self) -> tuple[Any, ...]:
        self.calls.append("take_refusals")
        taken, self.refusals = tuple(self.refusals), []
        return taken

    async def start(self) -> None:
        self._note("start")

    async def close(self) -> None:
        self._note("close")

    async def _begin(self) -> None:
        self._note("pause")

    async def _end(self) -> None:
        self._note("cont")

    async def _run(self, waited: Coroutine[Any, Any, Any], _phase: str, _seconds: float) -> Any:
        return await waited

    async def _at_rest(self, _seconds: float) -> bool:
        self._note("at rest")
        return self.calls.count("at rest") > 1  # it is busy at first

    async def rest(self) -> None:
        self._note("rest")

    async def save(self) -> tuple[bytes, list[SavedRegister]]:
        self._note("save")
        return self.saved, self.registers

    async def trouble(self) -> tuple[str, ...]:
        self._note("trouble")
        taken, self.words = tuple(self.words), []
        return taken

    async def qmp(self, command: str, **arguments: Any) -> object:
        if command == "xen-save-devices-state":
            assert arguments == {"filename": f"/proc/self/fd/{self.state}"}
            self.state_sizes.append(os.fstat(self.state).st_size)
        self._note(command)
        if command == "xen-save-devices-state":
            os.pwrite(self.state, self.saved, 0)
        return {}

    async def hello(self, request: bytes, **_how: Any) -> bytes:
        self._note("hello")
        asked = json.loads(request)
        self.asked.append(asked)
        nonce = bytes.fromhex(asked["hello"]["nonce"])
        if self.hello_is.get("cell") == CELL:
            self.memory[CELL : CELL + Cell.FIELDS.size] = Cell.FIELDS.pack(Cell.MAGIC, nonce, *self.begun)
        answer = dict(self.hello_is)
        if (clock := asked["hello"].get("clock")) is not None:
            answer["clock"] = clock + self.clock_off
        return json.dumps({"id": asked["id"], "hello": answer}).encode()

    async def ask(self, request: bytes, progress: Any) -> bytes:
        self._note("ask")
        asked = json.loads(request)
        self.asked.append(asked)
        self.progress = progress()
        answer = self.answers.pop(0)
        await asyncio.sleep(0)
        if isinstance(answer, BaseException):
            raise answer
        return json.dumps({"id": asked["id"]} | answer).encode()

    def note_begun(self, request: int, operation: int) -> None:
        """What the agent writes into its cell."""
        self.memory[CELL + 24 : CELL + 40] = struct.pack("<QQ", request, operation)


class FakeMemory:
    """Takes the place of `LiveMemory`. `held`: table address to its entries, a number or an error for each."""

    def __init__(self, guest: FakeGuest) -> None:
        self.guest = guest
        self.held: dict[int, Any] = {}
        self.pid = 0
        self.shapes: dict[int, Shape] = {}
        self.closed = 0

    def __call__(self, pid: int) -> FakeMemory:
        self.pid = pid
        return self

    def table(self, liobn: int, at: int, shape: Shape) -> TableView:
        self.guest.calls.append(f"read {liobn:#x}")
        self.shapes[liobn] = shape
        live = self.held[at]
        if isinstance(live, BaseException):
            raise live
        numbers = np.array(sorted(live), np.uint32)
        return TableView(
            liobn, "live", shape.entries, numbers, np.array([live[i] for i in sorted(live)], np.uint64), *shape[1:]
        )

    def flip(self, at: int, index: int, bit: int) -> tuple[int, int]:
        self.guest.calls.append(f"flip {at:#x} {index} {bit}")
        before = self.held[at].get(index, 0)
        return before, before ^ (1 << bit)

    def close(self) -> None:
        self.closed += 1
