"""Tests read and write nothing of what the user's own cache and state keep, and no settings of the user; a shell finds
the tcelab under test by its name.
"""

import os
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def settings_of_nobody(tmp_path_factory):
    home = tmp_path_factory.getbasetemp()
    return {
        "TCELAB_CACHE": str(home / "no cache of the user"),
        "XDG_STATE_HOME": str(home / "no state of the user"),
        "XDG_CONFIG_HOME": str(home / "no settings of the user"),
        "TCELAB_ARCHIVE": "",
        "TCELAB_CACHE_SIZE": "",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


@pytest.fixture(autouse=True)
def nobody(monkeypatch, settings_of_nobody):
    """One fixture, since it is set up for each of thousands of tests. What a test, or a command in it, sets instead is
    put back.
    """
    for name, value in settings_of_nobody.items():
        monkeypatch.setenv(name, value)
