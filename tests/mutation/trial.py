"""pytest in a fork of a process that has imported what is slow and not ours."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

TIMED_OUT = -1


def warm() -> None:
    """Import what the tests need beside tcelab, which every fork imports anew."""
    for name in ("click", "hypothesis", "msgspec", "numpy", "qemu.qmp", "rich.progress", "rich.table"):
        importlib.import_module(name)


class Chosen:
    """Of what is collected, these tests alone, in this order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._rank = {test: rank for rank, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._rank), key=lambda item: self._rank[item.nodeid]
        )


def run_tests(tree: Path, files: Sequence[str], *plugins: object) -> int:
    """Pytest's exit code. For a fork: it imports the tcelab of `tree`."""
    os.chdir(tree)
    paths = [str(tree / "harness"), str(tree / "guest")]
    sys.path[:] = [*paths, *(each for each in sys.path if Path(each) != Path(__file__).parent)]
    os.environ["PYTHONPATH"] = ":".join(paths)
    scratch = tree.with_name(f"{tree.name}.scratch")
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(scratch / name)
    quiet = ["-q", "--no-header", "--tb=short", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    needed = ("no:cacheprovider", "tcelab.testing.plugin", "_hypothesis_pytestplugin", "pytest_timeout")
    ours = ["--override-ini", _ADDOPTS, *(word for name in needed for word in ("-p", name))]
    os.environ[_NO_AUTOLOAD] = "1"  # what else is installed costs its import
    return int(pytest.main(["-x", *quiet, *ours, *files], plugins=[_Autoload(), *plugins]))


_NO_AUTOLOAD = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
_ADDOPTS = "addopts=--strict-markers --strict-config --import-mode=importlib -p pytester"
"""Those of pyproject.toml, but for the plugins that it names: `run_tests` names its own."""


class _Autoload:
    """For what tests themselves start."""

    def pytest_configure(self) -> None:
        os.environ.pop(_NO_AUTOLOAD, None)


def forked(work: Callable[[], int], log: Path, seconds: float) -> int:
    """What `work` returns, done in a child; negative: the signal it died of, or TIMED_OUT.

    Nothing that the child started goes on after it.
    """
    child = os.fork()
    if child == 0:
        _work_in_child(work, log)
    try:
        return _waited(child, time.monotonic() + seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)


def _work_in_child(work: Callable[[], int], log: Path) -> None:
    code = 99
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = work()
    except BaseException:  # noqa: BLE001 - nothing of the parent may go on in the child
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _waited(child: int, until: float) -> int:
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return -os.WTERMSIG(status) - 1 if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TIMED_OUT
