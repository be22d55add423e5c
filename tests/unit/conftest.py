"""No unit test reads or writes what the user's own cache and state keep, or reads the user's settings; a shell finds
the tcelab under test by its name.
"""

import os
import sys
from pathlib import Path

import pytest
from broken_guests import guests
from shown import showing
from stand import host, tcelab
from stand_leakcheck import leakcheck
from stand_series import two

__all__ = ["guests", "host", "leakcheck", "tcelab", "two"]


@pytest.fixture(scope="session")
def _of_nobody(tmp_path_factory):
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
def _user(monkeypatch, _of_nobody):
    """One fixture, since it is set up for each of thousands of tests. What a test, or a command in it, sets instead is
    put back.
    """
    for name, value in _of_nobody.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def shown():
    """All that a user is shown of the log: `notes` and `phases`, and both in `lines`."""
    with showing() as display:
        yield display
