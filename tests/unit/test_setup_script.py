"""`scripts/setup.sh`: what goes wrong is one line, and 125: nothing was judged."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PIP = """\
#!/bin/sh
case "$*" in
-V) exec python3 -V ;;
"-m pip --version") exit 0 ;;
"-m pip install"*)
    for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
        echo "WARNING: Retrying after connection broken by 'NewConnectionError: no network'" >&2
    done
    echo "ERROR: Could not find a version that satisfies the requirement hatchling>=1.24" >&2
    echo "ERROR: No matching distribution found for hatchling>=1.24" >&2
    exit "$PIP_ENDS"
    ;;
esac
"""


@pytest.fixture
def tree(tmp_path):
    """A tree whose .venv has a pip that is told how to end."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text("")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP)
    python.chmod(0o755)
    script = 'host_packages() { :; }\nsetup ""\necho done\n'
    (tmp_path / "scripts" / "go").write_text(f". scripts/setup.sh\n{script}")
    return tmp_path


def run(tree, ends):
    return subprocess.run(
        ["bash", "scripts/go"],
        cwd=tree,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "PIP_ENDS": str(ends)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_network_pips_many_lines_are_one_and_the_rest_is_kept(tree):
    done = run(tree, 1)
    assert (done.returncode, done.stdout) == (125, "")
    begun, reason = done.stderr.splitlines()
    assert begun == "setup: installing tcelab into .venv"
    assert reason == (
        "setup: pip could not install what tcelab needs: ERROR: No matching distribution found for hatchling>=1.24,"
        " see .venv/pip.log"
    )
    assert (tree / ".venv" / "pip.log").read_text().count("Retrying") == 12
    assert not (tree / ".venv" / ".tcelab").exists()


def test_where_pip_ends_well_the_setup_does(tree):
    done = run(tree, 0)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert (tree / ".venv" / ".tcelab").exists()


@pytest.fixture
def tests(tree):
    """The script of the tests in a tree where pytest says what it is given, and ends with 7."""
    shutil.copy(ROOT / "scripts" / "test", tree / "scripts")
    (tree / "scripts" / "setup.sh").write_text('cd "$(dirname "$0")/.."\nsetup() { :; }\n')
    (tree / ".venv" / "bin" / "python").write_text('#!/bin/sh\necho "$@" "<$PYTHONDONTWRITEBYTECODE>"\nexit 7\n')
    (tree / ".venv" / "bin" / "tcelab").write_text("#!/bin/sh\n")
    (tree / ".venv" / "bin" / "tcelab").chmod(0o755)

    def run(*words):
        done = subprocess.run(
            ["bash", tree / "scripts" / "test", *words],
            env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (7, "")
        return done.stdout.split()

    return run


def test_all_tests_are_run_by_more_workers_than_this_process_has_cores(tests):
    assert tests() == ["-m", "pytest", "-n", str(len(os.sched_getaffinity(0)) + 1), "<>"]


def test_arguments_go_to_one_pytest(tests):
    assert tests("-k", "x", "tests/unit") == ["-m", "pytest", "-k", "x", "tests/unit", "<>"]


def test_each_folder_of_tests_is_run_but_those_of_the_night():
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]
    there = {f"tests/{path.relative_to(ROOT / 'tests').parts[0]}" for path in (ROOT / "tests").rglob("test_*.py")}
    assert there - {"tests/soak", "tests/browser"} == set(folders)
