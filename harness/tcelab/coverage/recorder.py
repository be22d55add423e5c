"""Records what the guests of one command execute of their kernel. Whatever goes wrong here is a reason why something is
missing, and never a verdict.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec

from tcelab.coverage.blocks import Block, blocks
from tcelab.coverage.cover import CoveredGuest, Places
from tcelab.coverage.covermap import EXECUTED, FELL, INSTRUCTION, RANGES, TOOK, CoverMap, Range
from tcelab.coverage.result import Coverage, FunctionCoverage, UnitCoverage

MODULES: Final[tuple[Range, ...]] = (
    (0xC008000000000000, 0xC008000002000000),
    (0xC0003D0000000000, 0xC0003D0002000000),
)
"""Where modules are loaded: the beginning of the kernel's virtual space, with pages of 64 KiB or the radix MMU and with
pages of 4 KiB (arch/powerpc/include/asm/book3s/64/radix.h, hash-4k.h, hash-64k.h).
"""
_TEXT: Final = ".text"


class Function(msgspec.Struct, frozen=True):
    """:ivar start: its address; of a module's: its offset in `.text`.

    :ivar calls: by offset in it, names of other functions that are branched to.
    """

    name: str
    start: int
    code: bytes
    calls: dict[int, str]


class Target(msgspec.Struct, frozen=True):
    """A unit with its functions; see `UnitCoverage`."""

    name: str
    module: str
    functions: list[Function]


class Recorder:
    """Of one command; its guests may be opened from several threads.

    :ivar modules: whose addresses are asked for.
    """

    def __init__(self, targets: Sequence[Target], start: int) -> None:
        """:param start: of the kernel's code, where it lies by itself."""
        self._targets, self._start = targets, start
        self._plugins: dict[tuple[str, ...], Path] = {}
        self._ranges = _ranges(targets)
        self.modules = [target.module for target in targets if target.module]
        self._lock = threading.Lock()
        self._missing: dict[str, None] = {}
        self._seen = {
            (target.name, function.name): bytearray(len(function.code) // INSTRUCTION)
            for target in targets
            for function in target.functions
        }
        self._guests = 0

    def lacks(self, why: str) -> None:
        """Something is missing."""
        with self._lock:
            self._missing[why] = None

    def use(self, qemu: tuple[str, ...], plugin: Path) -> None:
        """A QEMU, by its command, loads that plugin."""
        self._plugins[qemu] = plugin

    def guest(self) -> GuestCoverage:
        """Of one QEMU that is about to be started."""
        return GuestCoverage(self, CoverMap((*self._ranges, *MODULES), self._ranges))

    def option(self, qemu: tuple[str, ...], descriptor: int | None) -> tuple[str, ...]:
        """Of that QEMU's command line."""
        plugin = self._plugins.get(qemu)
        return ("-plugin", f"{plugin},fd={descriptor}") if plugin and descriptor is not None else ()

    def take(self, seen: CoverMap, places: Places | None, *, last: bool) -> None:
        """Add what one kernel has executed.

        :param places: where it lay meanwhile.
        :param last: its QEMU has ended.
        """
        if not seen.loaded:
            self.lacks("a QEMU ran without the plugin")
            return
        with self._lock:
            self._guests += last
            for target in self._targets:
                base = self._base(target, places)
                if base is None:
                    continue
                for function in target.functions:
                    data = seen.read(base + function.start, len(function.code))
                    if data is None:
                        at = base + function.start
                        self._missing[f"{target.name}: it lies at {at:#x}, where nothing is recorded"] = None
                        break
                    _add(self._seen[target.name, function.name], data)

    def _base(self, target: Target, places: Places | None) -> int | None:
        """What the starts of its functions are to be added to."""
        if not target.module:
            return 0 if places is None else places.start - self._start
        where = None if places is None else places.modules.get(target.module, {}).get(_TEXT)
        if where is None:
            why = "the guest ended before it said where" if places is None else "it was not loaded"
            self._missing[f"module {target.module}: {why}"] = None
        return where

    def result(self) -> Coverage:
        """What was recorded so far."""
        with self._lock:
            units = [
                UnitCoverage(
                    name=target.name,
                    module=target.module,
                    code=code_of(target),
                    functions=[_judged(each, self._seen[target.name, each.name]) for each in target.functions],
                )
                for target in self._targets
            ]
            return Coverage(guests=self._guests, units=units, missing=list(self._missing))


class GuestCoverage:
    """Of one QEMU: counts from `begin` on, until it is closed.

    :ivar fd: inherited by QEMU.
    :ivar modules: whose places are wanted.
    """

    def __init__(self, recorder: Recorder, seen: CoverMap) -> None:
        self._recorder, self._map = recorder, seen
        self.fd: int | None = seen.fd
        self.modules = recorder.modules
        self.places: Places | None = None
        self._counts = self._closed = False
        self._lock = threading.Lock()

    def begin(self, *, anew: bool) -> None:
        """The guest is handed out.

        :param anew: what it did before is none of its program's.
        """
        with self._lock:
            if anew and not self._closed:
                self._map.clear()
            self._counts = True

    def located(self, places: Places | None, why: str = "") -> None:
        """Where its kernel lies; None: nobody knows, and why."""
        self.places = places
        if why:
            self._recorder.lacks(why)

    def crashes(self, by: int) -> None:
        """The next kernel will run that far behind where this one runs."""
        with self._lock:
            if not self._closed:
                self._map.move(by)

    def follow(self, before: CoveredGuest) -> None:
        """It goes on with the guest of another QEMU."""
        self.places = before.places
        self.begin(anew=False)

    def ended(self) -> None:
        """Its kernel has ended, and another one begins: its modules may lie elsewhere."""
        with self._lock:
            self._harvest(last=False)
            if not self._closed:
                self._map.clear()
        self.places = None

    def close(self) -> None:
        """QEMU has ended. May be called twice."""
        with self._lock:
            self._harvest(last=True)
            if not self._closed:
                self._closed = True
                self._map.close()

    def _harvest(self, *, last: bool) -> None:
        if self._counts and not self._closed:
            self._recorder.take(self._map, self.places, last=last)


def code_of(target: Target) -> str:
    """See `UnitCoverage.code`."""
    digest = hashlib.sha256()
    for function in target.functions:
        digest.update(function.name.encode() + b"\0" + len(function.code).to_bytes(8, "big") + function.code)
    return digest.hexdigest()[:16]


def _add(seen: bytearray, data: bytes) -> None:
    size = len(seen)
    both = int.from_bytes(seen, "little") | int.from_bytes(data[:size], "little")
    seen[:] = both.to_bytes(size, "little")


def _judged(function: Function, seen: bytes | bytearray) -> FunctionCoverage:
    """By its last instruction: a block was executed that was executed to its end."""
    found = blocks(function.code, function.calls)
    branches = [block.last for block in found if block.branch]

    def lacks(block: Block, bit: int) -> bool:
        return not seen[block.last // INSTRUCTION] & bit

    return FunctionCoverage(
        name=function.name,
        blocks=len(found),
        branches=branches,
        never=[block.start for block in found if lacks(block, EXECUTED)],
        untaken=[block.last for block in found if block.branch and lacks(block, TOOK)],
        unfallen=[block.last for block in found if block.branch and lacks(block, FELL)],
    )


def _ranges(targets: Sequence[Target]) -> list[Range]:
    """What the plugin looks at for built-in functions: as few ranges as it takes, the nearest ones joined."""
    places = sorted(
        (function.start, function.start + len(function.code))
        for target in targets
        if not target.module
        for function in target.functions
    )
    joined: list[Range] = []
    for start, end in places:
        if joined and start - joined[-1][1] < _NEAR:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    while len(joined) > (RANGES - len(MODULES)) // 2:
        gaps = [after[0] - before[1] for before, after in pairwise(joined)]
        at = gaps.index(min(gaps))
        joined[at : at + 2] = [(joined[at][0], joined[at + 1][1])]
    return joined


_NEAR: Final = 4096
"""Bytes between two functions that one range may hold."""
