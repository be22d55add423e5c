"""Which test runs which line, measured once, with what each test costs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import coverage
import msgspec
import pytest
import trial
from places import Mutant

LIMIT = 1800
"""Seconds of the clock for one file of tests."""


class Tests(msgspec.Struct):
    """:ivar seconds: CPU seconds of each test that passes.
    :ivar lines: by file and line, the tests that run it; by file and 0, those that run any of its functions.
    :ivar failed: what fails unmutated; never asked.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]
    failed: list[str]

    def of(self, mutant: Mutant) -> list[str]:
        """Those that run the mutated statement; if that is done at import: those that run its function, or else any of
        the module's.
        """
        lines = self.lines.get(mutant.file, {})
        first, last = mutant.statement
        found = {test for line in range(first, last + 1) for test in lines.get(line, ())}
        every = set(lines.get(0, ())) - found if mutant.at_import or not found else set()
        return [test for some in (found, every) for test in sorted(some, key=lambda test: (self.seconds[test], test))]


class _Measured:
    """Tells coverage which test runs, and keeps what it costs."""

    def __init__(self, cover: coverage.Coverage) -> None:
        self._cover = cover
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        self._cover.switch_context(item.nodeid)
        began = sum(os.times()[:4])
        result = yield
        self.seconds[item.nodeid] = round(sum(os.times()[:4]) - began, 3)
        self._cover.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.failed.add(report.nodeid)


@dataclass(frozen=True)
class Measurement:
    """Of one file of tests, in a fork; kept until the file or a mutated module changes."""

    tree: Path
    modules: list[str]
    results: Path

    def __call__(self, test_file: str) -> Path:
        digest = hashlib.sha256()
        for each in (test_file, *self.modules):
            digest.update((self.tree / each).read_bytes())
        result = self.results / f"{test_file.replace('/', '.')}.{digest.hexdigest()[:12]}.json"
        if result.exists():
            return result
        code = trial.forked(lambda: self._measure(test_file, result), result.with_suffix(".log"), LIMIT)
        if not result.exists():
            raise RuntimeError(f"{test_file} ended with {code} under coverage, see {result.with_suffix('.log')}")
        return result

    def _measure(self, test_file: str, result: Path) -> int:
        include = [str(self.tree / each) for each in self.modules]
        cover = coverage.Coverage(data_file=None, include=include, config_file=False)
        measured = _Measured(cover)
        cover.start()
        code = trial.run_tests(self.tree, [test_file, "--maxfail=1000"], measured)
        cover.stop()
        lines = {each: _contexts(cover.get_data(), str(self.tree / each)) for each in self.modules}
        found = Tests(measured.seconds, {each: by for each, by in lines.items() if by}, sorted(measured.failed))
        result.write_bytes(msgspec.json.encode(found))
        return code


def _contexts(data: coverage.CoverageData, path: str) -> dict[int, list[str]]:
    by_line = data.contexts_by_lineno(path) if path in data.measured_files() else {}
    named = {line: sorted(filter(None, tests)) for line, tests in by_line.items()}
    every = sorted({test for tests in named.values() for test in tests})
    return {0: every} | {line: tests for line, tests in named.items() if tests} if every else {}


def merged(results: Iterable[Path]) -> Tests:
    all_of_them = Tests({}, {}, [])
    for result in results:
        found = msgspec.json.decode(result.read_bytes(), type=Tests)
        all_of_them.seconds |= found.seconds
        all_of_them.failed += found.failed
        for file, lines in found.lines.items():
            for line, tests in lines.items():
                known = all_of_them.lines.setdefault(file, {}).setdefault(line, [])
                known += [test for test in tests if test not in found.failed]
    return all_of_them
