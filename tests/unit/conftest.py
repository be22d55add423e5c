"""No unit test reads or writes the user's own cache, state or config; a shell finds the tcelab under test."""

import os
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _cache_of_its_own(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path_factory.getbasetemp() / "no cache of the user"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "no state of the user"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no config of the user"))
    monkeypatch.delenv("TCELAB_CACHE_SIZE", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TCELAB_ARCHIVE", "")  # and so put back when a test, or a command in it, sets it
