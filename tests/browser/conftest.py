"""A browser, and folders of runs and nights, made once. Not among the tests of each commit: a machine may have none.
Here its absence is a failure, never a skip.
"""

from __future__ import annotations

import pytest
from chromium import Chromium
from reportfolders import campaign, flipped, gone, leaking, made, night, page, passed, series, unbegun

__all__ = ["campaign", "flipped", "gone", "leaking", "made", "night", "page", "passed", "series", "unbegun"]


@pytest.fixture(scope="session")
def browser():
    with Chromium() as started:
        yield started
