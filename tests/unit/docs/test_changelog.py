"""The changelog is of this version, and where it says that something is, it is."""

import importlib
import importlib.util
import re

from pagesteps import ROOT

import tcelab

TEXT = (ROOT / "CHANGELOG.md").read_text()


def test_the_top_entry_is_this_version():
    assert re.findall(r"^## (.+)$", TEXT, re.MULTILINE)[0] == tcelab.__version__


def test_every_name_that_moved_is_where_it_says():
    rows = re.findall(r"^  \| ([^|]+) \| ([^|]+) \|$", TEXT, re.MULTILINE)[2:]
    now = [name for _, cell in rows for name in re.findall(r"`(tcelab[\w.]+)`", cell)]
    assert len(now) > 10
    assert [name for name in now if not found(name)] == []


def found(name):
    """A module, or a name in one."""
    module, _, last = name.rpartition(".")
    if hasattr(importlib.import_module(module), last):
        return True
    return importlib.util.find_spec(name) is not None
