"""The one asyncio loop, in one thread, and the way into it from synchronous code.

Three kinds of threads meet here. A *caller* (the main thread, or one for each part of a program) is in a method of a
session; it parses and judges what it gets: tables, frames, guest RAM. The *loop* waits, for the monitor, the agent, the
console, the end of QEMU, and does nothing that takes over 1 ms, for all guests wait for it. One thread for each guest
drains QEMU's log. The caller hands over a coroutine and blocks until it has the result, so shared data has one owner at
a time. asyncio objects belong to the loop: others reach them by `call` or `call_soon_threadsafe`.

QEMU is spawned from the loop's thread as well: a child's parent-death signal follows the thread that made it, and
this thread lives as long as the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, Final, TypeVar

T = TypeVar("T")


class Portal:
    """Runs coroutines on the loop's thread for callers on any other."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="tcelab-loop", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop and return what it returns, or raise what it raises.

        An interrupt of the caller cancels the work without waiting for its end. Work that must finish shields itself,
        as `Guest.close` does.
        """
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


_making: Final = threading.Lock()


def portal() -> Portal:
    """The process's portal, made at first use, by whichever thread comes first: there is but one loop."""
    with _making:
        return _portal()


@cache
def _portal() -> Portal:
    return Portal()
