"""What a user is shown of the log, in lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tcelab.logs import shown_on


class Shown:
    """A display. `notes` and `phases`: what it was given; `lines`: both, in order."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: list[str] = []
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.lines.append(text)

    def phase(self, text: str) -> None:
        self.phases.append(text)
        self.lines.append(text)


@contextmanager
def showing() -> Iterator[Shown]:
    """All that is shown meanwhile."""
    display = Shown()
    with shown_on(display):
        yield display
