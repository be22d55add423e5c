"""L2 and its agent, as the loop sees them: its console, its channel, its waits. What died is told apart by level."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from tcelab.coverage.cover import NOTHING
from tcelab.errors import GuestLost, HarnessError, Scene, TcelabError
from tcelab.qemu.channel import AgentChannel
from tcelab.qemu.console import Console
from tcelab.qemu.guest import Guest
from tcelab.qemu.limits import Limits
from tcelab.qemu.nested import PORTS
from tcelab.qemu.ram import Ram
from tcelab.qemu.waiter import AGENT_EXITED, NO_AGENT, GuestWaiter

T = TypeVar("T")

CONSOLE: Final = "inner-console.log"
SAID: Final = "inner.err"
"""What L1's QEMU printed."""
_CHUNK: Final = 1 << 16
_OUTER: Final = "L1 is lost"
QEMU_ENDED: Final = "L1's QEMU ended"


class InnerWaiter(GuestWaiter):
    """Waits for L2. L1 and L0 can end as well, and then that is what is told."""

    def __init__(self, outer: GuestWaiter, console: Console, folder: Path, limits: Limits) -> None:
        super().__init__(console, folder, limits)
        self._outer = outer
        self.shares = outer.shares
        outer.lost.add_done_callback(lambda _: self.lose(_OUTER))

    async def loss(self, phase: str = "", began: float | None = None) -> TcelabError:
        """What to raise, with the level that it is about."""
        if self._outer.lost.done():
            return _of("L1", await self._outer.loss(phase, began))
        return _of("L2", await super().loss(phase, began))

    def _late(self, phase: str, began: float, how: str, limit: str = "") -> TcelabError:
        return _of("L2", super()._late(phase, began, how, limit))


def _of(level: str, error: TcelabError) -> TcelabError:
    """The error, which says of which level's kernel it is, and where its console is; L0's QEMU needs no word."""
    if isinstance(error, GuestLost) and not error.message.startswith(QEMU_ENDED):
        error.message = f"{level}: {error.message}"
        error.args = (error.message,)
        if level == "L2":
            error.next_step = error.next_step.replace("console.log", CONSOLE)
    return error


class InnerGuest:
    """Made on the loop once L1 is up: a `tcelab.qemu.conversation.Spoken`.

    :ivar ram: of L2; set once L1 has told where it is.
    :ivar cover: nothing is recorded of L2's kernel.
    """

    ram: Ram

    def __init__(self, outer: Guest, limits: Limits, folder: Path) -> None:
        agent, console = (outer.ends[name] for name in PORTS)
        self.limits, self.folder = limits, folder
        self.cover = NOTHING.guest()
        self.console = Console(folder / CONSOLE)
        self.waiter = InnerWaiter(outer.waiter, self.console, folder, limits)
        self.channel = AgentChannel(agent)
        self._console_end = console
        console.setblocking(False)  # noqa: FBT003 - its only parameter
        self._listening = asyncio.get_running_loop().create_task(self._listen())
        self.waiter.listen = self._left
        outer.on_event = self._event

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        # Also when nobody waits: a console that is not read holds L1's QEMU up.
        while data := await loop.sock_recv(self._console_end, _CHUNK):
            self._heard(data)

    def _heard(self, data: bytes) -> None:
        self.console.feed(data, self.waiter.elapsed())
        self.waiter.activity.set()
        if self.console.fatal:
            self.waiter.lose(f"the guest's kernel died: {self.console.fatal.strip()}")

    async def _left(self) -> None:
        await asyncio.sleep(0)  # the listener's turn

    def _event(self, name: str, data: dict[str, Any]) -> None:
        """L1's QEMU has both ports open as long as it lives."""
        if name == "VSERPORT_CHANGE" and data.get("id") == "inner_agent-port" and data.get("open") is False:
            self.waiter.lose(QEMU_ENDED)

    async def spoke(self) -> None:
        """Wait until L2 has said something."""

        async def said() -> None:
            while not self.console.size:
                self.waiter.activity.clear()
                await self.waiter.activity.wait()

        await self.waiter.run(said(), "inner_start", self.limits.inner_start)

    async def hello(self, request: bytes, *, booting: bool | None = None, closes: bool = False) -> bytes:
        """The handshake with L2's agent. The console's bytes are the progress of the boot."""
        del booting, closes
        return await self.waiter.run(
            self._no_agent_or(self.channel.ask(request)),
            "inner_boot",
            self.limits.inner_boot,
            lambda: self.console.size,
            self.limits.whole_inner_boot,
        )

    async def _no_agent_or(self, work: Any) -> bytes:  # noqa: ANN401 - a coroutine
        task: asyncio.Future[bytes] = asyncio.ensure_future(work)
        try:
            while not task.done():
                activity = asyncio.ensure_future(self.waiter.activity.wait())
                waiting: set[asyncio.Future[Any]] = {task, activity}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                activity.cancel()
                self.waiter.activity.clear()
                if line := self.console.find(NO_AGENT, AGENT_EXITED):
                    raise HarnessError(f"L2: {line.strip()}", next_step=f"see {CONSOLE} there")
            return task.result()
        finally:
            task.cancel()

    async def ask(self, request: bytes, progress: Callable[[], object]) -> bytes:
        """One request to L2's agent."""
        return await self.waiter.run(self.channel.ask(request), "perform", self.limits.perform, progress)

    async def trouble(self) -> tuple[str, ...]:
        """Lines of L2's kernel trouble since the last call."""
        await asyncio.sleep(0)
        return tuple(f"L2: {line}" for line in self.console.take_trouble())

    def scene(self) -> Scene:
        return self.waiter.now()

    async def close(self) -> None:
        """L0 has ended, or is about to."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self.channel.close()
        self._console_end.close()
        self.console.close()


def keep(folder: Path, name: str, text: str) -> None:
    """An artefact, private."""
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
