"""No unit test reads or writes what the user's own cache keeps."""

import pytest


@pytest.fixture(autouse=True)
def _cache_of_its_own(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path_factory.getbasetemp() / "no cache of the user"))
