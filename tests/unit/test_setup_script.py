"""`scripts/setup.sh`: what goes wrong is one line, and 125: nothing was judged."""

from __future__ import annotations

import re
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


def test_each_folder_of_tests_is_in_one_half_of_those_that_run_side_by_side():
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]
    commands = [line for line in (ROOT / "scripts" / "test").read_text().splitlines() if "-m pytest tests/" in line]
    assert sorted(re.findall(r"tests/\w+", "\n".join(commands))) == sorted(folders)
