"""Tests of this folder ask for a guest by tcelab's own plugin; those that bring whole programs take its session."""

import pytest


@pytest.fixture
def session(pseries):
    return pseries.session
