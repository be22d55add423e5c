"""The README tells what is."""

import re
import shlex
from pathlib import Path

import click
import pytest

from tcelab.cli import cli
from tcelab.cli.job import FILES
from tcelab.judge import LAWS
from tcelab.program import load
from tcelab.quirks import QUIRKS
from tcelab.validate import validate

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (tcelab .*?)(?: +#.*)?$", README, re.MULTILINE)


def test_the_laws_are_those_of_the_judge():
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \|$", README, re.MULTILINE)
    assert dict(row for row in rows if row[0] != "law") == LAWS


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_that_is_shown_exists_with_its_options(line):
    words = [word for word in shlex.split(line.partition("|")[0])[1:] if word != "..."]
    command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
        assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 5


def test_every_file_of_a_run_is_named():
    assert [name for name in [*FILES.values(), "result.json"] if f"`{name}`" not in README] == []


@pytest.mark.parametrize("script", ["demo", "test", "nightly"])
def test_every_script_is_there_and_can_be_executed(script):
    assert (ROOT / "scripts" / script).stat().st_mode & 0o111
    assert script in README


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "examples").glob("*.json")), ids=lambda path: path.stem)
def test_every_example_is_a_program_that_can_be_run(path):
    validate(load(path))
    pages = [README, *(page.read_text() for page in (ROOT / "docs").glob("*.md"))]
    assert any(str(path.relative_to(ROOT)) in page for page in pages)


def test_the_quirks_are_those_that_are_known():
    rows = re.findall(r"^\| ([a-z0-9-]+) \| [^|]+ \| [^|]+ \|$", README, re.MULTILINE)
    assert [row for row in rows if "-" in row and row.strip("-")] == list(QUIRKS)
