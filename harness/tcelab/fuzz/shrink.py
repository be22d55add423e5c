"""The smallest program that still fails: delta debugging over operations, then over their arguments."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tcelab.errors import UsageError
from tcelab.fuzz import simpler
from tcelab.logs import NOTE
from tcelab.program import Buffer, Checkpoint, Op, Program, is_guest
from tcelab.program.validate import Checker, validate

_LOG: Final = logging.getLogger(__name__)

MOST: Final = 2000

Fails = Callable[[Program], bool]


class EnoughError(Exception):
    """The tries are used up. `fails` may raise this as well."""


def shrink(program: Program, fails: Fails, *, most: int = MOST) -> Program:
    """The smallest program found that fails like this one; the program itself if it does not fail, or is not whole.
    Deterministic. If the last operation is a checkpoint, it stays.

    :param fails: called with whole programs only, once with each; may raise `EnoughError`.
    :param most: how often `fails` is asked.
    """
    search = _Search(program, fails, most)
    try:
        search.begin()
    except EnoughError:
        _LOG.info("stopped after %d tries", search.asked, extra=NOTE)
    return search.best


def watch_all(program: Program) -> Program:
    """The program with a checkpoint after every guest operation."""
    ops: list[Op] = []
    following = [*program.ops[1:], None]
    for number, (op, after) in enumerate(zip(program.ops, following, strict=True)):
        ops.append(op)
        if is_guest(op) and not isinstance(after, Checkpoint):
            ops.append(Checkpoint(label=f"after operation {number}"))
    return msgspec.structs.replace(program, ops=ops)


def whole(program: Program, ops: Sequence[Op]) -> list[Op]:
    """The operations that can still be done: without those that need a name that is no longer made."""
    checker = Checker(program)
    kept: list[Op] = []
    for op in ops:
        try:
            checker.check(op)
        except UsageError:
            continue
        kept.append(op)
    return kept


class _Search:
    """:ivar best: the smallest program known to fail; at first the given one. `asked`: calls of `fails` so far."""

    def __init__(self, program: Program, fails: Fails, most: int) -> None:
        self.best = program
        self._fails = fails
        self._left = most
        self.asked = 0
        self._tried: dict[bytes, bool] = {}
        self._end = [op for op in program.ops[-1:] if isinstance(op, Checkpoint)]

    def begin(self) -> None:
        if not self._try(self.best.ops):
            return
        self._prefix()
        self._merge()
        before: Program | None = None
        while before is not self.best:
            before = self.best
            self._chunks()
            self._arguments()

    # -- operations

    def _prefix(self) -> None:
        """Cut what comes after the failure first: that is most of a long program. If the last operation cannot go, as
        in a program that was cut already, none can.
        """
        least, enough = 0, len(self._body())
        middle = enough - 1
        while least < enough:
            if self._take([*self._body()[:middle], *self._end]):
                enough = min(middle, len(self._body()))
            else:
                least = middle + 1
            middle = (least + enough) // 2

    def _chunks(self) -> None:
        size = max(len(self._body()) // 2, 1)
        while size:
            # From the end: the fewest operations depend on the last ones.
            at = len(self._body())
            while at > 0:
                body = self._body()
                at = min(at, len(body))
                first = max(at - size, 0)
                self._take([*body[:first], *body[at:], *self._end])
                at = first
            size //= 2

    def _body(self) -> list[Op]:
        """The operations that may go."""
        return self.best.ops[: len(self.best.ops) - len(self._end)]

    # -- arguments

    def _merge(self) -> None:
        for change in simpler.merged(self.best.ops):
            self._take(change(self.best.ops))

    def _arguments(self) -> None:
        self._merge()
        for buffer in simpler.buffers(self.best.ops):
            self._cut(buffer)
        for role in simpler.ROLES:
            self._take(simpler.shifted(self.best.ops, role))
            for number in simpler.numbers(self.best.ops, role):
                self._lower(role, number)
        at = 0
        while at < len(self._body()):
            before, op, after = self.best.ops[:at], self.best.ops[at], self.best.ops[at + 1 :]
            if not any(self._take([*before, *instead, *after]) for instead in simpler.alone(op)):
                at += 1

    def _cut(self, buffer: Buffer) -> None:
        for pages in simpler.smaller(buffer.pages, 1):
            if self._take(simpler.cut(self.best.ops, buffer, pages)):
                self._cut(msgspec.structs.replace(buffer, pages=pages))
                return

    def _lower(self, role: simpler.Role, number: int) -> None:
        """Make a number smaller everywhere, as far as that goes."""
        for less in simpler.smaller(number):
            if self._take(simpler.with_number(self.best.ops, role, number, less)):
                self._lower(role, less)
                return

    # -- tries

    def _take(self, ops: Sequence[Op]) -> bool:
        """Keep these operations if they still fail."""
        kept = whole(self.best, ops)
        if kept == self.best.ops or self._hangs(kept) or not self._try(kept):
            return False
        self.best = msgspec.structs.replace(self.best, ops=kept)
        _LOG.info("%d operations fail (%d programs tried)", len(kept), len(self._tried), extra=NOTE)
        return True

    def _hangs(self, ops: list[Op]) -> bool:
        # Smaller numbers may bring an UNMAP_DMA of a huge size into the window.
        had, has = (simpler.endless_unmaps(each, self.best.topology) for each in (self.best.ops, ops))
        return has > had

    def _try(self, ops: list[Op]) -> bool:
        candidate = msgspec.structs.replace(self.best, ops=ops)
        key = hashlib.sha256(msgspec.json.encode(candidate)).digest()
        if key not in self._tried:
            try:
                validate(candidate)
            except UsageError:
                return False
            if not self._left:
                raise EnoughError
            self._left -= 1
            self.asked += 1
            self._tried[key] = self._fails(candidate)
        return self._tried[key]
