"""What the operations before have made, as far as validation follows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tcelab.papr import window
from tcelab.program import validate_host
from tcelab.program.guestop import Page, Word

_WORD: Final = 64


@dataclass(slots=True)
class Process:
    """:ivar bound: devices whose group it knows. `root`: it may do what only root may."""

    files: set[str] = field(default_factory=set)
    bound: set[str] = field(default_factory=set)
    root: bool = True


@dataclass(slots=True)
class BufferState:
    """:ivar ring: it holds a device's queue; `huge`: it is in huge pages; `coherent`: its memory is a driver's."""

    pages: int
    process: str
    access: str = "write"
    ring: bool = False
    huge: bool = False
    coherent: bool = False


def who(process: str) -> str:
    """A process in a message."""
    return f"process {process!r}" if process else "the agent itself"


class Made:
    """What the operations before have made, by name, and whether the next one may use it.

    :ivar _by: the process that performs it.
    """

    _by = ""

    def _begin(self) -> None:
        """Begin on a kernel on which nothing was made."""
        self._processes = {"": Process()}
        self._spawned: set[str] = set()
        self._buffers: dict[str, BufferState] = {}
        self._device_of: dict[str, str] = {}
        self._group_of: dict[str, str] = {}

    @property
    def _own(self) -> Process:
        """The process that performs the operation."""
        return self._processes[self._by]

    def _no_process(self, name: str) -> str:
        if name in self._spawned:
            return f"process {name!r} has exited"
        return f'no process {name!r} was spawned before: add a `spawn` with "process": "{name}"'

    def _place(self, name: str) -> str:
        """Why it is no buffer of the process; empty if it is."""
        if name not in self._buffers:
            return f'no buffer {name!r} was made before: add a `buffer` with "name": "{name}"'
        process = self._buffers[name].process
        return "" if process == self._by else f"buffer {name!r} belongs to {who(process)}, not to {who(self._by)}"

    def _within(self, name: str, first: int, size: int) -> str:
        if problem := self._place(name):
            return problem
        pages = self._buffers[name].pages
        inside = 0 <= first <= first + size <= pages * window.PAGE_SIZE
        return "" if inside else f"outside buffer {name!r} of {pages} pages"

    def _written(self, name: str, first: int, size: int) -> str:
        """As `_within`, for a place to which the process itself writes."""
        if problem := self._within(name, first, size):
            return problem
        access = self._buffers[name].access
        return "" if access == "write" else f"buffer {name!r} is protected: its access is {access}"

    def _own_memory(self, name: str) -> str:
        """As `_place`, for memory that has an address in the process."""
        if problem := self._place(name):
            return problem
        coherent = self._buffers[name].coherent
        return f"{name!r} is coherent memory: only its driver reaches it" if coherent else ""

    def _file(self, name: str) -> str:
        return "" if name in self._own.files else validate_host.unopened(name)

    def _make_file(self, name: str) -> str:
        if any(name in process.files for process in self._processes.values()):
            return f"there is a file {name!r} already"
        self._own.files.add(name)
        return ""

    def _words(self, words: Iterable[Word]) -> str:
        return next(filter(None, map(self._word, words)), "")

    def _word(self, word: Word) -> str:
        if isinstance(word, int):
            return "" if 0 <= word < 1 << _WORD else f"a word has {_WORD} bits, and {word} has not"
        if isinstance(word, Page):
            return self._own_memory(word.buffer)
        return "" if word in self._own.files else validate_host.no_word(word)
