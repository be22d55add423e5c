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

from tceagent import tag
from tcelab.program import pagetags

__all__ = ["guests", "host", "leakcheck", "tcelab", "two"]

# What an emulated agent fills a page with is what the judge expects: both are in this process, and compute it once.
tag.data = pagetags.data


@pytest.fixture(autouse=True)
def _cache_of_its_own(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path_factory.getbasetemp() / "no cache of the user"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "no state of the user"))


@pytest.fixture(autouse=True)
def _settings_of_nobody(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no settings of the user"))
    for name in ("TCELAB_ARCHIVE", "TCELAB_CACHE_SIZE"):
        monkeypatch.setenv(name, "")  # and so put back when a test, or a command in it, sets it


@pytest.fixture
def shown():
    """All that a user is shown of the log: `notes` and `phases`, and both in `lines`."""
    with showing() as display:
        yield display


@pytest.fixture(autouse=True)
def _found_by_its_name(monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
