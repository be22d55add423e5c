"""How tests are spread over processes (pytest-xdist), and what the run as a whole is held to: every test that was
collected was run, and no process took more memory than it may.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource

import pytest

MOST = 500
"""MiB that a process of the tests may take at its peak."""

GROWN = 64
"""MiB by which a process may grow until its dead sessions and tables are collected."""
NEAR = 240
"""MiB from which on it may grow by a third of that only: one test alone takes up to 180."""

TOGETHER = {
    "tests/mutants/test_against_the_guest.py": "recorded",
    "tests/guest/test_rows_on_the_guest.py": "recorded",
}
"""Files that rest on one record of a guest, made once."""

APART = frozenset({"tests/faults/test_boot.py", "tests/faults/test_run.py", "tests/unit/test_house.py"})
"""Files whose tests share nothing and take long: each test is a piece of its own."""


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Numbers of malloc.h."""


def piece(nodeid: str) -> str:
    """Tests of one piece are run by one process, in their order: by file, for the sake of fixtures that are dear."""
    file = nodeid.partition("::")[0]
    return nodeid if file in APART else TOGETHER.get(file, file)


def peak() -> int:
    """MiB that this process took at its peak; what it started does not count."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def give_back() -> None:
    """Have the C library return what was freed: by default it keeps blocks of up to 32 MiB for later, in an arena for
    each thread, and a process that does thousands of tests only grows.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # there is none but in glibc
    for option, value in ((_MMAP_THRESHOLD, 1 << 18), (_TRIM_THRESHOLD, 1 << 20), (_ARENA_MAX, 1)):
        if mallopt is not None:
            mallopt(option, value)


def trim() -> None:
    """Have the C library return all that is free: by itself it returns the end of its heap alone."""
    if (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc
        malloc_trim(0)


def taken() -> int:
    """MiB that this process takes now; 0 where the kernel does not say so."""
    try:
        pages = os.open("/proc/self/statm", os.O_RDONLY)  # asked after each test: no more is spent than must be
    except OSError:
        return 0
    try:
        return int(os.read(pages, 100).split()[1]) * resource.getpagesize() >> 20
    finally:
        os.close(pages)


class Collector:
    """Collects dead sessions and tables once they may be `GROWN` MiB: Python waits for a number of objects, and a table
    is one.
    """

    def __init__(self) -> None:
        self.floor = taken()

    def pytest_runtest_logfinish(self):
        now = taken()
        if now > self.floor + (GROWN if now < NEAR else GROWN // 3):
            gc.collect()
            trim()
            self.floor = taken()


class Whole:
    """In the process that was started, not in a worker."""

    def __init__(self) -> None:
        self.collected: set[str] = set()
        self.reported: set[str] = set()
        self.peaks: dict[str, int] = {}
        self.wrong: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config, log):
        from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - only where there are workers

        class ByPiece(LoadScopeScheduling):
            def _split_scope(self, nodeid):
                return piece(nodeid)

            def mark_test_complete(self, node, item_index, duration=0):
                self._forget(node, self.registered_collections[node][item_index])
                self._reschedule(node)

            def _forget(self, node, nodeid):
                """What is done: all that is assigned is counted, at each of tens of thousands of events."""
                assigned = self.assigned_work[node]
                del assigned[piece(nodeid)][nodeid]
                if not assigned[piece(nodeid)]:
                    del assigned[piece(nodeid)]

            def remove_node(self, node):
                """Else the test that ended its worker is run again, and ends the next one."""
                at = next((name for tests in self.assigned_work[node].values() for name in tests), None)
                if at is not None:
                    self._forget(node, at)
                super().remove_node(node)
                return at

        # In the order in which they are collected: guests first, so that small pieces are left for the end.
        config.option.loadscopereorder = False
        return ByPiece(config, log)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node, ids):
        self.collected.update(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error):
        output = getattr(node, "workeroutput", {})
        if "peak" in output:
            at = f", first after {output['at']}" if "at" in output else ""
            self.peaks[node.gateway.id + at] = output["peak"]

    def pytest_runtest_logreport(self, report):
        self.reported.add(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_from_serializable(self, config, data):
        if (told := data.pop(Worker.TOLD, None)) is not None:
            return config.hook.pytest_report_from_serializable(config=config, data=json.loads(told) | data)
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        self.peaks["pytest"] = peak()
        large = [f"{size} MiB by {name}" for name, size in self.peaks.items() if size > MOST]
        if large:
            self.wrong.append(f"no process of the tests may take more than {MOST} MiB: {', '.join(large)}")
        missing = sorted(self.collected - self.reported)
        # Who asked for an early end, or stopped it, knows that not all was run.
        if missing and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            self.wrong.append(f"{len(missing)} tests were collected and not run: {missing[0]} ...")
        if self.wrong and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        largest = max(self.peaks.values(), default=0)
        terminalreporter.write_line(f"memory: {largest} MiB at the peak of the largest of {len(self.peaks)} processes")
        for line in self.wrong:
            terminalreporter.write_line(f"FAILED: {line}", red=True)


class Worker:
    """In a worker: its peak is told to the process that was started."""

    TOLD = "report of a worker, as JSON"

    def __init__(self, output) -> None:
        self.output = output

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(self):
        """A report of a test that passed is one text: execnet goes through each key of it in Python."""
        data = yield
        return {self.TOLD: json.dumps(data)} if data and data["outcome"] == "passed" else data

    def pytest_runtest_logfinish(self, nodeid):
        if peak() > MOST:
            self.output.setdefault("at", nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self):
        self.output["peak"] = peak()
