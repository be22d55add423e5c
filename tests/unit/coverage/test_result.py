"""Sums, differences, what cannot be reached, and what tools get of it."""

from __future__ import annotations

import msgspec

from tcelab.coverage import text, unreachable
from tcelab.coverage.lcov import lcov
from tcelab.coverage.result import Coverage, FunctionCoverage, UnitCoverage, gained, together
from tcelab.coverage.units import UNITS
from tcelab.coverage.unreachable import Contradiction, Entry, explained


def coverage(never=(), untaken=(), code="c0de", missing=()):
    function = FunctionCoverage(name="f", blocks=3, branches=[4], never=list(never), untaken=list(untaken), unfallen=[])
    unit = UnitCoverage(name="file.c", module="", code=code, functions=[function])
    return Coverage(guests=1, units=[unit], missing=list(missing))


def test_together_lack_what_each_of_them_lacks():
    (unit,) = together([coverage([0, 8], [4]), coverage([8, 12])]).units
    assert (unit.functions[0].never, unit.functions[0].untaken) == ([8], [])
    assert (unit.reached, unit.blocks, unit.seen, unit.outcomes, unit.entered) == (2, 3, 2, 2, 1)


def test_units_of_other_code_are_not_added_up():
    assert len(together([coverage(), coverage(code="other")]).units) == 2


def test_reasons_are_told_once():
    assert together([coverage(missing=["why"])] * 2).missing == ["why"]


def test_a_difference_names_the_blocks_that_are_new():
    (gain,) = gained(coverage([8]), coverage([0, 8]))
    assert (gain.unit, gain.function, gain.blocks) == ("file.c", "f", [0])
    assert gained(coverage([0, 8]), coverage([8])) == []
    assert gained(coverage(), coverage([0], code="other")) == []
    assert next(iter(text.gain_lines([]))) == "no block is reached that was not reached before"


def test_a_block_that_cannot_be_reached_is_counted_with_its_reason():
    entry = Entry(unit="file.c", why="no such machine", code="c0de", blocks={"f": [8]})
    (unit,) = coverage([8, 12]).units
    known = explained(unit, (entry,))
    assert (known.places, known.reasons, known.wrong) == ({("f", 8)}, {"no such machine": 1}, [])


def test_an_entry_that_is_reached_is_contradicted():
    (unit,) = coverage([12]).units
    entry = Entry(unit="file.c", why="never", code="c0de", blocks={"f": [8]})
    assert explained(unit, (entry,)).wrong == [Contradiction("f", 8, "never")]
    assert explained(unit, (Entry(unit="file.c", why="never", functions=("f",)),)).wrong[0].block is None


def test_offsets_mean_nothing_in_other_code():
    (unit,) = coverage([8], code="other").units
    entry = Entry(unit="file.c", why="never", code="c0de", blocks={"f": [8, 12]})
    assert explained(unit, (entry,)).blocks == 0
    assert not explained(unit, (entry,)).wrong


def test_each_entry_of_the_file_is_of_a_unit_that_is_recorded_by_default_and_says_why():
    for entry in unreachable.entries():
        assert entry.unit in UNITS
        assert entry.why.strip()
        assert bool(entry.functions) != bool(entry.blocks)
        assert bool(entry.code) == bool(entry.blocks)


def test_a_tracefile_has_functions_and_both_outcomes_of_each_branch():
    lines = lcov(coverage([12], [4])).splitlines()
    assert lines[:5] == ["TN:tcelab", "SF:file.c", "FN:1,f", "FNDA:1,f", "FNF:1"]
    assert lines[6:] == ["BRDA:1,0,0,1", "BRDA:1,0,1,0", "BRF:2", "BRH:1", "end_of_record"]


def test_a_branch_that_was_never_come_to_is_told_apart():
    function = FunctionCoverage(name="f", blocks=1, branches=[4], never=[0], untaken=[4], unfallen=[4])
    unit = UnitCoverage(name="file.c", module="", code="", functions=[function])
    assert "BRDA:1,0,0,-" in lcov(Coverage(units=[unit]))


def test_a_summary_has_a_line_for_each_unit_and_for_each_reason():
    lines = list(text.unit_lines(coverage([12], missing=["no compiler"])))
    assert "2/3" in lines[1]
    assert lines[-1] == "coverage is missing: no compiler"
    functions = list(text.function_lines(coverage([12])))
    assert any("f: +0xc" in line for line in functions)


def test_a_result_goes_into_json_and_back():
    one = coverage([12], [4], missing=["why"])
    assert msgspec.json.decode(msgspec.json.encode(one), type=Coverage) == one
