"""What a person sees of the log while a command lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from tcelab.logs import context, handlers
from tcelab.logs.line import line, text

_SHOWN: Final = "shown"
NOTE: Final = {_SHOWN: "note"}
"""`extra` of a line that every user sees, and that stays."""
PHASE: Final = {_SHOWN: "phase"}
"""`extra` of a line that says what is being done now, for every user: it may be replaced by the next."""

_LEVELS: Final = (logging.INFO, logging.INFO, logging.DEBUG)
"""By the number of v in -v."""


class Display(Protocol):
    """Where lines are shown. Called by one thread at a time."""

    def phase(self, text: str) -> None:
        """What is being done now."""
        ...

    def note(self, text: str) -> None:
        """A line that stays."""
        ...


class _Shown(logging.Handler):
    """Gives lines to the display that was set up last. `verbosity`: how many v were said."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.displays: list[Display] = []
        self.verbosity = 0

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(self.verbosity) or hasattr(record, _SHOWN) or record.levelno >= logging.WARNING

    def emit(self, record: logging.LogRecord) -> None:
        try:
            display, how = self.displays[-1], getattr(record, _SHOWN, "")
            said = text(record) if how or not self.verbosity else line(record)
            if how != "phase":
                display.note(said)
            elif context.shows(said):
                display.phase(said)
        except Exception:  # noqa: BLE001 - `logging`'s own rule: a line that cannot be shown ends nothing
            self.handleError(record)


_handler: Final = _Shown()


@contextmanager
def shown_on(display: Display) -> Iterator[None]:
    """Meanwhile, lines are shown there, in the place of the display before."""
    if not _handler.displays:
        _handler.displays.append(display)
        handlers.attach(_handler)
    else:
        _handler.displays.append(display)
    try:
        yield
    finally:
        _handler.displays.remove(display)
        if not _handler.displays:
            handlers.detach(_handler)
            _handler.verbosity = 0
            _handler.setLevel(logging.INFO)


def verbose(more: int) -> None:
    """Show more, until the last display is gone: 1: what every module says at INFO; 2: also at DEBUG."""
    _handler.verbosity += more
    _handler.setLevel(_LEVELS[min(_handler.verbosity, len(_LEVELS) - 1)])
    handlers.changed()
