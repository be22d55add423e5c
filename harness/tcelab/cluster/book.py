"""Which verdict of a task counts. dask runs a task again when its worker was lost, and says nothing: so each beginning
and each verdict is written down here, by whoever heard of it first.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

MOST: Final = 3
"""Times that a task is asked for."""


@dataclass
class _Entry:
    asked: int = 0
    began: set[str] = field(default_factory=set)
    verdicts: dict[str, str] = field(default_factory=dict)


class Book:
    """Of one campaign, by the keys of its tasks; several threads may use it.

    :ivar lost: how often a task was lost with its worker.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def ask(self, key: str) -> int:
        """Note that a task is asked for: how often it was by now."""
        with self._lock:
            entry = self._of(key)
            entry.asked += 1
            return entry.asked

    def may_ask_again(self, key: str) -> bool:
        """Count a task that was lost. May it be asked for once more?"""
        with self._lock:
            self.lost += 1
            return self._of(key).asked < MOST

    def began(self, key: str, turn: str) -> None:
        """A worker says that it begins a task.

        :param turn: names this beginning. More beginnings than askings: dask has run it again by itself.
        """
        with self._lock:
            entry = self._of(key)
            entry.began.add(turn)
            if len(entry.began) > entry.asked:
                self.lost += 1
                entry.asked += 1

    def verdict(self, key: str, turn: str, verdict: str) -> None:
        """A worker tells a verdict, by announcing it or by returning it. None is ever taken back."""
        with self._lock:
            self._of(key).verdicts.setdefault(turn, verdict)

    def flaky(self, key: str) -> bool:
        """Has the task given two verdicts?"""
        with self._lock:
            return len(set(self._of(key).verdicts.values())) > 1

    def asked(self, key: str) -> int:
        """How often a task was asked for."""
        with self._lock:
            return self._of(key).asked

    def _of(self, key: str) -> _Entry:
        return self._entries.setdefault(key, _Entry())
