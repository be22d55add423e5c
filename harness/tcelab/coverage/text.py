"""Coverage as text: a line for each unit, and, where there is room, one for each function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tcelab.coverage.result import Coverage, FunctionCoverage, Gain, UnitCoverage
from tcelab.coverage.unreachable import Contradiction, Explained, explained
from tcelab.errors import counted

_SHOWN: Final = 12
"""Blocks of one function that are named."""


def percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def unit_lines(coverage: Coverage) -> Iterator[str]:
    """A line for each unit, and what is missing."""
    if coverage.units:
        yield f"coverage in {counted(coverage.guests, 'QEMU')}: functions entered, blocks, outcomes of branches"
    for unit in coverage.units:
        known = explained(unit)
        why = f"; {known.blocks} more cannot be reached" if known.blocks else ""
        yield (
            f"  {unit.name:<24} {_of(unit.entered, len(unit.functions)):>9}"
            f" {_of(unit.reached, unit.blocks):>11} {percent(unit.reached, unit.blocks):5.1f} %"
            f" {_of(unit.seen, unit.outcomes):>10} {percent(unit.seen, unit.outcomes):5.1f} %{why}"
        )
        for wrong in known.wrong:
            yield f"  {_contradiction(wrong)}"
    for why in coverage.missing:
        yield f"coverage is missing: {why}"


def function_lines(coverage: Coverage) -> Iterator[str]:
    """Of each unit a line for each function, those first that lack most; and why blocks cannot be reached."""
    for unit in coverage.units:
        known = explained(unit)
        yield f"{unit.name}, {'module ' + unit.module if unit.module else 'built in'}, code {unit.code}"
        yield f"  {'blocks':>9} {'outcomes':>9}  function, and where blocks begin that were never executed"
        for each in sorted(unit.functions, key=lambda one: (one.reached == 0, -len(one.never))):
            yield _function(each, known)
        for why, blocks in known.reasons.items():
            yield f"  cannot be reached, {counted(blocks, 'block')}: {why}"


def gain_lines(gains: Sequence[Gain]) -> Iterator[str]:
    """What is reached that was not before."""
    blocks = sum(len(each.blocks) for each in gains)
    if not gains:
        yield "no block is reached that was not reached before"
        return
    yield f"{counted(blocks, 'block')} reached that {'were' if blocks > 1 else 'was'} not reached before"
    for each in gains:
        yield f"  {each.unit}: {each.function}: {_offsets(each.blocks)}"


def _function(each: FunctionCoverage, known: Explained) -> str:
    open_ones = [at for at in each.never if (each.name, at) not in known.places]
    if not each.reached:
        rest = "never entered" + ("" if open_ones else "; cannot be")
    else:
        rest = _offsets(open_ones)
        if len(open_ones) < len(each.never):
            rest += f"{' and ' if rest else ''}{len(each.never) - len(open_ones)} that cannot be reached"
    return f"  {_of(each.reached, each.blocks):>9} {_of(each.seen, each.outcomes):>9}  {each.name}: {rest or 'all'}"


def _offsets(places: Sequence[int]) -> str:
    more = len(places) - _SHOWN
    return " ".join(f"+{at:#x}" for at in places[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _contradiction(wrong: Contradiction) -> str:
    where = wrong.function if wrong.block is None else f"{wrong.function} +{wrong.block:#x}"
    return f"{where} was reached, which was said to be unreachable: {wrong.why}"


def _of(part: int, whole: int) -> str:
    return f"{part}/{whole}"


def open_blocks(unit: UnitCoverage) -> int:
    """Blocks of a unit that may be reached: all that are not known to be unreachable."""
    return unit.blocks - explained(unit).blocks
