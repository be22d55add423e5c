"""Decodes programs as people write them, with hexadecimal numbers and topologies by name; explains what is wrong.

JSON has no hexadecimal numbers: wherever a number is allowed, a string such as "0x1f000" is one, even if a name is
allowed as well. Therefore no file may have such a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from tcelab.errors import UsageError, in_words, meant
from tcelab.program.topology import topology

__all__ = ["decode"]

T = TypeVar("T")

_HEX: Final = re.compile(r"0[xX][0-9a-fA-F]+")
_QUOTED_HEX: Final = re.compile(rb'"0[xX]')
_WHERE: Final = re.compile(r"`\$\.ops\[(\d+)\]\.?(.*)`$")
_UNKNOWN: Final = re.compile(r"unknown field `(\w+)`$")
_NAMES: Final = ("file", "into")
_SHOWN: Final = 60
"""Characters shown of an element that is no operation."""
PAGE: Final = "docs/operations.md"


def decode(data: bytes, kind: type[T], source: str) -> T:
    """Decode a program.

    :param kind: `tcelab.program.program.Program`.
    :param source: what to call the data in messages.
    :raise UsageError: it is not a program, or has a key twice, in one line that names the operation.
    :raise msgspec.DecodeError: it is not JSON. :raise UnicodeDecodeError: it is not text.
    """
    if twice := _twice(data):
        raise UsageError(f"{source} is not a program: {twice}", next_step="leave one of them out")
    if not _QUOTED_HEX.search(data):
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            pass  # explained below
    raw = msgspec.json.decode(data)
    try:
        eased = _eased(raw, inspect.type_info(kind))
        if isinstance(eased, dict) and isinstance(eased.get("topology"), str):
            eased["topology"] = topology(eased["topology"])
        return msgspec.convert(msgspec.to_builtins(eased), kind)
    except msgspec.ValidationError as error:
        raise _explained(str(error), raw, source, kind) from None


class _Doubled(dict[str, Any]):
    """An object that has a key twice."""

    key = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    doubled = _Doubled(made)
    seen: set[str] = set()
    doubled.key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return doubled


def _twice(data: bytes) -> str:
    """The first key that an object has twice, and where; empty if there is none. msgspec would take the last one."""
    found = False

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        value = _object(pairs)
        found = found or isinstance(value, _Doubled)
        return value

    try:
        raw = json.loads(data, object_pairs_hook=made)
    except (ValueError, RecursionError):
        return ""  # not JSON: the decoder reports it
    if not found:
        return ""
    ops = raw.get("ops") if isinstance(raw, dict) else None
    for number, op in enumerate(ops if isinstance(ops, list) else []):
        if key := _key_twice(op):
            name = f" ({op['op']})" if isinstance(op, dict) and isinstance(op.get("op"), str) else ""
            return f'operation {number}{name} has "{key}" twice'
    return f'it has "{_key_twice(raw)}" twice'


def _key_twice(value: object) -> str:
    if isinstance(value, _Doubled):
        return value.key
    inside: Iterable[object] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_key_twice, inside)), "")


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _eased(value: Any, kind: inspect.Type) -> Any:  # noqa: ANN401 - JSON, whatever is in it
    """The value with strings as numbers where its type takes a number. What does not fit its type stays unchanged."""
    match kind:
        case inspect.UnionType():
            return _of_union(value, kind)
        case inspect.IntType():
            return int(value, 16) if _is_hex(value) else value
        case inspect.StructType():
            return _of_struct(value, kind)
        case inspect.ListType() | inspect.VarTupleType() if isinstance(value, list):
            return [_eased(each, kind.item_type) for each in value]
        case inspect.DictType() if isinstance(value, dict):
            return {name: _eased(each, kind.value_type) for name, each in value.items()}
    return value


def _of_struct(value: Any, kind: inspect.StructType) -> Any:  # noqa: ANN401
    types = {field.encode_name: field.type for field in kind.fields}
    if kind.array_like and isinstance(value, list):
        pairs = zip(value, [*types.values(), *[inspect.AnyType()] * len(value)], strict=False)
        return [_eased(each, its) for each, its in pairs]
    if not isinstance(value, dict):
        return value
    for name in _NAMES:
        if name in types and _is_hex(value.get(name)):
            raise msgspec.ValidationError(f"`{name}` is {value[name]!r}, which is a number: give the file another name")
    return {name: _eased(each, types[name]) if name in types else each for name, each in value.items()}


def _of_union(value: Any, kind: inspect.UnionType) -> Any:  # noqa: ANN401
    if any(isinstance(each, inspect.IntType) for each in kind.types) and _is_hex(value):
        return int(value, 16)
    lists = [each for each in kind.types if isinstance(each, inspect.ListType)]
    if isinstance(value, list) and lists:
        return _eased(value, lists[0])
    structs = [each for each in kind.types if isinstance(each, inspect.StructType)]
    if isinstance(value, dict):
        fitting = [each for each in structs if each.tag_field is None or value.get(each.tag_field) == each.tag]
        return _of_struct(value, fitting[0]) if len(fitting) == 1 else value
    return value


def _explained(text: str, raw: object, source: str, kind: type) -> UsageError:
    """The error, with the operation that it is about and the fields which that takes."""
    found = _WHERE.search(text)
    if found is None:
        return UsageError(f"{source} is not a program: {in_words(text)}", next_step=f"see {PAGE}")
    number = int(found[1])
    text = in_words(text.replace(found[0], f"`$.{found[2]}`"))
    op = raw["ops"][number] if isinstance(raw, dict) else None
    name = op.get("op") if isinstance(op, dict) else None
    known = _operations(kind)
    if not isinstance(name, str) or name not in known:
        if not isinstance(op, dict):
            text = f'{json.dumps(op)[:_SHOWN]} is no object with a field "op"'
        elif "op" not in op:
            text = 'it has no field "op", which says what to do'
        steps = f"operations are: {', '.join(known)}; see {PAGE}"
        if isinstance(name, str):
            steps = " ".join(filter(None, [meant(name, known), steps]))
        field = ", " if text.startswith("field") else ": "
        return UsageError(f"{source} is not a program: operation {number}{field}{text}", next_step=steps)
    fields = known[name].fields
    needed = ", ".join(f'"{field.encode_name}"' for field in fields if field.required)
    other = ", ".join(f'"{field.encode_name}"' for field in fields if not field.required)
    steps = f'"{name}" needs {needed or "nothing"} and takes {other}; see {PAGE}'
    if (unknown := _UNKNOWN.search(text)) and (hint := meant(unknown[1], [each.encode_name for each in fields])):
        steps = f"{hint} {steps}"
    if "Expected `int" in text and "got `str`" in text:
        steps = 'write a number as 4096 or as "0x1000"'
    field = ", " if text.startswith("field") else ": "
    return UsageError(f"{source} is not a program: operation {number} ({name}){field}{text}", next_step=steps)


def _operations(kind: type) -> Mapping[str, inspect.StructType]:
    """The operations of programs by name."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    (ops,) = [field.type for field in info.fields if field.name == "ops"]
    assert isinstance(ops, inspect.ListType)
    assert isinstance(ops.item_type, inspect.UnionType)
    return {str(each.tag): each for each in ops.item_type.types if isinstance(each, inspect.StructType)}
