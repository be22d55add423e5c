"""The flattened device tree, as a kernel is given one (Devicetree Specification 0.4, chapter 5)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

Tree: TypeAlias = dict[str, Any]
"""By name: a property's bytes, a node's tree."""

_MAGIC: Final = 0xD00DFEED
_VERSION: Final = 17
_OLDEST: Final = 16
_BEGIN, _END, _PROPERTY, _LAST = 1, 2, 3, 9
_HEADER: Final = struct.Struct(">10I")
_RESERVED: Final = struct.Struct(">QQ")
_WORD: Final = struct.Struct(">I")

BOOT_CPU_AT: Final = 28
"""Of the header's field that names the CPU which starts the kernel."""


def from_hex(found: Mapping[str, Any]) -> Tree:
    """A tree whose properties are in hex."""
    return {name: bytes.fromhex(it) if isinstance(it, str) else from_hex(it) for name, it in found.items()}


def flatten(tree: Tree, reserved: Sequence[tuple[int, int]]) -> bytes:
    """:param reserved: memory that the kernel must leave alone: address, bytes."""
    names: dict[str, int] = {}
    words = bytearray()
    _node(words, names, "", tree)
    words += _WORD.pack(_LAST)
    strings = b"".join(name.encode() + b"\0" for name in names)
    kept = b"".join(_RESERVED.pack(*each) for each in (*reserved, (0, 0)))
    at = _HEADER.size + len(kept)
    whole = at + len(words) + len(strings)
    head = (_MAGIC, whole, at, at + len(words), _HEADER.size, _VERSION, _OLDEST, 0, len(strings), len(words))
    return _HEADER.pack(*head) + kept + bytes(words) + strings


def _node(words: bytearray, names: dict[str, int], name: str, tree: Tree) -> None:
    """Properties before nodes."""
    words += _WORD.pack(_BEGIN) + _padded(name.encode() + b"\0")
    nodes = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            nodes[key] = value
            continue
        if key not in names:
            names[key] = sum(len(each.encode()) + 1 for each in names)
        words += struct.pack(">III", _PROPERTY, len(value), names[key]) + _padded(value)
    for key, value in nodes.items():
        _node(words, names, key, value)
    words += _WORD.pack(_END)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _WORD.size)
