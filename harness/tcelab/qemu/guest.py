"""A running QEMU and the guest in it, as the loop sees them: spawn, events, one race for every wait, and the end.

Every wait belongs to a named phase with a limit of its own, and every wait also races all that can end a guest:
QEMU's exit, a panic, the agent's end, a shutdown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from qemu.qmp import QMPClient, QMPError

from tcelab.errors import GuestLost, HarnessError, Scene, TcelabError, Unsupported
from tcelab.qemu import machine
from tcelab.qemu.channel import Channel
from tcelab.qemu.console import Console
from tcelab.qemu.limits import Limits
from tcelab.qemu.log import Log
from tcelab.qemu.probe import Abilities, Qemu, environment
from tcelab.qemu.ram import MIB, Ram

T = TypeVar("T")

_AGENT_EXITED: Final = "tcelab-init: agent exited"
_PANIC: Final = "Kernel panic - not syncing"
_NO_AGENT: Final = "tcelab-init: no agent"
_CONSOLE_CHUNK: Final = 1 << 16
_LOOKS: Final = 8
"""How often within a limit progress is looked at: it makes no event."""

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # a QEMU that dies is reported by us, once


class Guest:
    """Made by `start`; ends with `close`. Everything here runs on the loop, except the constructor.

    :ivar console: what the guest wrote.
    :ivar shaken: the agent's handshake is done: from here on a kernel that dies is a finding.
    """

    def __init__(
        self, qemu: Qemu, abilities: Abilities, options: machine.Options, limits: Limits, folder: Path
    ) -> None:
        """:raise Unsupported: no room for guest RAM, or this QEMU cannot."""
        machine.check(abilities, options.topology)
        self._qemu, self._abilities, self._options = qemu, abilities, options
        self.limits, self.folder = limits, folder
        self.shaken = False
        self.ram = Ram(options.memory * MIB)
        self.state = os.memfd_create("tcelab-state", os.MFD_CLOEXEC)
        self.console = Console(folder / "console.log")
        self._said = (folder / "qemu.err").open("w+b")
        self._qmp = QMPClient("tcelab")
        self._closing = self._panicked = False
        self._phase, self._phase_began = "launch", 0.0
        self._tasks: list[asyncio.Task[None]] = []

    # -- the beginning

    async def start(self) -> None:
        """Spawn QEMU and reach its monitor.

        :raise HarnessError: QEMU does not start; with what it said.
        """
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self.began = self._phase_began = loop.time()
        self._lost: asyncio.Future[str] = loop.create_future()
        self._stirred = asyncio.Event()
        pairs = {name: socket.socketpair() for name in ("qmp", "console", "agent")}
        log_reader, log_writer = os.pipe2(os.O_CLOEXEC)
        self.log = Log(log_reader, self.folder / "qemu.log")
        self.channel = Channel(pairs["agent"][0])
        self._console_end = pairs["console"][0]
        self._console_end.setblocking(False)  # noqa: FBT003 - its only parameter
        fds = machine.Descriptors(
            **{name: pair[1].fileno() for name, pair in pairs.items()},
            log=log_writer,
            ram=self.ram.fd,
            state=self.state,
        )
        try:
            self._process = await self._spawn(fds)
        finally:
            os.close(log_writer)
            for _, theirs in pairs.values():
                theirs.close()
        self._watch(self._watch_exit())
        self._console_task = self._watch(self._watch_console())
        await self.race(self._qmp.connect(pairs["qmp"][0]), "launch", self.limits.launch)
        self._watch(self._watch_events())

    async def _spawn(self, fds: machine.Descriptors) -> asyncio.subprocess.Process:
        before, options = machine.parent_death(self._abilities)
        command = [*before, *self._qemu.argv]
        arguments = [*options, *machine.arguments(self._options, self._abilities, fds)]
        (self.folder / "qemu.cmd").write_text(machine.loggable(command, arguments) + "\n")
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                pass_fds=fds.all(),
                env=environment(self._qemu),
                start_new_session=True,  # Ctrl-C is the harness's to handle
            )
        except FileNotFoundError as error:
            raise Unsupported(f"cannot execute {error.filename}", next_step="install util-linux (setpriv)") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    # -- what is watched all the time

    def _watch(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        return task

    async def _watch_exit(self) -> None:
        status = await self._process.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._lose(f"QEMU {how}")

    async def _watch_console(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._console_end, _CONSOLE_CHUNK):
            self.heard(data)

    def heard(self, data: bytes) -> None:
        """Take bytes from the console."""
        self.console.feed(data, self._clock() - self.began)
        self._stirred.set()
        if self.console.fatal:
            self._lose(f"the guest's kernel died: {self.console.fatal.strip()}")

    async def _watch_events(self) -> None:
        async for event in self._qmp.events:
            data = msgspec.convert(event.get("data", {}), dict[str, Any])
            match event["event"], data:
                case "GUEST_PANICKED", _:
                    self._panicked = True
                    self._lose("the guest's kernel panicked")
                case "SHUTDOWN", _ if not self._closing:
                    self._lose(f"the guest shut down ({data.get('reason')})")
                case "VSERPORT_CHANGE", {"id": "agent-port", "open": False}:
                    self._lose("the agent ended")
            self._stirred.set()

    def _lose(self, why: str) -> None:
        if not self._lost.done():
            self._lost.set_result(why)
        self._stirred.set()

    # -- waiting

    async def race(
        self,
        work: Coroutine[Any, Any, T],
        phase: str,
        limit: float,
        progress: Callable[[], object] = lambda: None,
    ) -> T:
        """Await `work`, for as long as `progress()` changes within `limit` seconds and the guest lives.

        :raise GuestLost: it does not live any more, or went silent.
        :raise HarnessError: QEMU ended, or did not answer.
        """
        began = self._clock()
        self._phase, self._phase_began = phase, began
        task: asyncio.Future[T] = asyncio.ensure_future(work)
        waiting: set[asyncio.Future[Any]] = {task, self._lost}
        mark, moved = progress(), began
        try:
            while True:
                await asyncio.wait(waiting, timeout=limit / _LOOKS, return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    return task.result()
                if self._lost.done():
                    raise await self._loss(phase, began)
                if mark != (mark := progress()):
                    moved = self._clock()
                if self._clock() - moved >= limit:
                    raise self._late(phase, began, limit)
        except (QMPError, ConnectionError, EOFError, HarnessError) as error:
            raise await self._broken(phase, began, error) from None
        finally:
            task.cancel()
            with contextlib.suppress(BaseException):
                await task

    async def _broken(self, phase: str, began: float, error: Exception) -> TcelabError:
        """A connection broke or an answer was no answer: if that is because the guest is lost, say so instead."""
        if isinstance(error, TcelabError) and error.scene.phase:
            return error
        if not self._lost.done() and not isinstance(error, HarnessError):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._lost), self.limits.settle)
        if self._lost.done():
            return await self._loss(phase, began)
        scene = self.scene(phase, began)
        if isinstance(error, HarnessError):
            return HarnessError(error.message, next_step=error.next_step, scene=scene)
        return HarnessError(f"the connection to QEMU broke: {error}", next_step="see qemu.err there", scene=scene)

    async def _loss(self, phase: str, began: float) -> TcelabError:
        """What to raise once the guest is lost; waits a little for its last words."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.settle):
                while not self._last_words_said():
                    self._stirred.clear()
                    await self._stirred.wait()
        why = self._lost.result()
        scene = self.scene(phase, began)
        if self.console.fatal or "panicked" in why:
            last = self.console.fatal.strip() or why
            when = "" if self.shaken else " during boot"
            return GuestLost(
                f"the guest's kernel died{when}: {last}",
                next_step="console.log there has the whole trace",
                scene=scene,
                kernel_died=self.shaken,
            )
        if why.startswith("QEMU"):
            said = self._qemu_said()
            return HarnessError(f"{why}{': ' + said if said else ''}", next_step="see qemu.err there", scene=scene)
        return GuestLost(why, next_step="see console.log there", scene=scene)

    def _last_words_said(self) -> bool:
        """Nothing more is to come: QEMU is gone, or the console told how the kernel or the agent ended."""
        if self._process.returncode is not None:
            return True
        # QEMU stops a guest that panics, so it says no more than this.
        return bool(self.console.find(_AGENT_EXITED, *([_PANIC] if self._panicked else [])))

    def _late(self, phase: str, began: float, limit: float) -> TcelabError:
        scene = self.scene(phase, began)
        if phase in {"boot", "perform"}:
            what = "no agent came up" if phase == "boot" else "the agent stopped answering"
            return GuestLost(
                f"{what}: nothing happened for {limit:g} s",
                next_step=f"see console.log there; a slow machine needs --limit {phase}=SECONDS",
                scene=scene,
            )
        return HarnessError(
            f"QEMU did not answer within {limit:g} s",
            next_step=f"a slow machine needs --limit {phase}=SECONDS",
            scene=scene,
        )

    def scene(self, phase: str, began: float) -> Scene:
        return Scene(phase, self._clock() - began, self.console.tail(), self.folder)

    def now(self) -> Scene:
        """The phase that was begun last, for errors that come from outside."""
        return self.scene(self._phase, self._phase_began)

    def _qemu_said(self) -> str:
        lines = (self.folder / "qemu.err").read_text(errors="replace").splitlines()
        return " / ".join(lines[-3:])

    # -- asking

    async def qmp(self, command: str, **arguments: object) -> object:
        """One QMP command, within the limit of the phase `control`."""
        return await self.race(self._qmp.execute(command, arguments or None), "control", self.limits.control)

    async def hello(self, request: bytes) -> bytes:
        """The handshake: answered when the agent is up. The console's bytes are the progress of the boot."""
        return await self.race(
            self._no_agent_or(self.channel.ask(request)), "boot", self.limits.boot, lambda: self.console.size
        )

    async def _no_agent_or(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, unless the guest's init says that there will be no agent."""
        task = asyncio.ensure_future(work)
        try:
            while True:
                stirred = asyncio.ensure_future(self._stirred.wait())
                await asyncio.wait({task, stirred}, return_when=asyncio.FIRST_COMPLETED)
                stirred.cancel()
                if task.done():
                    return task.result()
                self._stirred.clear()
                if line := self.console.find(_NO_AGENT):
                    raise HarnessError(line.strip(), next_step="give an initrd made by tcelab image build")
        finally:
            task.cancel()

    async def ask(self, request: bytes, progress: Callable[[], object]) -> bytes:
        """One request to the agent."""
        return await self.race(self.channel.ask(request), "perform", self.limits.perform, progress)

    async def hear_all(self) -> None:
        """Return when all that the console has said up to now has been heard. The guest writes it synchronously."""
        while not self._console_task.done() and select.select([self._console_end], [], [], 0)[0]:  # noqa: ASYNC110
            await asyncio.sleep(0)  # let the watcher run, which reads

    async def type(self, text: str) -> None:
        """Type on the guest's console."""
        await asyncio.get_running_loop().sock_sendall(self._console_end, text.encode())

    async def lend_console(self) -> int:
        """Stop reading the console and hand out its descriptor; what is read there is to be given to `heard`."""
        self._console_task.cancel()
        await asyncio.gather(self._console_task, return_exceptions=True)
        return self._console_end.fileno()

    async def take_console_back(self) -> None:
        """Read the console again."""
        self._console_task = self._watch(self._watch_console())

    # -- the end

    async def close(self) -> None:
        """End QEMU, and let go of everything. May be called at any time, also twice."""
        if self._closing:
            return
        self._closing = True
        process = getattr(self, "_process", None)
        if process is not None and process.returncode is None:
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
        for name in ("log", "channel", "_console_end", "console", "ram", "_said"):
            if (part := getattr(self, name, None)) is not None:
                part.close()
        os.close(self.state)
