"""A tracefile as lcov's `geninfo` writes it, for genhtml and CI services.

A kernel without debug information has no lines: then a function's number in its unit stands for its line, and there are
records of functions and branches alone (FN, FNDA, BRDA); see geninfo(1).
"""

from __future__ import annotations

from collections.abc import Iterator

from tcelab.coverage.result import Coverage, FunctionCoverage


def lcov(coverage: Coverage) -> str:
    return "".join(f"{line}\n" for line in _lines(coverage))


def _lines(coverage: Coverage) -> Iterator[str]:
    yield "TN:tcelab"
    for unit in coverage.units:
        yield f"SF:{unit.name}"
        for number, each in enumerate(unit.functions, 1):
            yield f"FN:{number},{each.name}"
        for each in unit.functions:
            yield f"FNDA:{int(each.reached > 0)},{each.name}"
        yield f"FNF:{len(unit.functions)}"
        yield f"FNH:{unit.entered}"
        for number, each in enumerate(unit.functions, 1):
            yield from _branches(number, each)
        yield f"BRF:{unit.outcomes}"
        yield f"BRH:{unit.seen}"
        yield "end_of_record"


def _branches(line: int, each: FunctionCoverage) -> Iterator[str]:
    """Two records for each conditional branch; `-`: it was never come to."""
    for number, at in enumerate(each.branches):
        for outcome, lacking in enumerate((each.unfallen, each.untaken)):
            never = "-" if at in each.unfallen and at in each.untaken else "0"
            yield f"BRDA:{line},{number},{outcome},{never if at in lacking else 1}"
