"""Each cure takes its defect away, and all together leave the rest as it is."""

import pytest

import cured

pytestmark = [pytest.mark.guest, pytest.mark.network]


@pytest.mark.parametrize("quirk", cured.BY_NAME)
def test_the_program_of_a_defect_fails_without_its_cure_and_passes_with_it(quirk, tmp_path):
    cured.assert_cured(quirk, tmp_path)


@pytest.mark.parametrize("scenario", ["main", "windows", "isolation"])
def test_with_all_cures_of_the_driver_in_and_no_such_quirk_declared_a_scenario_passes(scenario, tmp_path):
    code, result = cured.run(tmp_path, "run", scenario, "--seed", 1, "--cure", "all")
    assert (code, result["verdict"]["findings"]) == (0, [])
    cured.assert_told(result, cured.OF_MODULE)


def test_the_fuzzer_finds_nothing_new_in_the_cured_driver(tmp_path):
    code, result = cured.run(tmp_path, "fuzz", "--seed", 1, "--steps", 2000, "--cure", "all")
    assert code == 0, result
