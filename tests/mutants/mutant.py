"""What a mutant is: the emulator with one thing wrong, for as long as a context lasts."""

from __future__ import annotations
import __future__

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from textwrap import dedent
from types import FunctionType
from typing import Any

LATER = __future__.annotations.compiler_flag
"""Annotations are not evaluated, as in the modules whose functions are edited."""

NO_SEED = "no kernel of today has this driver"
NO_MODULE = "no raw hypercalls before the kernel module"
"""Why no guest of today shows a mutant."""


@dataclass(frozen=True)
class Mutant:
    """:ivar kind: drop, swap, errno, quirk, request, extension, partial, by hand.

    :ivar of: what is wrong: a profile, `core` (the VFIO core and what is around the driver) or `hcalls`.
    :ivar alive: in this context it is wrong. Gives what is to be used in its place: a profile, or the rules of
        hypercalls; None where the code itself was changed.
    :ivar words: requests or other operations without which it cannot show; empty: nobody knows.
    :ivar guest: True if a guest of today must show it, else why none does.
    :ivar equivalent: why nobody can tell it from the original, when it follows from how it was made.
    """

    name: str
    kind: str
    of: str
    alive: Callable[[], AbstractContextManager[Any]]
    words: frozenset[str | int] = frozenset()
    guest: bool | str = True
    equivalent: str = ""


@contextmanager
def using(what: Any) -> Iterator[Any]:
    """Nothing is changed but what the tests are given to use."""
    yield what


@contextmanager
def with_entry(table: dict[Any, Any], key: Any, value: Any) -> Iterator[None]:
    """A table with another entry, None: without it."""
    before = dict(table)
    if value is None:
        del table[key]
    else:
        table[key] = value
    try:
        yield
    finally:
        table.clear()
        table.update(before)


@contextmanager
def with_code(function: FunctionType, before: str, after: str) -> Iterator[None]:
    """A function with another piece of source, wherever it is known: in classes, in tables of rules."""
    source = dedent(inspect.getsource(function))
    assert source.count(before) == 1, f"{function.__qualname__} has {source.count(before)} times {before!r}"
    edited = compile(source.replace(before, after), function.__code__.co_filename, "exec", LATER)
    made: dict[str, Any] = {}
    exec(edited, function.__globals__, made)
    original = function.__code__
    function.__code__ = made[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = original
