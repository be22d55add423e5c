"""The tests' own run: nothing that was collected is passed over, a worker that is gone is a failure, and so is one that
took too much memory.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import spread

OWN_PEAK = spread.peak
OK, FAILED, STOPPED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED

CONFTEST = """
import spread

def pytest_configure(config):
    output = getattr(config, "workeroutput", None)
    config.pluginmanager.register(spread.Whole() if output is None else spread.Worker(output))
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """This process, whatever the tests before took."""
    monkeypatch.setattr(spread, "peak", lambda: 10)


def ended(status=OK, collected=(), reported=(), **peaks):
    whole = spread.Whole()
    whole.collected.update(collected)
    for each in reported:
        whole.pytest_runtest_logreport(SimpleNamespace(nodeid=each))
    for name, size in peaks.items():
        whole.pytest_testnodedown(
            SimpleNamespace(gateway=SimpleNamespace(id=name), workeroutput={"peak": size}), error=None
        )
    session = SimpleNamespace(exitstatus=status)
    whole.pytest_sessionfinish(session)
    return session.exitstatus, whole.wrong


def test_a_run_of_all_that_was_collected_passes():
    assert ended(collected="ab", reported="ab", gw0=100) == (OK, [])


def test_a_test_that_was_collected_and_not_run_fails_the_run_unless_that_was_stopped():
    assert ended(collected="ab", reported="a") == (FAILED, ["1 tests were collected and not run: b ..."])
    assert ended(STOPPED, collected="ab", reported="a") == (STOPPED, [])


def test_a_process_that_took_too_much_memory_fails_the_run():
    told = ["no process of the tests may take more than 500 MiB: 501 MiB by gw1"]
    assert ended(gw0=500, gw1=501) == (FAILED, told)


def test_the_peak_of_this_process_is_its_own(monkeypatch):
    assert 10 < OWN_PEAK() < 100_000
    monkeypatch.setattr(spread, "peak", lambda: spread.MOST + 1)
    assert ended()[0] == FAILED


def test_tests_of_a_file_are_one_piece_and_what_rests_on_one_record_too():
    assert spread.piece("tests/unit/test_x.py::test_a[b::c]") == "tests/unit/test_x.py"
    assert len({spread.piece(f"{file}::test") for file in spread.TOGETHER}) == 1
    assert all(spread.piece(f"{file}::test") == f"{file}::test" for file in spread.APART)


def test_every_file_that_is_named_exists(request):
    assert [name for name in {*spread.TOGETHER, *spread.APART} if not (request.config.rootpath / name).is_file()] == []


def test_a_worker_that_is_gone_is_a_failure_and_the_rest_is_run(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(spread.__file__).parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST)
    one = "import os\ndef test_is(): pass\ndef test_goes(): os._exit(0)\ndef test_is_left(): pass\n"
    pytester.makepyfile(test_one=one, test_two="def test_stays(): pass\n")
    done = pytester.runpytest_subprocess("-p", "xdist.plugin", "-n", "2", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=3, failed=1)
    assert done.ret == FAILED
    done.stdout.fnmatch_lines(["*crashed while running*test_goes*", "memory: * MiB at the peak of the largest of *"])


def test_the_test_at_which_a_worker_got_too_large_is_told(monkeypatch):
    output = {}
    worker = spread.Worker(output)
    worker.pytest_runtest_logfinish("tests/small.py::test")
    monkeypatch.setattr(spread, "peak", lambda: spread.MOST + 1)
    for name in ("tests/large.py::test", "tests/later.py::test"):
        worker.pytest_runtest_logfinish(name)
    worker.pytest_sessionfinish()
    whole = spread.Whole()
    whole.pytest_testnodedown(SimpleNamespace(gateway=SimpleNamespace(id="gw0"), workeroutput=output), error=None)
    assert whole.peaks == {"gw0, first after tests/large.py::test": spread.MOST + 1}
