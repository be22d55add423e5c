"""A guest that stands still: whoever needs it to says so, and it goes on once nobody does any more.

Two may need it at once: a checkpoint reads the tables, while the guard, for what a device did just before, changes
where registers lie. Neither may make the guest go on under the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

_NANO: Final = 1e9


class Standstill:
    """Of one guest; lives on the loop.

    :ivar holders: how many need the guest to stand.
    """

    def __init__(
        self, command: Callable[[str], Awaitable[object]], lost: Callable[[str], Awaitable[BaseException]]
    ) -> None:
        """:param command: does a QMP command.
        :param lost: given QEMU's word for the state of a guest that is not merely stopped: what to raise.
        """
        self._command, self._lost = command, lost
        self._turn = asyncio.Lock()
        self.holders = 0

    async def begin(self) -> None:
        """Stop the guest if it runs, and know that it is only stopped.

        :raise GuestLost: it had panicked or shut down before.
        """
        async with self._turn:
            await self._stop()
            # Also of a guest that stands already: it may have died in the last moment before.
            status = msgspec.convert(await self._command("query-status"), dict[str, Any])["status"]
            if status != "paused":
                raise await self._lost(status)
            self.holders += 1

    async def _stop(self) -> None:
        if not self.holders:
            await self._command("stop")

    async def end(self) -> None:
        """One fewer needs it to stand: it goes on after the last."""
        async with self._turn:
            # Before it goes on: should that fail, nobody holds it all the same.
            self.holders -= 1
            if not self.holders:
                await self._command("cont")

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """The guest stands within, be it alive or not: for who changes it, and reads nothing of it."""
        async with self._turn:
            await self._stop()
            self.holders += 1
        try:
            yield
        finally:
            await self.end()


def host_shares(pid: int) -> tuple[float, float]:
    """Seconds that a process's threads ran, and that they waited for a CPU (Documentation/scheduler/sched-stats.rst).

    (0, 0) where the host does not tell, or the process is gone.
    """
    ran = waited = 0
    with suppress(OSError, ValueError):
        for each in Path(f"/proc/{pid}/task").iterdir():
            one, other, _ = map(int, (each / "schedstat").read_text().split())
            ran, waited = ran + one, waited + other
    return ran / _NANO, waited / _NANO
