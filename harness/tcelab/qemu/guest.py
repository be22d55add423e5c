"""A running QEMU and its guest, as the loop sees them: start, watchers, requests, end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from qemu.qmp import ExecuteError, QMPError, Runstate

from tcelab.errors import HarnessError, TcelabError
from tcelab.image.bases import Held, SavedRegister
from tcelab.program.topology import Device, Phb
from tcelab.qemu import devicewords, machine, nested, rom, transit
from tcelab.qemu.channel import AgentChannel
from tcelab.qemu.console import Console
from tcelab.qemu.dimms import GrowingRam
from tcelab.qemu.disks import Disks
from tcelab.qemu.dmaapilog import DmaApi
from tcelab.qemu.limits import Limits
from tcelab.qemu.log import Log
from tcelab.qemu.monitor import Monitor
from tcelab.qemu.probe import Abilities, Qemu
from tcelab.qemu.probes import Probes
from tcelab.qemu.qtest import CLOSED as CLOSED_PORT
from tcelab.qemu.qtest import Qtest
from tcelab.qemu.ram import MIB, PrivateRam, SharedRam
from tcelab.qemu.restarts import Restarts
from tcelab.qemu.spawn import spawned
from tcelab.qemu.standstill import Standstill, host_shares
from tcelab.qemu.transit import SavedGuest, Transit
from tcelab.qemu.waiter import AGENT_EXITED, CLOSED, NO_AGENT, WATCHER, GuestWaiter

T = TypeVar("T")

_CONSOLE_CHUNK: Final = 1 << 16


class Guest:
    """Made by `start`; ends with `close`. Everything here runs on the loop, except the constructor.

    :ivar console: what the guest wrote.
    :ivar disks: of its devices.
    :ivar restarts: when its kernel is meant to end, and another one to come up.
    :ivar deleted: names of devices and PHBs that QEMU says are gone.
    :ivar on_event: is told each event of QEMU's, with its data.
    :ivar waiter: what every wait goes through; `standstill`: what every stop goes through.
    """

    def __init__(
        self,
        qemu: Qemu,
        abilities: Abilities,
        options: machine.QemuOptions,
        limits: Limits,
        folder: Path,
        *,
        base: Held | None = None,
        saved: SavedGuest | None = None,
    ) -> None:
        """:param base: what to fork; `saved`: what to take in; None: boot.
        :raise Unsupported: no room for guest RAM, or this QEMU cannot.
        """
        machine.check(abilities, options.topology, options.cpu)
        self._qemu, self._abilities, self._options, self._base, self._saved = qemu, abilities, options, base, saved
        self.limits, self.folder = limits, folder
        size = options.memory * MIB
        ram = SharedRam(size) if base is None else PrivateRam(base.ram, size)
        self.ram = GrowingRam(ram, slots=options.topology.slots)
        self.cover = options.cover.guest()
        self.state = os.memfd_create("tcelab-state", os.MFD_CLOEXEC)
        self.disks = Disks(options.topology) if saved is None else saved.disks
        self.dma_api = DmaApi() if saved is None else saved.dma_api
        self.console = Console(folder / "console.log", None if saved is None else saved.console)
        if base is not None:
            # The boot messages belong to the fork as well: a warning among them is a finding of the fork.
            self.console.feed(base.console, 0.0)
            self.console.heard.forked(base.record.conduct)
        self.probes = Probes(options.topology, folder / "qemu.err")
        self._said = (folder / "qemu.err").open("w+b")
        self._qmp = Monitor("tcelab")
        self.standstill = Standstill(self.qmp, self._not_only_stopped)
        self.restarts = Restarts()
        self.deleted: set[str] = set()
        self.on_event: Callable[[str, dict[str, Any]], None] = lambda *_: None
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._closer: asyncio.Future[None] | None = None
        self._starting: asyncio.Task[Any] | None = None

    # -- the beginning

    async def start(self) -> None:
        """Spawn QEMU and reach its monitor.

        :raise HarnessError: QEMU does not start; with what it said.
        """
        self.waiter = GuestWaiter(self.console, self.folder, self.limits)
        self._starting = asyncio.current_task()
        if self._closing:
            raise HarnessError("closed before it began")
        pairs = {name: socket.socketpair() for name in nested.sockets(self._options.topology)}
        self.ends = {name: own for name, (own, _) in pairs.items()}
        log_reader, log_writer = os.pipe2(os.O_CLOEXEC)
        self.log = self.waiter.log = Log(log_reader, self.folder / "qemu.log", self.console.heard)
        self.channel = AgentChannel(pairs["agent"][0])
        self.qtest = Qtest(pairs["qtest"][0], self.ram.size - machine.SCRATCH)
        self.transit = Transit(self._execute, self.qtest, self._options.topology)
        self._console_end = pairs["console"][0]
        self._console_end.setblocking(False)  # noqa: FBT003 - its only parameter
        self._fds = fds = machine.Descriptors(
            **{name: pair[1].fileno() for name, pair in pairs.items()},
            log=log_writer,
            ram=self.ram.fd,
            state=self.state,
            roms={model: rom.ones(model) for model in rom.SIZES.keys() & self._options.topology.models},
            disks=self.disks.files,
            dma_api=self.dma_api.file if self._options.topology.driven else None,
            base=None if self._base is None else self._base.state,
            stream=None if self._saved is None else self._saved.stream,
            dimms=tuple(self.ram.free),
            coverage=self.cover.fd,
            probes=self.probes.listen(),
        )
        try:
            self._process = await self._spawn(fds)
        finally:
            os.close(log_writer)
            for _, theirs in pairs.values():
                theirs.close()
            if not hasattr(self, "_process"):
                pairs["qmp"][0].close()
        for watch in (self._watch_exit, self._watch_qtest, self._watch_probes):
            self._watch(watch())
        self._console_task = self._watch(self._watch_console())
        self.waiter.listen, self.waiter.shares = self._listen, partial(host_shares, self.pid)
        await self.waiter.run(self._qmp.connect(pairs["qmp"][0]), "launch", self.limits.launch)
        self._watch(self._watch_events())
        self.ram.attach(self.pid)
        if self._base is not None:
            await self.waiter.run(self._load(self._base), "load", self.limits.load)
        if self._saved is not None:
            await self.waiter.run(transit.take_in(self, self._saved), "load", self.limits.load)

    async def _spawn(self, fds: machine.Descriptors) -> asyncio.subprocess.Process:
        return await spawned(self._qemu, self._abilities, self._options, fds, self.folder, self._said)

    async def _load(self, base: Held) -> None:
        """Begin where the base was saved, and let it go on."""
        self.log.tables.shapes.update(base.record.windows)
        await self.transit.move("migrate-incoming", base.state, transit.DEVICES)
        await self.transit.put_back(base.record.registers)
        await self._execute("cont", {})

    async def rest(self) -> None:
        """Wait until the guest is idle, as `transit.rest` says."""
        await transit.rest(self)

    async def save(self) -> tuple[bytes, list[SavedRegister]]:
        """See `transit.save_devices`."""
        return await self.waiter.run(transit.save_devices(self), "load", self.limits.load)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _watch(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._watched)
        self._tasks.append(task)
        return task

    def _watched(self, task: asyncio.Task[None]) -> None:
        """When a watcher fails, the guest counts as lost."""
        if not task.cancelled() and not self._closing and task.exception() is not None:
            self.waiter.lose(f"{WATCHER} failed: {task.exception()}")

    async def _watch_exit(self) -> None:
        status = await self._process.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self.waiter.gone = True
        self.waiter.lose(f"QEMU {how}")

    async def _watch_qtest(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self.qtest.listen()
        await self._unless_it_ended(CLOSED_PORT)

    async def _watch_console(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._console_end, _CONSOLE_CHUNK):
            self.heard(data)
        await self._unless_it_ended(f"{WATCHER} of the console met its end")

    async def _watch_probes(self) -> None:
        await self._unless_it_ended(await self.probes.lost())

    async def _unless_it_ended(self, why: str) -> None:
        """QEMU closes all when it ends, and then its exit is what counts."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.waiter.lost), self.limits.settle)
        self.waiter.lose(why)

    def heard(self, data: bytes) -> None:
        """Take bytes from the console."""
        self.console.feed(data, self.waiter.elapsed())
        self.waiter.activity.set()
        if self.console.fatal:
            self.waiter.lose(f"the guest's kernel died: {self.console.fatal.strip()}")

    async def _watch_events(self) -> None:
        async for event in self._qmp.events:
            data = msgspec.convert(event.get("data", {}), dict[str, Any])
            match event["event"], data:
                case "GUEST_PANICKED", _:
                    self.waiter.panicked = True
                    self.waiter.lose("the guest's kernel panicked")
                case str() as name, _ if self.restarts.takes(name, data.get("reason")):
                    pass
                case "SHUTDOWN", _ if not self._closing:
                    self.waiter.lose(f"the guest shut down ({data.get('reason')})")
                case "DEVICE_DELETED", {"device": str(name)}:
                    await self._gone(name)
                case "MIGRATION", _:
                    self.transit.heard(data["status"])
                case "VSERPORT_CHANGE", {"id": "agent-port", "open": False}:
                    self.restarts.closed.set()
                    if not self.restarts.on:
                        self.waiter.lose("the agent ended")
            self.on_event(str(event["event"]), data)
            self.waiter.activity.set()

    async def _gone(self, name: str) -> None:
        """A device, or a PHB, is gone. What the log still tells of its tables must not be taken for news later."""
        await asyncio.to_thread(self.log.drain)
        for phb in (each for each in self._options.topology.added if name == f"phb{each.index}"):
            self.log.tables.unplugged(phb.index)
        self.deleted.add(name)

    # -- asking

    async def command(self, command: str, **arguments: object) -> object:
        """A QMP command within a wait of the caller's.

        :raise HarnessError: QEMU refuses it.
        """
        return await self._execute(command, arguments)

    async def plug(self, phb: Phb, device: Device | None) -> None:
        """Have QEMU plug a PHB in, or a device of it.

        :raise HarnessError: QEMU refuses.
        """
        await self.qmp("device_add", **devicewords.plugging(phb, device, self._fds))

    async def gone(self, name: str) -> None:
        """Wait until QEMU says that a device, or a PHB, is gone.

        :raise GuestLost: it does not, within the limit of the phase `unplug`.
        """

        async def told() -> None:
            while name not in self.deleted:
                self.waiter.activity.clear()
                await self.waiter.activity.wait()

        await self.waiter.run(told(), "unplug", self.limits.unplug)

    async def qmp(self, command: str, **arguments: object) -> object:
        """One QMP command, within the limit of the phase `control`.

        :raise HarnessError: QEMU refuses it.
        """
        return await self.waiter.run(self._execute(command, arguments), "control", self.limits.control)

    async def _execute(self, command: str, arguments: dict[str, object]) -> object:
        try:
            return await self._qmp.execute(command, arguments or None)
        except ExecuteError as error:
            raise HarnessError(f"QEMU refuses {command}: {error}", next_step="see qemu.err there") from None

    async def _not_only_stopped(self, status: str) -> TcelabError:
        """QEMU reports why a guest that nobody stopped does not run; the event with the details is still to come."""
        await self._unless_it_ended(f"the guest is {status}")
        return await self.waiter.loss()

    async def trouble(self) -> tuple[str, ...]:
        """Lines of kernel trouble since the last call, up to now: the guest writes its console synchronously."""
        while not self._console_task.done() and select.select([self._console_end], [], [], 0)[0]:  # noqa: ASYNC110
            await asyncio.sleep(0)  # let the watcher run, which reads
        await asyncio.sleep(0)  # and hears a turn later
        return self.console.take_trouble()

    async def _listen(self) -> None:
        """Read what is left in the console, even while it is lent: no other reader gets anything from a lost guest."""
        with contextlib.suppress(OSError):
            while data := self._console_end.recv(_CONSOLE_CHUNK):
                self.heard(data)

    async def restart(self, ask: Coroutine[Any, Any, object] | None = None) -> None:
        """Await `ask`, by default system_reset, and then the reset, or that the guest asks for it: phase `restart`."""
        leave = self.restarts.leave(ask or self._execute("system_reset", {}))
        await self.waiter.run(leave, "restart", self.limits.restart)

    async def hello(self, request: bytes, *, booting: bool | None = None, closes: bool = False) -> bytes:
        """The handshake: answered when the agent is up. The console's bytes are the progress of the boot.

        :param booting: a kernel comes up; by default unless a fork goes on where its base stood.
        :param closes: ask once the agent before has lost its port.
        """

        async def ask() -> bytes:
            await (self.restarts.closed.wait() if closes else asyncio.sleep(0))
            return await self.channel.ask(request)

        if not (self._base is None if booting is None else booting):
            return await self.waiter.run(self.channel.ask(request), "fork", self.limits.fork)
        limits = self.limits.boot, lambda: self.console.size, self.limits.whole_boot
        return await self.waiter.run(self._no_agent_or(ask()), "boot", *limits)

    async def _no_agent_or(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, unless the guest's init says that there will be no agent."""
        task = asyncio.ensure_future(work)
        try:
            while True:
                activity = asyncio.ensure_future(self.waiter.activity.wait())
                await asyncio.wait({task, activity}, return_when=asyncio.FIRST_COMPLETED)
                activity.cancel()
                if task.done():
                    return task.result()
                self.waiter.activity.clear()
                if line := self.console.find(NO_AGENT, AGENT_EXITED):
                    raise HarnessError(
                        line.strip(),
                        next_step="an initrd comes from tcelab image build, the modules of a kernel from --modules",
                    )
        finally:
            task.cancel()

    async def ask(self, request: bytes, progress: Callable[[], object]) -> bytes:
        """One request to the agent."""
        return await self.waiter.run(self.channel.ask(request), "perform", self.limits.perform, progress)

    async def lend_console(self) -> int:
        """Stop reading the console and hand out its descriptor. The reader passes what it reads to `heard`."""
        self._console_task.cancel()
        await asyncio.gather(self._console_task, return_exceptions=True)
        return self._console_end.fileno()

    async def take_console_back(self) -> None:
        """Read the console again."""
        self._console_task = self._watch(self._watch_console())

    # -- the end

    async def close(self) -> None:
        """End QEMU, and let go of everything. May be called at any time, also twice; goes on when it is cancelled."""
        if self._closer is None:
            self._closer = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closer)

    async def _close(self) -> None:
        self._closing = True
        if (waiter := getattr(self, "waiter", None)) is not None:
            waiter.lose(CLOSED)
        if self._starting is not None and self._starting is not asyncio.current_task():
            # The guest was closed meanwhile, and must not leave a QEMU behind.
            await asyncio.wait({self._starting}, timeout=self.limits.close)
        process = getattr(self, "_process", None)
        if process is not None and process.returncode is None:
            # A fork, or a QEMU whose guest another one has, saves nothing; one that was never reached cannot be asked.
            if self._base is None and hasattr(self, "disks") and self._qmp.runstate is Runstate.RUNNING:
                with contextlib.suppress(QMPError, OSError, TimeoutError):
                    await asyncio.wait_for(self._qmp.execute("quit"), self.limits.close)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), self.limits.close)
            if process.returncode is None:
                process.kill()
                await process.wait()
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._qmp.disconnect()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._let_go()

    def _let_go(self) -> None:
        parts = "cover log channel qtest _console_end console ram disks dma_api probes _said"
        for part in (*(getattr(self, name, None) for name in parts.split()), self.__dict__.get("ends", {}).get("gdb")):
            if part is not None:
                part.close()
        os.close(self.state)
