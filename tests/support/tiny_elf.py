"""A relocatable ELF file of ppc64le with functions in `.text`, as a kernel module is."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

_REL24 = 10
_FUNC, _GLOBAL = 2, 1


class _Section(NamedTuple):
    name: str
    kind: int
    data: bytes
    link: int = 0
    info: int = 0
    entry: int = 0


def module(functions: Mapping[str, Sequence[int]], calls: Mapping[tuple[str, int], str]) -> bytes:
    """:param functions: name and instructions, one behind the other.

    :param calls: function and offset in it to the symbol that a branch there is relocated to.
    """
    sizes = [4 * len(words) for words in functions.values()]
    starts = dict(zip(functions, [0, *accumulate(sizes)], strict=False))
    text = b"".join(struct.pack(f"<{len(words)}I", *words) for words in functions.values())
    others = list(dict.fromkeys(calls.values()))
    names = _Names()
    symbols = bytes(24)
    for name, size in zip(functions, sizes, strict=True):
        symbols += struct.pack("<IBBHQQ", names.add(name), _GLOBAL << 4 | _FUNC, 0, 1, starts[name], size)
    for name in others:
        symbols += struct.pack("<IBBHQQ", names.add(name), _GLOBAL << 4, 0, 0, 0, 0)
    first = 1 + len(functions)
    rela = b"".join(
        struct.pack("<QQq", starts[name] + at, (first + others.index(to)) << 32 | _REL24, 0)
        for (name, at), to in calls.items()
    )
    return _file(
        [
            _Section("", 0, b""),
            _Section(".text", 1, text),
            _Section(".rela.text", 4, rela, link=3, info=1, entry=24),
            _Section(".symtab", 2, symbols, link=4, info=1, entry=24),
            _Section(".strtab", 3, names.data),
        ]
    )


class _Names:
    def __init__(self) -> None:
        self.data = b"\0"

    def add(self, name: str) -> int:
        at = len(self.data)
        self.data += name.encode() + b"\0"
        return at


def _file(sections: Sequence[_Section]) -> bytes:
    names = _Names()
    places = [names.add(each.name) for each in sections]
    sections = [*sections, _Section(".shstrtab", 3, b"")]
    places.append(names.add(".shstrtab"))
    sections[-1] = _Section(".shstrtab", 3, names.data)
    body, rows = b"", b""
    for place, each in zip(places, sections, strict=True):
        body += bytes(-len(body) % 8)
        rows += struct.pack(
            *("<IIQQQQIIQQ", place, each.kind, 0, 0, 64 + len(body), len(each.data)),
            *(each.link, each.info, 8, each.entry),
        )
        body += each.data
    body += bytes(-len(body) % 8)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    head = struct.pack(
        "<HHIQQQIHHHHHH", 1, 21, 1, 0, 0, 64 + len(body), 2, 64, 0, 0, 64, len(sections), len(sections) - 1
    )
    return ident + head + body + rows
