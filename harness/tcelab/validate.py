"""Is a program whole? Said before anything boots: names that are used are made, and stay within what they name.

What the kernel has to refuse (wrong argsz, misaligned or foreign addresses, unknown requests) is not checked: that is
what programs are for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tceagent import edu, uapi
from tcelab.errors import UsageError
from tcelab.papr import window
from tcelab.program import (
    Bind,
    Buffer,
    Close,
    Dma,
    Fill,
    Flip,
    Frames,
    Fresh,
    Ioctl,
    Master,
    Op,
    Open,
    Page,
    Program,
    Read,
    Repeat,
    Tag,
)

COUNTERS: Final = ("vmlck", "pins")
REPEATED: Final = ("MAP_DMA", "UNMAP_DMA")
MOST_CALLS: Final = 1_000_000
"""Calls of one Repeat."""
_WORD: Final = 64


def validate(program: Program) -> None:
    """:raise UsageError: the first operation that cannot be done, with its number and why."""
    checker = Checker(program)
    for op in program.ops:
        checker.check(op)


class Checker:
    """Checks the operations of a program as they come: knows what those before have made."""

    def __init__(self, program: Program) -> None:
        self._name = program.name
        self._number = 0
        self._devices = {device.name for device in program.topology.devices}
        self._sizes = {phb.liobn: phb.window_size for phb in program.topology.machine}
        self._begin()

    def _begin(self) -> None:
        """On a guest on which nothing was made."""
        self._bound: set[str] = set()
        self._files: set[str] = set()
        self._pages: dict[str, int] = {}

    def check(self, op: Op) -> None:
        """The next operation.

        :raise UsageError: it cannot be done.
        """
        if problem := self._problem(op):
            raise UsageError(
                f"program {self._name!r}, operation {self._number} ({type(op).__name__}): {problem}",
                next_step="mend the program; operations are counted from 0",
            )
        self._number += 1

    def _problem(self, op: Op) -> str:
        """Why it cannot be done; empty if it can."""
        rule: Callable[[Any], str] | None = getattr(self, f"_{type(op).__name__.lower()}", None)
        return "" if rule is None else rule(op)

    # -- a rule for each operation, named after it

    def _buffer(self, op: Buffer) -> str:
        if op.name in self._pages:
            return f"there is a buffer {op.name!r} already"
        self._pages[op.name] = op.pages
        return "" if op.pages > 0 else "a buffer has at least one page"

    def _tag(self, op: Tag) -> str:
        return self._within(op.buffer, op.first * window.PAGE_SIZE, op.count * window.PAGE_SIZE)

    def _fill(self, op: Fill) -> str:
        return self._within(op.buffer, op.offset, op.size)

    def _frames(self, op: Frames) -> str:
        return self._within(op.buffer, 0, 0)

    def _bind(self, op: Bind) -> str:
        self._bound.add(op.device)
        return "" if op.device in self._devices else f"the topology has no device {op.device!r}"

    def _open(self, op: Open) -> str:
        name = op.path.partition("$")[2]
        if name and name not in self._bound:
            return f"${name} names a device that was not bound before"
        return self._make_file(op.file)

    def _close(self, op: Close) -> str:
        problem = self._file(op.file)
        self._files.discard(op.file)
        return problem

    def _master(self, op: Master) -> str:
        return self._file(op.file)

    def _dma(self, op: Dma) -> str:
        return self._file(op.file) or _transfer(op)

    @staticmethod
    def _read(op: Read) -> str:
        return "" if op.what in COUNTERS else f"no counter {op.what!r}; there are: {', '.join(COUNTERS)}"

    def _ioctl(self, op: Ioctl) -> str:
        if isinstance(op.request, str) and op.request not in uapi.NUMBERS:
            return f"no request {op.request!r}; there are: {', '.join(uapi.NUMBERS)}"
        # Any name may be asked for there: the kernel has to refuse those that are no device's.
        words = [] if op.request == "GROUP_GET_DEVICE_FD" else op.fields.values()
        problem = self._file(op.file) or next(filter(None, map(self._word, words)), "")
        if op.fields and op.value is not None:
            problem = problem or "an ioctl has fields or a value, not both"
        return problem or (self._make_file(op.into) if op.into else "")

    def _repeat(self, op: Repeat) -> str:
        calls = len(op.ops) * op.times
        if not 0 < calls <= MOST_CALLS:
            return f"{calls} calls; a Repeat does 1..{MOST_CALLS}"
        if len({each.file for each in op.ops}) > 1:
            return "all its calls go to one file"
        for each in op.ops:
            if each.request not in REPEATED:
                return f"{each.request!r} cannot be repeated; can be: {', '.join(REPEATED)}"
            if each.value is not None or each.into or each.expect is not None:
                return "its calls have fields alone: no value, into or expect"
        return next(filter(None, map(self._ioctl, op.ops)), "")

    def _flip(self, op: Flip) -> str:
        size = self._sizes.get(op.liobn, 0)
        if not 0 <= op.ioba < size or not 0 <= op.bit < _WORD:
            return f"LIOBN {op.liobn:#x} has no bit {op.bit} of an entry for IOBA {op.ioba:#x}"
        return ""

    def _fresh(self, _op: Fresh) -> str:
        self._begin()
        return ""

    # -- names

    def _within(self, name: str, first: int, size: int) -> str:
        if name not in self._pages:
            return f"no buffer {name!r} was made before"
        end = self._pages[name] * window.PAGE_SIZE
        return "" if 0 <= first <= first + size <= end else f"outside buffer {name!r} of {self._pages[name]} pages"

    def _file(self, name: str) -> str:
        return "" if name in self._files else f"no file {name!r} was opened before"

    def _make_file(self, name: str) -> str:
        if name in self._files:
            return f"there is a file {name!r} already"
        self._files.add(name)
        return ""

    def _word(self, word: int | str | Page) -> str:
        if isinstance(word, int):
            return "" if 0 <= word < 1 << _WORD else f"a word has {_WORD} bits, and {word} has not"
        if isinstance(word, Page):
            return "" if word.buffer in self._pages else f"no buffer {word.buffer!r} was made before"
        return self._file(word) if isinstance(word, str) else ""


def _transfer(op: Dma) -> str:
    try:
        edu.check(op.size, op.offset)
    except ValueError as error:
        return str(error)
    return ""
