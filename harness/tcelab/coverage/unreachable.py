"""Blocks that no guest of ours can reach, and why: data, in `unreachable.toml`. An entry that is reached is wrong."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from tcelab.coverage.result import UnitCoverage

FILE: Final = "unreachable.toml"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """:ivar unit: name of its unit.

    :ivar why: one line.
    :ivar functions: names of functions of which no block can be reached, whatever their code.
    :ivar code: of the unit, for `blocks`: in other code they lie elsewhere.
    :ivar blocks: by function, offsets of blocks.
    """

    unit: str
    why: str
    functions: tuple[str, ...] = ()
    code: str = ""
    blocks: dict[str, list[int]] = {}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    unreachable: list[Entry]


class Contradiction(msgspec.Struct, frozen=True):
    """A block that was reached although an entry says that it cannot be; None: any of the function."""

    function: str
    block: int | None
    why: str


class Explained(msgspec.Struct):
    """Of one unit.

    :ivar places: function and offset of each block that was not reached, and cannot be.
    :ivar reasons: how many of them by reason.
    :ivar wrong: entries that are contradicted.
    """

    places: set[tuple[str, int]]
    reasons: dict[str, int]
    wrong: list[Contradiction]

    @property
    def blocks(self) -> int:
        return len(self.places)


@cache
def entries() -> tuple[Entry, ...]:
    data = (Path(__file__).parent / FILE).read_bytes()
    return tuple(msgspec.toml.decode(data, type=_File).unreachable)


def explained(unit: UnitCoverage, known: tuple[Entry, ...] | None = None) -> Explained:
    """What of a unit cannot be reached.

    :param known: by default those of the file.
    """
    out = Explained(set(), {}, [])
    functions = {each.name: each for each in unit.functions}
    for entry in entries() if known is None else known:
        if entry.unit != unit.name:
            continue
        for name in entry.functions:
            if (function := functions.get(name)) is None:
                continue
            if function.reached:
                out.wrong.append(Contradiction(name, None, entry.why))
            _add(out, entry, name, function.never)
        if entry.code != unit.code:
            continue
        for name, places in entry.blocks.items():
            never = set(functions[name].never) if name in functions else set()
            out.wrong += [Contradiction(name, at, entry.why) for at in places if at not in never]
            _add(out, entry, name, [at for at in places if at in never])
    return out


def _add(out: Explained, entry: Entry, name: str, blocks: list[int]) -> None:
    fresh = [at for at in blocks if (name, at) not in out.places]
    out.places.update((name, at) for at in fresh)
    if fresh:
        out.reasons[entry.why] = out.reasons.get(entry.why, 0) + len(fresh)
