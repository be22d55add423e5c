"""Describes a struct for the pages, from its docstring: a summary, and each field's type, default and meaning."""

from __future__ import annotations

import inspect
import json
import re
from typing import Final

import msgspec
from msgspec.inspect import DictType, Field, ListType, LiteralType, NoneType, StructType, Type, UnionType

_SIMPLE: Final = {
    "IntType": "number",
    "FloatType": "number",
    "BoolType": "true or false",
    "StrType": "text",
    "AnyType": "anything",
}


def summary(kind: type) -> str:
    """A docstring without its fields."""
    text = inspect.cleandoc(kind.__doc__ or "").partition(":ivar")[0]
    return text.strip()


def fields_told(kind: type) -> dict[str, str]:
    """What the docstrings of a struct and its bases say of each field, on one line."""
    out: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if issubclass(each, msgspec.Struct):
            out |= _own_fields(each)
    return out


def _own_fields(kind: type) -> dict[str, str]:
    text = inspect.cleandoc(kind.__doc__ or "")
    out: dict[str, str] = {}
    for part in text.split(":ivar ")[1:]:
        first, _, about = part.partition(":")
        out[first] = line(about)
        # Several fields may share one entry: `a`: this; `b`: that.
        for name, more in re.findall(r"[;.] `(\w+)`: ([^;]+)", about):
            out.setdefault(name, line(more))
    return out


def line(text: str) -> str:
    joined = re.sub(r"\bNone\b", "null", " ".join(text.split()))
    return (joined[:1].upper() + joined[1:]).replace("|", "\\|")


def type_told(kind: Type) -> str:
    """A type in words."""
    match kind:
        case UnionType():
            return " or ".join(type_told(each) for each in kind.types if not isinstance(each, NoneType))
        case ListType():
            return f"list of {type_told(kind.item_type)}"
        case DictType():
            return f"{type_told(kind.key_type)} to {type_told(kind.value_type)}"
        case LiteralType():
            return ", ".join(json.dumps(value) for value in sorted(kind.values, key=str))
        case StructType():
            return {"Page": "place in a buffer", "Tce": "TCE"}.get(kind.cls.__name__, f"`{kind.cls.__name__.lower()}`")
    return _SIMPLE[type(kind).__name__]


def default_told(field: Field) -> str:
    """A default as JSON; empty if it is a struct or holds structs."""
    if field.required:
        return "needed"
    if field.default_factory is not msgspec.NODEFAULT:
        made = field.default_factory()
        return json.dumps(made) if made in ([], {}) else ""
    return json.dumps(field.default)
