"""What the guests of a test run execute goes into one folder, that of all workers together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tcelab.cli.coverage import _of
from tcelab.coverage.result import Coverage, FunctionCoverage, UnitCoverage
from tcelab.testing import covered


def coverage(never):
    function = FunctionCoverage(name="f", blocks=3, never=list(never))
    return Coverage(guests=1, units=[UnitCoverage(name="file.c", module="", code="c", functions=[function])])


def config(**more):
    plugins = []
    return SimpleNamespace(stash={}, plugins=plugins, pluginmanager=SimpleNamespace(register=plugins.append), **more)


@pytest.fixture
def process(tmp_path):
    """A process whose guests have executed that."""

    def make(seen, **more):
        settings = config(**more)
        covered.register(settings, str(tmp_path / "folder"), emulated=False)
        (made,) = settings.plugins
        made._recording = None if seen is None else SimpleNamespace(result=lambda: seen)
        return made, SimpleNamespace(config=settings)

    return make


class Reporter:
    def __init__(self):
        self.lines = []

    def section(self, title):
        self.lines.append(title)

    write_line = section


def test_a_run_writes_a_folder_that_the_verb_takes_and_tells_its_sum(process, tmp_path):
    made, session = process(coverage([4]))
    made.pytest_sessionfinish(session)
    assert list(_of(str(tmp_path / "folder"))) == [(tmp_path / "folder", coverage([4]))]
    assert (tmp_path / "folder" / "coverage.lcov").read_text().startswith("TN:tcelab")
    told = Reporter()
    made.pytest_terminal_summary(told)
    assert any("2/3" in line for line in told.lines)


def test_what_workers_tell_at_their_end_is_added_up(process, tmp_path):
    first, one = process(coverage([0, 4]), workeroutput={})
    second, other = process(coverage([4, 8]), workeroutput={})
    first.pytest_sessionfinish(one)
    second.pytest_sessionfinish(other)
    assert not (tmp_path / "folder").exists(), "a worker writes nothing"
    controller, session = process(None)
    for each in (one, other, SimpleNamespace(config=SimpleNamespace(workeroutput={}))):
        controller.pytest_testnodedown(SimpleNamespace(workeroutput=each.config.workeroutput))
    controller.pytest_testnodedown(SimpleNamespace())
    controller.pytest_sessionfinish(session)
    ((_, sum_),) = _of(str(tmp_path / "folder"))
    assert (sum_.guests, sum_.units[0].functions[0].never) == (2, [4])


def test_a_run_without_guests_tells_nothing(process, tmp_path):
    made, session = process(None)
    made.pytest_sessionfinish(session)
    told = Reporter()
    made.pytest_terminal_summary(told)
    assert (told.lines, (tmp_path / "folder").exists()) == ([], False)


def test_nobody_is_asked_unless_a_folder_is_named():
    settings = config()
    covered.register(settings, "", emulated=False)
    assert settings.plugins == []


def test_the_emulator_runs_no_kernel():
    with pytest.raises(pytest.UsageError, match="the emulator runs no kernel"):
        covered.register(config(), "folder", emulated=True)
