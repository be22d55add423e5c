"""Every wait for a running guest: a named phase, a limit of its own, and a race against all that can end a guest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from qemu.qmp import QMPError

from tcelab.errors import GuestLost, HarnessError, Scene, TcelabError
from tcelab.qemu.console import Console
from tcelab.qemu.limits import Limits

T = TypeVar("T")

WATCHER: Final = "tcelab's watcher"
CLOSED: Final = "the guest was closed"
AGENT_EXITED: Final = "tcelab-init: agent exited"
_PANIC: Final = "Kernel panic - not syncing"
_SILENT: Final = {
    "boot": "no agent came up",
    "fork": "the fork's agent does not answer",
    "perform": "the agent stopped answering",
}
"""Phases in which it is the guest that is waited for, and what is wrong then."""

_LOOKS: Final = 8
"""How often within a limit progress is looked at: it makes no event."""


class Race:
    """Made on the loop, once QEMU is about to be spawned.

    :ivar shaken: the agent's handshake is done: from here on a kernel that dies is a finding.
    :ivar lost: why the guest is lost, once it is.
    :ivar stirred: set whenever something was heard from console, monitor or process.
    :ivar gone: QEMU has ended.
    :ivar panicked: QEMU said that the guest panicked; it then stops it.
    """

    def __init__(self, console: Console, folder: Path, limits: Limits) -> None:
        loop = asyncio.get_running_loop()
        self.console, self.folder, self.limits = console, folder, limits
        self.shaken = self.gone = self.panicked = False
        self.lost: asyncio.Future[str] = loop.create_future()
        self.stirred = asyncio.Event()
        self._clock = loop.time
        self.began = self._phase_began = loop.time()
        self._phase = "launch"

    def elapsed(self) -> float:
        """Seconds since the race began."""
        return self._clock() - self.began

    def lose(self, why: str) -> None:
        """The guest is lost; the first reason counts."""
        if not self.lost.done():
            self.lost.set_result(why)
        self.stirred.set()

    async def run(
        self,
        work: Coroutine[Any, Any, T],
        phase: str,
        limit: float,
        progress: Callable[[], object] = lambda: None,
        whole: float = float("inf"),
    ) -> T:
        """Await `work`, for as long as `progress()` changes within `limit` seconds and the guest lives.

        :param whole: seconds that all of it may take, whatever the progress.

        :raise GuestLost: it does not live any more, or went silent.
        :raise HarnessError: QEMU ended, or did not answer.
        """
        began = self._clock()
        self._phase, self._phase_began = phase, began
        task: asyncio.Future[T] = asyncio.ensure_future(work)
        waiting: set[asyncio.Future[Any]] = {task, self.lost}
        mark, moved = progress(), began
        try:
            while True:
                await asyncio.wait(waiting, timeout=limit / _LOOKS, return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    return task.result()
                if self.lost.done():
                    raise await self.loss(phase, began)
                if mark != (mark := progress()):
                    moved = self._clock()
                if self._clock() - moved >= limit:
                    raise self._late(phase, began, f"nothing happened for {limit:g} s")
                if self._clock() - began >= whole:
                    raise self._late(phase, began, f"not within {whole:g} s", f"whole_{phase}")
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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.settle):
                while not self._last_words_said():
                    self.stirred.clear()
                    await self.stirred.wait()
        why = self.lost.result()
        scene = self.now() if began is None else self.scene(phase, began)
        if self.console.fatal or "panicked" in why:
            last = self.console.fatal.strip() or why
            when = "" if self.shaken else " during boot"
            return GuestLost(
                f"the guest's kernel died{when}: {last}",
                next_step="console.log there has the whole trace",
                scene=scene,
                kernel_died=self.shaken,
            )
        if why.startswith(WATCHER):
            return HarnessError(why, next_step="is the disk full?", scene=scene)
        if why.startswith("QEMU"):
            said = self._qemu_said()
            return HarnessError(f"{why}{': ' + said if said else ''}", next_step="see qemu.err there", scene=scene)
        return GuestLost(why, next_step="see console.log there", scene=scene)

    def _last_words_said(self) -> bool:
        """Nothing more is to come: QEMU is gone, or the console told how the kernel or the agent ended."""
        if self.gone or self.lost.result() == CLOSED:
            return True
        # QEMU stops a guest that panics, so it says no more than this.
        return bool(self.console.find(AGENT_EXITED, *([_PANIC] if self.panicked else [])))

    def _late(self, phase: str, began: float, how: str, limit: str = "") -> TcelabError:
        scene = self.scene(phase, began)
        more = f"a slow machine needs --limit {limit or phase}=SECONDS"
        if what := _SILENT.get(phase):
            return GuestLost(f"{what}: {how}", next_step=f"see console.log there; {more}", scene=scene)
        return HarnessError(f"QEMU did not answer: {how}", next_step=more, scene=scene)

    def scene(self, phase: str, began: float) -> Scene:
        return Scene(phase, self._clock() - began, self.console.tail(), self.folder)

    def now(self) -> Scene:
        """The phase that was begun last, for errors that come from outside."""
        return self.scene(self._phase, self._phase_began)

    def _qemu_said(self) -> str:
        lines = (self.folder / "qemu.err").read_text(errors="replace").splitlines()
        return " / ".join(lines[-3:])
