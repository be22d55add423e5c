"""Every mutant of the guest's driver is found out by what must find it, and the rebuilt one passes the main job."""

import pytest

import broken

pytestmark = [pytest.mark.guest, pytest.mark.network]


@pytest.mark.parametrize("name", broken.FAULTS)
def test_the_fault_is_found(name, tmp_path):
    broken.assert_found(name, tmp_path)


@pytest.mark.parametrize("scenario", ["main", "rules"])
def test_the_rebuilt_driver_without_a_fault_passes(scenario, tmp_path):
    broken.assert_passes(scenario, tmp_path)
