"""Tests that could not be judged. A lost guest, a full disk or a host without a QEMU say nothing about the kernel under
test: where a run of pytest failed by such tests alone, its exit code is 125, as of every verb, and not 1.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

if TYPE_CHECKING:
    from tcelab.errors import TcelabError

PROPERTY: Final = ("tcelab", "could not judge")
"""Of a test case in junit.xml."""
_MARK: Final = "tcelab_unjudged"
"""Of an exception that ends a test, and of the report on it."""


def fail(text: str) -> NoReturn:
    """End the test: it could not be judged."""
    __tracebackhide__ = True
    failed = pytest.fail.Exception(text, pytrace=False)
    setattr(failed, _MARK, True)
    raise failed from None


def fail_by(error: TcelabError, text: str) -> NoReturn:
    """End the test by an error of tcelab."""
    __tracebackhide__ = True
    failed = pytest.fail.Exception(text, pytrace=False)
    setattr(failed, _MARK, _undecided(error))
    raise failed from None


def _undecided(error: BaseException) -> bool:
    """It says nothing about the kernel under test. A kernel that died and wrong usage are failures as any."""
    from tcelab.errors import GuestLost, TcelabError, UsageError  # noqa: PLC0415

    if isinstance(error, GuestLost):
        return not error.kernel_died
    return bool(getattr(error, _MARK, isinstance(error, TcelabError) and not isinstance(error, UsageError)))


def _code() -> int:
    from tcelab.run import exitcode  # noqa: PLC0415

    return exitcode.COULD_NOT_JUDGE


class Unjudged:
    """A plugin of pytest, which counts them. With pytest-xdist, that of the main process has all reports."""

    def __init__(self) -> None:
        self._failed = self._unjudged = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and call.excinfo is not None and _undecided(call.excinfo.value):
            setattr(report, _MARK, True)  # xdist hands it on
            if PROPERTY not in item.user_properties:
                item.user_properties.append(PROPERTY)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed += 1
            self._unjudged += getattr(report, _MARK, False)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._failed += report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._alone and session.exitstatus == pytest.ExitCode.TESTS_FAILED:
            session.exitstatus = _code()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:  # noqa: ANN401 - pytest does not export its type
        if self._unjudged:
            of = "" if self._alone else f" of {self._failed} failures"
            code = f": exit code {_code()}, not 1" if self._alone else ""
            terminalreporter.write_line(f"tcelab: {self._unjudged}{of} could not be judged{code}")

    @property
    def _alone(self) -> bool:
        return 0 < self._unjudged == self._failed
