"""The guest's driver with one line changed is found out, and the rebuilt one passes. All of them: `tests/soak`."""

import pytest

import broken

pytestmark = [pytest.mark.guest, pytest.mark.network]


def test_a_driver_whose_unmap_takes_an_entry_too_many_is_found_out(tmp_path):
    broken.assert_found("unmap-long", tmp_path)


def test_the_rebuilt_driver_without_a_fault_passes(tmp_path):
    broken.assert_passes("rules", tmp_path)
