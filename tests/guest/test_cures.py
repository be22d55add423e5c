"""A cured driver has the defect no more, and its quirk is not declared. Each cure: `tests/soak`."""

import pytest

import cured

pytestmark = [pytest.mark.guest, pytest.mark.network]


def test_a_map_that_fails_half_way_loses_what_was_live_until_it_is_cured(tmp_path):
    cured.assert_cured("rollback-loses-entries", tmp_path)
