"""The part of a program that shows a finding: all of a short one, else the operations that the finding needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

WHOLE: Final = 40
"""Operations of a program that is shown whole."""
_AROUND: Final = 3
"""Operations before and after that are shown for what they tell."""
_MOST: Final = 60
"""Operations that are shown of a long one."""
_SETUP: Final = frozenset({"SET_CONTAINER", "UNSET_CONTAINER", "SET_IOMMU", "ENABLE", "DISABLE", "CREATE", "REMOVE"})
_NUMBER: Final = re.compile(r"#(\d+) ")
_HEX: Final = frozenset({"iova", "ioba", "liobn", "vaddr", "start_addr", "value", "address"})
"""Numbers that a person reads in hexadecimal."""

Op = dict[str, Any]


class Line(NamedTuple):
    """An operation: its number and text. `mark`: `did` for the one that concerned the entry, `seen` for that at which
    it was seen, else empty. With number -1, `text` tells how many are left out.
    """

    number: int
    text: str
    mark: str = ""


class Excerpt(NamedTuple):
    """:ivar total: operations of the whole program; `shown`: those in `lines`."""

    name: str
    lines: list[Line]
    total: int
    shown: int


def whole(name: str, program: dict[str, Any]) -> Excerpt:
    """A shrunk program: nothing of it can be left out, but what is beyond all measure is."""
    ops = program["ops"]
    return Excerpt(name, list(_lines(ops, range(min(len(ops), _MOST)), -1, -1)), len(ops), min(len(ops), _MOST))


def around(name: str, program: dict[str, Any], operation: str, step: int) -> Excerpt:
    """What a finding needs.

    :param name: of the program's file.
    :param operation: `#12 {json}`, the last one that concerned the entry, or empty.
    :param step: number of the operation at which it was seen.
    """
    ops: list[Op] = program["ops"]
    found = _NUMBER.match(operation)
    did = int(found[1]) if found is not None else step
    did, step = (max(0, min(each, len(ops) - 1)) for each in (did, step))
    shown: Iterable[int] = range(len(ops)) if len(ops) <= WHOLE else _needed(ops, did, step)
    numbers = sorted(shown)
    return Excerpt(name, list(_lines(ops, numbers, did if found else -1, step)), len(ops), len(numbers))


def _needed(ops: Sequence[Op], did: int, step: int) -> set[int]:
    """The neighbours of both operations, and what made what they name."""
    first = _part(ops, did)
    out = {i for i in range(did - _AROUND, did + _AROUND + 1) if first <= i < len(ops)}
    out |= {i for i in range(max(did, step - _AROUND), step + 1) if i < len(ops)}
    if not ops:
        return out
    named = {word for i in (did, step) for word in _words(ops[i])}
    place = _place(ops[did])
    for i in range(did - 1, first - 1, -1):
        if len(out) >= _MOST:
            break
        words = _words(ops[i])
        if _overlap(_place(ops[i]), place) or (words & named and _makes(ops[i])):
            named |= words
            out.add(i)
    return out


def _place(op: Op) -> tuple[int, int]:
    """Bus addresses that an operation is about: begin and end, equal for none."""
    fields = op.get("fields") if isinstance(op.get("fields"), dict) else None
    told = {**op, **(fields or {})}
    begin, size = told.get("iova", told.get("ioba", "")), told.get("size", 1)
    try:
        start = int(begin, 16) if isinstance(begin, str) else int(begin)
        return start, start + (int(size, 16) if isinstance(size, str) else int(size))
    except (TypeError, ValueError):
        return 0, 0


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def _part(ops: Sequence[Op], number: int) -> int:
    """Number of the first operation on the same guest."""
    return next((i + 1 for i in range(number - 1, -1, -1) if ops[i].get("op") == "fresh"), 0)


def _makes(op: Op) -> bool:
    """Does it make something, or set it up? Others only use it."""
    kind = op.get("op")
    if kind == "ioctl":
        return bool(op.get("into")) or str(op.get("request")).rpartition("_")[2] in {*_SETUP, "CONTAINER", "IOMMU"}
    return kind in {"buffer", "open", "bind", "spawn", "engine", "protect", "master"}


def _words(op: Op) -> set[str]:
    """Names of files, buffers, devices and processes in an operation."""
    known = (op.get(name) for name in ("file", "into", "name", "buffer", "device", "process", "by"))
    out = {each for each in known if isinstance(each, str) and each}
    out |= {each[1:] for each in re.findall(r"\$[\w-]+", str(op.get("path", "")))}
    for value in (op.get("fields") or {}).values() if isinstance(op.get("fields"), dict) else ():
        if isinstance(value, str):
            out.add(value)
        elif isinstance(value, dict) and isinstance(value.get("buffer"), str):
            out.add(value["buffer"])
    return out


def _lines(ops: Sequence[Op], numbers: Iterable[int], did: int, seen: int) -> Iterator[Line]:
    last = -1
    for number in numbers:
        if number > last + 1:
            yield _gap(number - last - 1)
        yield Line(number, text(ops[number]), "did" if number == did else "seen" if number == seen else "")
        last = number
    if last + 1 < len(ops):
        yield _gap(len(ops) - last - 1)


def _gap(count: int) -> Line:
    return Line(-1, f"{count:,} operation{'s' if count > 1 else ''}")


def text(op: Op) -> str:
    """An operation in one line: its kind, then its fields, addresses in hexadecimal."""
    rest = {name: value for name, value in op.items() if name not in {"op", "expect"} and _tells(name, value)}
    if op.get("expect") is not None:
        rest["expect"] = op["expect"]
    return " ".join([str(op.get("op", "?")), *(f"{name}={_value(name, value)}" for name, value in rest.items())])


def _tells(name: str, value: Any) -> bool:  # noqa: ANN401 - JSON
    """Without the fields that say nothing: what is off, or not there."""
    return value not in ("", None, {}) and value is not False and not (value == 0 and name in {"batch", "seed"})


def _value(name: str, value: Any) -> str:  # noqa: ANN401 - JSON
    if isinstance(value, int) and not isinstance(value, bool) and name in _HEX:
        return f"{value:#x}"
    if isinstance(value, dict):
        if set(value) <= {"buffer", "index", "plus"} and "buffer" in value:
            plus = f"+{value['plus']:#x}" if value.get("plus") else ""
            return f"{value['buffer']}:{value.get('index', 0)}{plus}"
        return "{" + ", ".join(f"{key}={_value(str(key), each)}" for key, each in value.items()) + "}"
    told = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return told if len(told) <= _LONG else f"{told[:_LONG]}..."


_LONG: Final = 400
"""Characters of one field that are shown."""
