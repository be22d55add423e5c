"""What was executed of a guest's kernel, as `result.json` has it: sums of it, and what one has and another lacks."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class FunctionCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """One function. Offsets are in bytes, from its first instruction.

    :ivar name: as the kernel or the module has it, with what a compiler appends.
    :ivar blocks: how many basic blocks it has.
    :ivar branches: offset of each conditional branch; it has two outcomes.
    :ivar never: offset of each block that was never executed.
    :ivar untaken: offset of each conditional branch that never led to its target; `unfallen`: never to what follows it.
    """

    name: str
    blocks: int
    branches: list[int] = []
    never: list[int] = []
    untaken: list[int] = []
    unfallen: list[int] = []

    @property
    def outcomes(self) -> int:
        """Of its branches."""
        return 2 * len(self.branches)

    @property
    def reached(self) -> int:
        """Blocks that were executed."""
        return self.blocks - len(self.never)

    @property
    def seen(self) -> int:
        """Outcomes of branches that were seen."""
        return self.outcomes - len(self.untaken) - len(self.unfallen)


class UnitCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """One source file, module, or choice of functions.

    :ivar name: of the unit.
    :ivar module: of the kernel that it is; empty: built in.
    :ivar code: SHA-256, 16 hex digits, of the code of all its functions. Offsets of other code mean something else.
    :ivar functions: by address.
    """

    name: str
    module: str
    code: str
    functions: list[FunctionCoverage]

    @property
    def blocks(self) -> int:
        return sum(each.blocks for each in self.functions)

    @property
    def reached(self) -> int:
        return sum(each.reached for each in self.functions)

    @property
    def outcomes(self) -> int:
        return sum(each.outcomes for each in self.functions)

    @property
    def seen(self) -> int:
        return sum(each.seen for each in self.functions)

    @property
    def entered(self) -> int:
        """Functions of which a block was executed."""
        return sum(each.reached > 0 for each in self.functions)


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """What was executed of a guest's kernel, or of those of several guests together.

    :ivar guests: QEMUs that were counted.
    :ivar units: what was asked for, and could be found.
    :ivar missing: why something of it is not known.
    """

    guests: int = 0
    units: list[UnitCoverage] = []
    missing: list[str] = []


def expect_whole(coverage: Coverage) -> None:
    """Of a file that anybody may have written.

    :raise ValueError: no recorder makes that.
    """
    for unit in coverage.units:
        for each in unit.functions:
            if not each.reached >= 0 or not {*each.untaken, *each.unfallen} <= {*each.branches}:
                raise ValueError(f"coverage of {unit.name}, {each.name}: it lacks more than it has")


def together(several: Iterable[Coverage]) -> Coverage:
    """What was executed in any of them. Units of other code stay apart.

    :raise ValueError: units of the same code have other functions, which no recorder makes.
    """
    units: dict[tuple[str, str], UnitCoverage] = {}
    missing: dict[str, None] = {}
    guests = 0
    for coverage in several:
        guests += coverage.guests
        missing |= dict.fromkeys(coverage.missing)
        for unit in coverage.units:
            key = unit.name, unit.code
            units[key] = _both(units[key], unit) if key in units else unit
    return Coverage(guests=guests, units=list(units.values()), missing=list(missing))


def _both(one: UnitCoverage, other: UnitCoverage) -> UnitCoverage:
    if [(each.name, each.blocks, each.branches) for each in one.functions] != [
        (each.name, each.blocks, each.branches) for each in other.functions
    ]:
        raise ValueError(f"coverage of {one.name}: code {one.code} has other functions in another run")
    pairs = zip(one.functions, other.functions, strict=True)
    return msgspec.structs.replace(one, functions=[_common(first, second) for first, second in pairs])


def _common(one: FunctionCoverage, other: FunctionCoverage) -> FunctionCoverage:
    """Lacks what both lack."""
    lacks = {
        name: sorted(set(getattr(one, name)) & set(getattr(other, name))) for name in ("never", "untaken", "unfallen")
    }
    return msgspec.structs.replace(one, **lacks)


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What one coverage has of a function, and another lacks. Offsets as in `FunctionCoverage`."""

    unit: str
    function: str
    blocks: list[int]


def gained(coverage: Coverage, before: Coverage) -> list[Gain]:
    """Blocks that are reached now, and were not before; of units that both have with the same code."""
    old = {(unit.name, unit.code): unit for unit in before.units}
    found: list[Gain] = []
    for unit in coverage.units:
        if (other := old.get((unit.name, unit.code))) is None:
            continue
        for now, then in zip(unit.functions, other.functions, strict=True):
            if more := sorted(set(then.never) - set(now.never)):
                found.append(Gain(unit=unit.name, function=now.name, blocks=more))
    return found


def uncompared(coverage: Coverage, before: Coverage) -> list[str]:
    """Units of which `gained` says nothing, for the other has none with that code."""
    old = {(unit.name, unit.code) for unit in before.units}
    return [unit.name for unit in coverage.units if (unit.name, unit.code) not in old]
