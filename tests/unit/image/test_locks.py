"""A lock is a file in the cache: where there can be none, one line says so."""

import pytest

from tcelab.errors import HarnessError
from tcelab.image.locks import lock


def test_a_cache_that_takes_no_files_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path))
    (tmp_path / "locks" / "initrd").mkdir(parents=True)
    with pytest.raises(HarnessError, match=r"cannot write .*/locks/initrd: Is a directory"), lock("initrd", "another"):
        pass
