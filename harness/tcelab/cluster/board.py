"""A line for each worker, while a campaign lasts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

_TAIL: Final = 2048


@dataclass(frozen=True)
class Doing:
    """What a worker is at.

    :ivar output: what its command prints, as far as it is here.
    :ivar since: by the monotonic clock.
    """

    worker: str
    title: str
    output: Path
    since: float


@dataclass
class Board:
    """Shows lines on a terminal; elsewhere it shows nothing, and the campaign's own lines tell."""

    console: Console = field(default_factory=lambda: Console(stderr=True))
    _live: Live | None = None
    _since: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While the block lasts."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False, transient=True, redirect_stderr=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def show(self, head: str, doing: list[Doing]) -> None:
        """Each worker's line anew."""
        if self._live is None:
            return
        lines = [head, *(line(each, self.console.width) for each in doing)]
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)

    def cells(self, running: Mapping[str, Path]) -> None:
        """The same for the cells of a night, by their titles."""
        now = time.monotonic()
        self._since = {title: self._since.get(title, now) for title in running}
        since = self._since
        lines = enumerate(running.items(), 1)
        doing = [Doing(f"worker {at}", title, path, since[title]) for at, (title, path) in lines]
        self.show(f"{len(doing)} cells run", doing)


def line(each: Doing, width: int) -> str:
    """One worker's line, no wider than the terminal."""
    said = last_line(each.output)
    text = f"{each.worker}  {each.title}  {time.monotonic() - each.since:.0f} s{'  ' + said if said else ''}"
    return text if len(text) <= width else text[: width - 1] + "…"


def last_line(path: Path) -> str:
    """What was printed last; empty if nothing was."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL))
        lines = [each.strip() for each in file.read().decode(errors="replace").splitlines() if each.strip()]
        return "".join(letter for letter in lines[-1] if letter.isprintable()) if lines else ""
    return ""
