"""Shows the tables of a running guest on a terminal or in a log."""

from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live

from tcelab import report
from tcelab.errors import TcelabError, counted
from tcelab.logs import shown_on
from tcelab.program.topology import Topology
from tcelab.qemu.livesample import Looker, looker
from tcelab.report.tableview import ASCII, SHADES, Watching
from tcelab.run.record import Step

EVERY: Final = 0.25
"""Seconds between two samples."""
_PLAIN: Final = 1.0
"""Seconds between two plain lines."""


class LiveDisplay(report.Progress):
    """Shows the tables of the guests that it is given, in the place of a run's progress: on a terminal the whole of it,
    without one a line every second. Looks are taken by a thread of its own.

    :ivar watching: what the looks have shown: of one guest, the last that was given.
    :ivar busy: seconds of a processor that its thread has taken, once it has ended.
    """

    def __init__(self, console: Console, topology: Topology) -> None:
        super().__init__(Console(quiet=True))  # its output is part of ours
        self.watching = Watching()
        self._to, self._topology = console, topology
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
        self._shades = SHADES if console.encoding.lower().startswith("utf") else ASCII
        self._guests = 0
        self._looker: Looker | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._notes: list[str] = []
        self._doing = ""
        self._operations = ""
        self._failed = ""
        self._since = self._lined = time.monotonic()
        self.busy = 0.0
        self._thread = threading.Thread(target=self._watch, name="tcelab-watch", daemon=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        self._showing = shown_on(self)
        self._showing.__enter__()
        self._since = self._lined = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        try:
            self._thread.join()
        finally:
            self._showing.__exit__(kind, error, trace)
            if self._live is not None:
                self._live.stop()
            with self._lock:
                self._leave()
        for line in [*self._notes, self._failed]:
            if line:
                self._say(line)
        self._say(self.watching.summary())

    # -- what a run reports

    def phase(self, text: str) -> None:
        """See `Progress`."""
        self._doing = text
        if self._live is None:
            self._line(text)

    def note(self, text: str) -> None:
        """See `Progress`."""
        if self._live is None:
            self._line(text)
        else:
            self._notes.append(text)

    def step(self, step: Step, total: int) -> None:
        """See `Progress`."""
        super().step(step, total)
        self._operations = f"{self._done:,} of {counted(total, 'operation')}, {counted(self.findings, 'finding')}"

    def _plain(self, text: str) -> None:
        if self._live is None:
            self._line(text)

    # -- looking

    def give(self, guest: object) -> None:
        """Watch a guest from now on. Errors of watching are reported, and do not disturb the run."""
        try:
            self.take(looker(guest, self._topology))
        except TcelabError as error:
            self._failed = f"the tables of this guest cannot be watched: {error.message}; {error.next_step}"
        except Exception as error:  # noqa: BLE001 - likewise
            self._failed = f"the watcher failed: {error!r}"

    def take(self, new: Looker) -> None:
        """Use that looker from now on."""
        with self._lock:
            self._leave()
            self._looker = new
            self._guests += 1
            self._look()  # however short its run is

    def _leave(self) -> None:
        if self._looker is not None:
            self._looker.close()
            self._looker = None

    @property
    def ended(self) -> bool:
        """The guest, or the watcher itself."""
        return self._looker is None or not self._thread.is_alive()

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            try:
                with self._lock:
                    self._look()
                self._show()
            except Exception as error:  # noqa: BLE001 - told in the end; a run must not fail for its watcher
                self._failed = f"the watcher failed: {error!r}"
                return
            finally:
                self.busy = time.thread_time()

    def _look(self) -> None:
        if self._looker is None:
            return
        look = self._looker.look()
        if look is None:
            self._leave()
        else:
            self.watching.add(look)

    def _show(self) -> None:
        if self._live is not None:
            width, height = self._to.size
            # Changing values come first: a narrow terminal shows no more.
            head = [f"{self._state()}, guest {self._guests}, {time.monotonic() - self._since:.1f} s, tcelab watch"]
            self._live.update(self.watching.screen(width, height, head, self._shades), refresh=True)
        elif self._looker is not None and time.monotonic() - self._lined >= _PLAIN - EVERY / 2:
            self._lined = time.monotonic()
            self._line(self.watching.line())

    def _state(self) -> str:
        return self._operations or self._doing or "looking"

    def _line(self, text: str) -> None:
        self._say(f"[{time.monotonic() - self._since:6.1f} s] {text}")

    def _say(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError, SystemExit):  # its reader has gone, but the run goes on
            self._to.print(text, markup=False, highlight=False, soft_wrap=True)
