"""Every wait for a running guest: a named phase, its limit, and a race against everything that can end a guest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from qemu.qmp import QMPError

from tcelab.errors import GuestLost, HarnessError, Scene, TcelabError
from tcelab.qemu.console import BY_TIME, Console
from tcelab.qemu.limits import Limits

T = TypeVar("T")

_LOG: Final = logging.getLogger(__name__)

WATCHER: Final = "tcelab's watcher"
CLOSED: Final = "the guest was closed"
NO_AGENT: Final = "tcelab-init: no agent"
AGENT_EXITED: Final = "tcelab-init: agent exited"
_SILENT: Final = {
    "boot": "no agent came up",
    "inner_start": "the inner guest says nothing",
    "inner_boot": "no agent of the inner guest came up",
    "restart": "the guest did not leave its kernel",
    "unplug": "the device stays, though the guest let go of it",
    "plug": "the guest does not take memory, or does not give it back",
    "fork": "the fork's agent does not answer",
    "perform": "the agent stopped answering",
}
"""Phases that wait for the guest, and what is wrong when their limit passes."""

_MANY: Final = frozenset({"control"})
"""Phases that are not logged, because their contents (mostly QMP commands) are."""

_TURN: Final = 0.05
"""Seconds between two looks at what a lost guest still says."""

_LOOKS: Final = 8
"""How often within a limit progress is polled: no event reports it."""


class LastWords(Protocol):
    """What QEMU's log says about the end; see `tcelab.qemu.log.Log`."""

    checkstop: str
    strayed: str

    def drain(self) -> None:
        """Read it up to now."""
        ...


async def _nothing() -> None:
    pass


