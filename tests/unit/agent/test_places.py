"""The agent tells where its kernel's code lies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tceagent import places

SYMBOLS = """\
c000000000000000 T _text
c000000000000000 T _stext
c000000000001000 t iommu_alloc
c008000000a00000 t tce_iommu_open\t[vfio_iommu_spapr_tce]
"""


SECTIONS = {".text": 0xC008000000A00000, ".init.text": 0xC008000000B00000, ".data": 1}


class Kernel:
    """Of which a module `vfio` is loaded."""

    def read_file(self, path):
        if path == places.SYMBOLS:
            return Path(path).read_bytes()
        folder, _, section = path.rpartition("/")
        assert folder == "/sys/module/vfio/sections"
        return f"0x{SECTIONS[section]:016x}\n".encode()


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """Its /proc/kallsyms."""

    def listdir(path):
        if path != "/sys/module/vfio/sections":
            raise FileNotFoundError(path)
        return [*SECTIONS]

    (tmp_path / "kallsyms").write_text(SYMBOLS)
    monkeypatch.setattr(places, "SYMBOLS", str(tmp_path / "kallsyms"))
    monkeypatch.setattr(places, "posix", SimpleNamespace(listdir=listdir))
    return tmp_path


@pytest.fixture
def kernel():
    return Kernel()


def test_sections_of_code_are_told_and_a_module_that_is_not_there_is_left_out(proc, kernel):
    told = places.find(kernel, ["vfio", "absent"], symbols=False)
    assert told == {
        "modules": {"vfio": {".text": 0xC008000000A00000, ".init.text": 0xC008000000B00000}},
        "start": 0xC000000000000000,
    }


def test_symbols_are_those_of_the_kernel_itself(proc, kernel):
    told = places.find(kernel, [], symbols=True)
    assert "iommu_alloc\n" in told["symbols"]
    assert "[vfio" not in told["symbols"]


def test_a_kernel_without_symbols_says_so(proc, kernel):
    (proc / "kallsyms").unlink()
    assert places.find(kernel, [], symbols=False)["start"] == 0
    (proc / "kallsyms").write_text("")
    assert places.find(kernel, [], symbols=True) == {"modules": {}, "start": 0, "symbols": ""}
