"""Which guest and subject a line is about. Each thread has its own, shared by the tasks that it starts on the event
loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_guest: Final = ContextVar("guest", default="")
_subject: Final = ContextVar("subject", default="")
_screen: ContextVar[Callable[[str], bool] | None] = ContextVar("screen", default=None)


@contextmanager
def of_guest(name: str) -> Iterator[None]:
    """Meanwhile, lines of this thread are about that guest: log.txt and -v name it."""
    token = _guest.set(name)
    try:
        yield
    finally:
        _guest.reset(token)


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Meanwhile, lines of this thread begin with that subject, wherever they are shown; empty: with none."""
    token = _subject.set(subject)
    try:
        yield
    finally:
        _subject.reset(token)


@contextmanager
def screened(shows: Callable[[str], bool]) -> Iterator[None]:
    """Meanwhile, a display shows of this thread's phases only those for which `shows` is true."""
    token = _screen.set(shows)
    try:
        yield
    finally:
        _screen.reset(token)


def guest() -> str:
    """Empty: of no guest in particular."""
    return _guest.get()


def subject() -> str:
    """As `about` was told."""
    return _subject.get()


def shows(phase: str) -> bool:
    """As `screened` was told."""
    screen = _screen.get()
    return screen is None or screen(phase)
