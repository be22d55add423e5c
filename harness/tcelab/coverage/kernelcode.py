"""The functions of a kernel and of its modules: built-in ones by the symbols that the running kernel tells, with the
code of its file; those of modules by the symbol table of the module, as the initrd carries it.
"""

from __future__ import annotations

import fnmatch
import io
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from tcelab.coverage.recorder import Function, Target
from tcelab.coverage.units import DEFAULT, UNITS, Unit
from tcelab.errors import Unsupported, UsageError
from tcelab.image.elf import BadElfError, Elf

LINEAR: Final = 0xC000000000000000
"""PAGE_OFFSET, where RAM is mapped: arch/powerpc/include/asm/page.h."""
_CODE: Final = frozenset("tTwW")
_TEXT: Final = ".text"
_BEGIN, _END, _INIT_BEGIN, _INIT_END = "_stext", "_etext", "_sinittext", "_einittext"
_SUFFIX: Final = re.compile(r"\.(?:isra|constprop|part|cold|llvm)(?:\.\d+)*.*")
"""What a compiler appends to the name of a function that it has changed or split."""
_BRANCH: Final = 18
_ZEROS: Final = b"\0\0\0\0"


class KernelCode:
    """One kernel, its modules, and its symbols."""

    def __init__(self, kernel: Path, initrd: Path, symbols: str) -> None:
        """:param symbols: as /proc/kallsyms has them.

        :raise Unsupported: its code cannot be told from them.
        """
        self._kernel, self._initrd = kernel, initrd
        rows = [line.split(maxsplit=2) for line in symbols.splitlines()]
        marks = {row[2]: int(row[0], 16) for row in rows if len(row) == 3}  # noqa: PLR2004 - address, type, name
        if not {_BEGIN, _END} <= marks.keys() or not marks[_BEGIN]:
            raise Unsupported("the kernel does not tell where its functions lie: it has no symbols (CONFIG_KALLSYMS)")
        self.start, self._end = marks[_BEGIN], marks[_END]
        self._init = marks.get(_INIT_BEGIN, 0), marks.get(_INIT_END, 0)
        found = {int(row[0], 16): row[2] for row in rows if len(row) == 3 and row[1] in _CODE}  # noqa: PLR2004
        self._names = dict(sorted(found.items()))
        self._addresses = list(self._names)

    # -- choosing

    def targets(self, chosen: Sequence[str]) -> tuple[list[Target], list[str]]:
        """What of it was asked for, and why some of it cannot be had.

        :param chosen: names of units or of modules, or patterns of built-in functions; empty: the usual units.
        :raise UsageError: one of the names is of nothing.
        """
        found: list[Target] = []
        missing: list[str] = []
        for name in chosen or DEFAULT:
            unit = UNITS.get(name) or Unit(module=name)
            target = self._module(name, unit) or self._built_in(name, unit.functions or (name,))
            if target is not None:
                found.append(target)
            elif name in UNITS:
                missing.append(f"{name}: this kernel has none of its functions, built in or in the initrd's modules")
            else:
                raise UsageError(
                    f"--coverage-of {name}: no unit, no module of the guest and no built-in function is called so",
                    next_step=f"the units are {', '.join(UNITS)}; a pattern of functions is one as in tce_*",
                )
        return found, missing

    def _built_in(self, name: str, patterns: Iterable[str]) -> Target | None:
        wanted = re.compile("|".join(fnmatch.translate(each) for each in patterns))
        functions = []
        for address, symbol in self._names.items():
            plain = symbol if wanted.fullmatch(symbol) else _SUFFIX.sub("", symbol)
            if self._is_code(address) and wanted.fullmatch(plain):
                functions.append(self._function(symbol, address))
        functions = [each for each in functions if each.code]
        return Target(name, "", functions) if functions else None

    def _is_code(self, address: int) -> bool:
        return self.start <= address < self._end and not self._init[0] <= address < self._init[1]

    def _function(self, name: str, address: int) -> Function:
        following = self._addresses[bisect_right(self._addresses, address) :][:1]
        size = (following[0] if following else self._end) - address
        code = self._read(address, size)
        while code.endswith(_ZEROS):
            code = code[:-4]
        calls: dict[int, str] = {}
        for offset in range(0, len(code) - 3, 4):
            word = int.from_bytes(code[offset : offset + 4], "little")
            if word >> 26 == _BRANCH:
                jump = (word & 0x03FFFFFC) - ((word & 0x02000000) << 1)
                if not 0 <= offset + jump < len(code):
                    calls[offset] = self._named(address + offset + jump)
        return Function(name, address, code, calls)

    def _named(self, address: int) -> str:
        """The function that an address lies in: a call may enter it behind its first instructions."""
        at = bisect_right(self._addresses, address) - 1
        return self._names[self._addresses[at]] if at >= 0 else "?"

    def _read(self, address: int, size: int) -> bytes:
        for first, data in self._segments:
            if first <= address < first + len(data):
                return data[address - first : address - first + size]
        return b""

    @cached_property
    def _segments(self) -> list[tuple[int, bytes]]:
        try:
            with self._kernel.open("rb") as file:
                elf = Elf(file)
                if not elf.little_endian:
                    raise Unsupported(f"{self._kernel} is big-endian: coverage is for little-endian kernels")
                return [(LINEAR + place, data) for place, data, _ in elf.loaded()]
        except (OSError, BadElfError) as error:
            raise Unsupported(f"the code of {self._kernel} cannot be read: {error}") from None

    # -- modules

    def _module(self, name: str, unit: Unit) -> Target | None:
        content = self._carried.get(unit.module.replace("-", "_")) if unit.module else None
        if content is None:
            return None
        try:
            elf = Elf(io.BytesIO(content))
            text, branches = elf.section(_TEXT), elf.branches(_TEXT)
            rows = {start: (symbol, size) for symbol, start, size in elf.functions(_TEXT)}
        except BadElfError as error:
            raise Unsupported(f"the module {unit.module} cannot be read: {error}") from None
        functions = [
            Function(
                symbol,
                start,
                text[start : start + size],
                {at - start: called for at, called in branches.items() if start <= at < start + size},
            )
            for start, (symbol, size) in sorted(rows.items())
        ]
        return Target(name, unit.module.replace("-", "_"), functions)

    @cached_property
    def _carried(self) -> dict[str, bytes]:
        """The modules in the initrd, by name with underscores."""
        data = self._initrd.read_bytes()
        found: dict[str, bytes] = {}
        at = 0
        while (at := data.find(_CPIO, at)) >= 0:
            size, length = (int(data[at + place : at + place + 8], 16) for place in (54, 94))
            path = data[at + _HEAD : at + _HEAD + length - 1].decode("ascii", "replace")
            begin = at + -(-(_HEAD + length) // 4) * 4
            if path.endswith(".ko"):
                found[Path(path).stem.replace("-", "_")] = data[begin : begin + size]
            at = begin + size
        return found


_CPIO: Final = b"070701"
_HEAD: Final = 110
"""Of a member of a newc archive: Documentation/driver-api/early-userspace/buffer-format.rst."""
