"""Which handlers of ours hang on tcelab's logger, and the level that this takes."""

from __future__ import annotations

import logging
import threading
from typing import Final

from tcelab.logs.line import ROOT

_logger: Final = logging.getLogger(ROOT)
_ours: Final[list[logging.Handler]] = []
_lock: Final = threading.Lock()
_before = logging.NOTSET
"""The logger's level while no handler of ours is attached."""


def attach(handler: logging.Handler) -> None:
    """Attach a handler; it gets records of its level."""
    global _before  # noqa: PLW0603 - the logger is one for the whole process as well
    with _lock:
        if not _ours:
            _before = _logger.level
        _ours.append(handler)
        _logger.addHandler(handler)
        _level()


def detach(handler: logging.Handler) -> None:
    """Detach a handler; after the last one, the logger is as before the first."""
    with _lock:
        _ours.remove(handler)
        _logger.removeHandler(handler)
        _level()


def changed() -> None:
    """A handler's level was set."""
    with _lock:
        _level()


def _level() -> None:
    if not _ours:
        _logger.setLevel(_before)
        return
    wanted = [each.level for each in _ours] + ([_before] if _before else [])
    _logger.setLevel(min(wanted))
