"""Keeps a guest stopped while anybody needs it stopped, and continues it after the last one.

Two may need it at once: a checkpoint reads the tables while the guard, because of an earlier access of a device, moves
registers. Neither may continue the guest under the other.
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

    :ivar holders: how many need the guest stopped.
    """

    def __init__(
        self, command: Callable[[str], Awaitable[object]], lost: Callable[[str], Awaitable[BaseException]]
    ) -> None:
        """:param command: does a QMP command.
        :param lost: given QEMU's name for the state of a guest that is not merely stopped, returns what to raise.
        """
        self._command, self._lost = command, lost
        self._turn = asyncio.Lock()
        self.holders = 0

    async def begin(self) -> None:
        """Stop the guest if it runs, and check that it is merely stopped.

        :raise GuestLost: it had panicked or shut down before.
        """
        async with self._turn:
            await self._stop()
            # Checked even if the guest was stopped already: it may have died just before.
            status = msgspec.convert(await self._command("query-status"), dict[str, Any])["status"]
            if status != "paused":
                raise await self._lost(status)
            self.holders += 1

    async def adopt(self) -> None:
        """Hold a guest that QEMU has stopped by itself."""
        async with self._turn:
            self.holders += 1

    async def _stop(self) -> None:
        if not self.holders:
            await self._command("stop")

    async def end(self) -> None:
        """Release one hold; the guest continues after the last one."""
        async with self._turn:
            # Before it continues: if that fails, the hold is released nevertheless.
            self.holders -= 1
            if not self.holders:
                await self._command("cont")

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keep the guest stopped in the block, alive or not: for callers that change it and read nothing from it."""
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
