"""`tcelab coverage`, and what --coverage makes of an exit code."""

from __future__ import annotations

import json

import msgspec
import pytest
from click.testing import CliRunner

from tcelab.cli.coverage import command
from tcelab.cli.coverageoptions import enough, recorded
from tcelab.coverage.result import Coverage, FunctionCoverage, UnitCoverage
from tcelab.errors import UsageError
from tcelab.job.recording import CoverageChoice


def coverage(never, name="f", missing=()):
    function = FunctionCoverage(name=name, blocks=4, never=list(never))
    unit = UnitCoverage(name="file.c", module="", code="c0de", functions=[function])
    return Coverage(guests=1, units=[unit], missing=list(missing))


@pytest.fixture
def run(tmp_path):
    def write(name, value):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(msgspec.json.encode({"schema": 1, "coverage": value}))
        return str(folder)

    return write


def invoke(*words):
    return CliRunner().invoke(command, list(words), standalone_mode=False, catch_exceptions=False)


def test_runs_are_added_up(run, tmp_path):
    told = invoke(run("one", coverage([0, 4])), run("two", coverage([4, 8])), "--json", "-")
    (unit,) = json.loads(told.stdout)["units"]
    assert unit["functions"][0]["never"] == [4]


def test_a_folder_stands_for_the_runs_in_it(run, tmp_path):
    run("all/one", coverage([0, 4]))
    run("all/two", coverage([4, 8]))
    run("all/none", None)
    told = invoke(str(tmp_path / "all"), "--functions")
    assert "3/4" in told.output
    assert "f: +0x4" in told.output


def test_what_another_run_did_not_reach_is_named(run):
    one, two = run("one", coverage([0, 4])), run("two", coverage([4]))
    assert "1 block reached that was not reached before" in invoke(two, "--against", one).output
    assert "file.c: f: +0x0" in invoke(two, "--against", one).output
    assert "no block is reached" in invoke(one, "--against", two).output


def test_a_table_has_a_row_for_each_run_and_their_sum(run, tmp_path):
    run("all/one", coverage([0, 4]))
    run("all/two", coverage([4, 8]))
    assert invoke(str(tmp_path / "all"), "--table").output.splitlines() == [
        "| run | file.c 4 / 0 |",
        "| --- | --- |",
        "| one | 2 / 0 |",
        "| two | 2 / 0 |",
        "| all together | 3 / 0 |",
        "| of all blocks | 75.0 % |",
        "| of those that can be reached | 75.0 % |",
    ]


def test_a_run_without_coverage_is_wrong_usage(run):
    with pytest.raises(UsageError, match="nothing was recorded there"):
        invoke(run("none", None))


def test_a_block_that_was_said_to_be_unreachable_fails(run):
    function = FunctionCoverage(name="tce_get_pseries", blocks=1)
    unit = UnitCoverage(name="pseries/iommu.c", module="", code="other", functions=[function])
    folder = run("wrong", Coverage(guests=1, units=[unit]))
    told = invoke(folder)
    assert told.return_value == 1
    assert "tce_get_pseries was reached" in told.output


@pytest.mark.parametrize(
    ("least", "seen", "code", "then"),
    [
        (50.0, coverage([0, 4]), 0, 0),
        (75.0, coverage([0, 4]), 0, 1),
        (75.0, coverage([0, 4], missing=["why"]), 0, 125),
        (25.0, coverage([0, 4], missing=["why"]), 0, 0),
        (0.0, Coverage(missing=["no compiler"]), 0, 125),
        (0.0, None, 0, 125),
        (75.0, coverage([0, 4]), 1, 1),
        (75.0, coverage([0, 4]), 125, 125),
        (None, coverage([0, 4]), 0, 0),
    ],
)
def test_too_little_is_1_and_unknown_is_125_and_a_verdict_stands(least, seen, code, then):
    assert enough(CoverageChoice(fail_under=least), seen, code) == then


def test_each_option_asks_for_a_recording():
    assert recorded({"coverage": False, "coverage_of": (), "coverage_fail_under": None}) is None
    assert recorded({"coverage": True, "coverage_of": (), "coverage_fail_under": None}) == CoverageChoice()
    assert recorded({"coverage": False, "coverage_of": ("vfio",), "coverage_fail_under": None}).of == ("vfio",)
    assert recorded({"coverage": False, "coverage_of": (), "coverage_fail_under": 3.0}).fail_under == 3.0


def test_the_emulator_runs_no_kernel():
    with pytest.raises(UsageError, match="recorded by QEMU"):
        recorded({"coverage": True, "coverage_of": (), "coverage_fail_under": None, "platform": "emulator"})


def test_runs_of_the_same_name_in_other_folders_are_both_added_up(run, tmp_path):
    one, two = run("a/main", coverage([0, 4])), run("b/main", coverage([4, 8]))
    told = invoke(one, two, one, "--table").output
    assert "| all together | 3 / 0 |" in told
    assert told.count(" | 2 / 0 |") == 2
    (unit,) = json.loads(invoke(one, two, "--json", "-").stdout)["units"]
    assert unit["functions"][0]["never"] == [4]


@pytest.mark.parametrize("nothing", [Coverage(missing=["no compiler"]), Coverage(units=coverage([0, 4, 8, 12]).units)])
def test_a_sum_of_nothing_is_125(run, nothing):
    assert invoke(run("one", nothing)).return_value == 125


def test_a_difference_of_other_code_is_none(run):
    one, other = coverage([0, 4]), coverage([0, 4, 8])
    other = msgspec.structs.replace(other, units=[msgspec.structs.replace(other.units[0], code="beef")])
    told = invoke(run("one", one), "--against", run("two", other))
    assert told.return_value == 125
    assert "not compared: file.c: --against has none of that code" in told.output
    assert "no block is reached" not in told.output


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ([coverage([0, 4, 8, 12, 16])], "is no result: coverage of file.c, f: it lacks more than it has"),
        ([coverage([0]), coverage([0], name="g")], "code c0de has other functions in another run"),
    ],
)
def test_a_result_that_no_recorder_writes_is_wrong_usage(run, broken, said):
    with pytest.raises(UsageError, match=said):
        invoke(*(run(f"run{number}", each) for number, each in enumerate(broken)))


@pytest.mark.parametrize("text", ["nan", "101", "-1", "many"])
def test_a_bound_is_a_percentage(run, text):
    told = CliRunner().invoke(command, [run("one", coverage([0])), "--coverage-fail-under", text])
    assert (told.exit_code, told.exception.code) == (2, 2)
