"""The house is in order: style, types, and that nothing reaches where it must not."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import pytest

from tcelab.cli import VERBS, cli

ROOT = Path(__file__).parents[2]
HOST = ROOT / "harness" / "tcelab"
GUEST = ROOT / "guest" / "tceagent"
LONGEST = 400


def run(*command):
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)],
    ids=["ruff check", "ruff format", "mypy --strict"],
)
def test_the_code_is_clean(command):
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def imports(path):
    """Names of the modules that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files(folder):
    return sorted(folder.rglob("*.py"))


def reaching(folder, *names):
    """Files of `folder` that import one of the names or something below it."""
    return [
        f"{path.relative_to(ROOT)}: {module}"
        for path in files(folder)
        if any(name in path.read_text() for name in names)
        for module in imports(path)
        if any(module == name or module.startswith(f"{name}.") for name in names)
    ]


def test_the_agent_uses_the_standard_library_alone():
    # The guest's Python is 3.11, where SHA-256 is a module of its own; the host's may be newer.
    allowed = {*sys.stdlib_module_names, "_sha256", "tceagent"}
    assert [each for path in files(GUEST) for each in imports(path) if each.partition(".")[0] not in allowed] == []


def test_only_the_platform_qemu_and_devices_of_our_own_know_asyncio():
    rooms = ("/qemu/", "/device/")
    assert [each for each in reaching(HOST, "asyncio") if not any(room in each for room in rooms)] == []


def test_only_qemu_image_doctor_and_nightly_know_processes():
    users = {each.partition(":")[0] for each in reaching(HOST, "subprocess")}
    assert {user for user in users if "/qemu/" not in user and "/image/" not in user} <= {
        "harness/tcelab/cli/doctor.py",
        "harness/tcelab/nightly/process.py",
    }


def test_no_module_takes_more_than_one_sitting():
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in [*files(HOST), *files(GUEST)]}
    assert {name: lines for name, lines in long.items() if lines > LONGEST} == {}


def test_help_comes_fast_because_it_imports_little():
    """Not a time: what makes the time."""
    script = "import sys, tcelab.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"numpy", "asyncio", "rich", "pexpect", "msgspec"} & set(done.stdout.split()) == set()


def test_every_name_of_a_verb_is_a_command_of_that_name():
    context = click.Context(cli)
    assert [verb for verb in VERBS if cli.get_command(context, verb).name != verb] == []