class GuestWaiter:
    """Made on the loop, once QEMU is about to be spawned; all of it runs there.

    Several watchers can notice that the guest is lost: those of console, monitor, process and ports. The one that does
    calls `lose`, which keeps the first reason and ends every wait. `loss` then explains why, in one place and a moment
    later, because the first reason is rarely the best one: the agent's port closes before the console has the oops.

    :ivar handshake_done: the agent's handshake is done: from here on a kernel that dies is a finding.
    :ivar boot: number of the guest's boot, from 1 on.
    :ivar lost: why the guest is lost, once it is.
    :ivar activity: set whenever something was heard from console, monitor or process.
    :ivar gone: QEMU has ended.
    :ivar panicked: QEMU said that the guest panicked; it then stops it.
    :ivar listen: reads what is left in the console, whoever its reader is.
    :ivar log: what QEMU's own log says of the end; None: nobody reads it.
    :ivar shares: seconds that QEMU ran, and that it waited for a CPU of the host.
    """

    def __init__(self, console: Console, folder: Path, limits: Limits) -> None:
        loop = asyncio.get_running_loop()
        self.console, self.folder, self.limits = console, folder, limits
        self.handshake_done = self.gone = self.panicked = False
        self.boot = 1
        self.lost: asyncio.Future[str] = loop.create_future()
        self.activity = asyncio.Event()
        self.listen: Callable[[], Awaitable[None]] = _nothing
        self.log: LastWords | None = None
        self.shares: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)
        self._clock = loop.time
        self.began = self._phase_began = loop.time()
        self._phase = "launch"

    def elapsed(self) -> float:
        """Seconds since the race began."""
        return self._clock() - self.began

    def lose(self, why: str) -> None:
        """The guest is lost; the first reason counts."""
        if not self.lost.done():
            # Closing is what ends most guests.
            level, word = (logging.DEBUG, "ended") if why == CLOSED else (logging.INFO, "lost")
            _LOG.log(level, "%s after %.3f s: %s", word, self.elapsed(), why)
            self.lost.set_result(why)
        self.activity.set()

    async def run(
        self,
        work: Coroutine[Any, Any, T],
        phase: str,
        limit: float,
        progress: Callable[[], object] = lambda: None,
        whole: float = float("inf"),
    ) -> T:
        """Await `work` as long as `progress()` changes within every `limit` seconds and the guest lives.

        :param whole: limit on the total seconds, whatever the progress.

        :raise GuestLost: it does not live any more, or went silent.
        :raise HarnessError: QEMU ended, or did not answer.
        """
        began = self._clock()
        self._phase, self._phase_began = phase, began
        told = phase not in _MANY and _LOG.isEnabledFor(logging.DEBUG)
        if told:
            most = "" if whole == float("inf") else f", {whole:g} s in all"
            _LOG.debug("%s begins: limit %g s of silence%s", phase, limit, most)
        task: asyncio.Future[T] = asyncio.ensure_future(work)
        waiting: set[asyncio.Future[Any]] = {task, self.lost}
        mark, moved = progress(), began
        try:
            while True:
                await asyncio.wait(waiting, timeout=limit / _LOOKS, return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    if told:
                        _LOG.debug("%s ends after %.2f ms", phase, 1e3 * (self._clock() - began))
                    return task.result()
                if self.lost.done():
                    raise await self.loss(phase, began)
                if mark != (mark := progress()):
                    moved = self._clock()
                if self._clock() - moved >= limit:
                    raise self._late(phase, began, f"nothing happened for {limit:g} s")
                if self._clock() - began >= whole:
                    raise self._late(phase, began, f"not within {whole:g} s", f"whole_{phase}")
        except (QMPError, OSError, EOFError, HarnessError) as error:  # EBADF: closed just before it was asked
            raise await self._broken(phase, began, error) from None
        finally:
            # However the wait ended, nobody may work on this guest once the caller has the answer.
            task.cancel()
            with contextlib.suppress(BaseException):
                await task

    async def _broken(self, phase: str, began: float, error: Exception) -> TcelabError:
        """A connection broke, or an answer was invalid: if the guest is lost, report that instead."""
        if isinstance(error, TcelabError) and error.scene.phase:
            return error
        if not self.lost.done() and not isinstance(error, HarnessError):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.lost), self.limits.settle)
        if self.lost.done():
            return await self.loss(phase, began)
        scene = self.scene(phase, began)
        if isinstance(error, HarnessError):
            return HarnessError(error.message, next_step=error.next_step, scene=scene)
        return HarnessError(f"the connection to QEMU broke: {error}", next_step="see qemu.err there", scene=scene)

    async def loss(self, phase: str = "", began: float | None = None) -> TcelabError:
        """What to raise once the guest is lost; waits a little for its last words. By default of the phase that is."""
        await self._hear_out()
        why = self.lost.result()
        scene = self.now() if began is None else self.scene(phase, began)
        if self.console.fatal or "panicked" in why:
            return self._death(why, scene)
        if why.startswith(WATCHER):
            return HarnessError(why, next_step="is the disk full?", scene=scene)
        if why.startswith("QEMU"):
            said = self._qemu_said()
            return HarnessError(f"{why}{': ' + said if said else ''}", next_step="see qemu.err there", scene=scene)
        return GuestLost(why, next_step="see console.log there", scene=scene)

    async def _hear_out(self) -> None:
        """Wait until nothing more can come, or nothing comes for a while."""
        began = quiet = self._clock()
        size = -1
        while True:
            self.activity.clear()
            await self.listen()
            if await self._last_words_said():
                return
            now = self._clock()
            if size != (size := self.console.size):
                quiet = now
            if now - quiet >= self.limits.settle or now - began >= self.limits.whole_settle:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.activity.wait(), min(_TURN, self.limits.settle))

    async def _last_words_said(self) -> bool:
        """Nothing more is to come: QEMU is gone, or it was said how the kernel or the agent ended."""
        if self.gone or self.lost.result() == CLOSED or self.console.find(AGENT_EXITED):
            return True
        # QEMU stops a panicked guest: nothing more comes, and the console, written synchronously, is complete.
        return self.panicked and (self.console.panicked or bool(await self._checkstop()))

    async def _checkstop(self) -> str:
        if self.log is None:
            return ""
        with contextlib.suppress(HarnessError):  # a full disk: what was said is known all the same
            await asyncio.to_thread(self.log.drain)
        return self.log.checkstop

    def _death(self, why: str, scene: Scene) -> TcelabError:
        """A kernel that died: by its own words, else by QEMU's."""
        if self.log is not None and self.log.strayed:
            return HarnessError(
                f"QEMU led an access of the guest's astray, and the guest died of it: {self.log.strayed}",
                next_step="that is no kernel's doing; please report it, with qemu.log",
                scene=scene,
            )
        ran, waited = self.shares()
        if BY_TIME.search(self.console.fatal) and waited > ran:
            # The guest's clock runs on while the host gives it no CPU; its kernel then sees a stuck CPU.
            return HarnessError(
                f"a watchdog of the guest's timed out on a host that is too busy to judge it: QEMU ran {ran:.1f} s and"
                f" waited {waited:.1f} s for a CPU: {self.console.fatal.strip()}",
                next_step="try again with fewer guests at a time, or on a machine that has less to do",
                scene=scene,
            )
        fatal, stop = self.console.fatal.strip(), "" if self.log is None else self.log.checkstop
        if fatal and self.panicked and self.console.panicked:
            step = "console.log there has the whole trace"
        elif fatal:
            step = "console.log there has what the kernel said until then; its trace may have gone on"
        else:
            step = "its console tells nothing of it; see qemu.log there"
        told = fatal or (f"QEMU stopped it: {stop}" if stop else why)
        when = "" if self.handshake_done else " during boot"
        when += f" (boot {self.boot} of this guest)" if self.boot > 1 else ""
        return GuestLost(
            f"the guest's kernel died{when}: {told}",
            next_step=step,
            scene=scene,
            kernel_died=self.handshake_done,
            said=fatal or stop,
        )

    def _late(self, phase: str, began: float, how: str, limit: str = "") -> TcelabError:
        _LOG.info("%s ends after %.1f s: %s", phase, self._clock() - began, how)
        scene = self.scene(phase, began)
        more = f"a slow machine needs --limit {limit or phase}=SECONDS"
        if what := _SILENT.get(phase):
            return GuestLost(f"{what}: {how}", next_step=f"see console.log there; {more}", scene=scene)
        return HarnessError(f"QEMU did not answer: {how}", next_step=more, scene=scene)

    def scene(self, phase: str, began: float) -> Scene:
        return Scene(phase, self._clock() - began, self.console.tail(), self.folder)

    def now(self) -> Scene:
        """The last phase begun, for errors from outside."""
        return self.scene(self._phase, self._phase_began)

    def _qemu_said(self) -> str:
        lines = (self.folder / "qemu.err").read_text(errors="replace").splitlines()
        return " / ".join(lines[-3:])
