"""Where a guest's kernel is meant to end and another one to come up: then neither is a loss."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Restarts:
    """Of one guest; lives on the loop.

    :ivar on: its kernel is meant to end.
    :ivar closed: the agent's port was closed, since somebody cleared this: whoever opens it next is another agent.
    """

    def __init__(self) -> None:
        self.on = False
        self.closed = asyncio.Event()
        self._left: asyncio.Future[None] | None = None

    def takes(self, event: str, reason: object) -> bool:
        """Is a QMP event the end of a kernel that is meant to end? Then it is noted."""
        ends = self.on and (event == "RESET" or (event == "SHUTDOWN" and reason == "guest-reset"))
        if ends and self._left is not None and not self._left.done():
            self._left.set_result(None)
        return ends

    async def leave(self, ask: Coroutine[Any, Any, object]) -> None:
        """Await `ask`, and then that QEMU resets the machine, or that the guest asks QEMU to."""
        self._left = asyncio.get_running_loop().create_future()
        await ask
        await self._left
