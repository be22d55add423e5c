"""CONTRIBUTING.md: its commands exist, its files are there, and its good examples are ours."""

import re
import shlex

import click
import pytest
from pagesteps import ROOT

from tcelab.cli import cli

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
GOOD = re.findall(r'^```python title="([^"]+\.py)"\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL)
SHOWN = re.findall(r"^    (\S.*?)(?: +#.*)?$|`([^`\n]+)`", TEXT, re.MULTILINE)
LINES = [part.strip() for pair in SHOWN for line in pair for part in line.split("&&") if part.strip()]
OURS = [line for line in LINES if line.startswith("tcelab ") and not line.startswith("tcelab --")]
TESTS = [line for line in LINES if re.match(r"(pytest|\./scripts/test) ", line)]


@pytest.mark.parametrize(("file", "code"), GOOD, ids=[file for file, _ in GOOD])
def test_a_good_example_is_in_the_file_that_it_names(file, code):
    assert code in (ROOT / file).read_text()


@pytest.mark.parametrize("line", OURS)
def test_the_command_line_takes_the_command(line):
    command, words, context = cli, shlex.split(line)[1:], click.Context(cli)
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
    assert command.make_context(line, words)


def test_there_are_examples_and_commands_to_check():
    assert len(GOOD) >= 4
    assert len(OURS) >= 4
    assert len(TESTS) >= 6


def test_every_file_and_folder_that_it_names_is_there():
    named = [word for line in TESTS for word in shlex.split(line) if word.startswith("tests/")]
    named += re.findall(r"`((?:\./)?(?:scripts|tests|harness|guest|docs)/[\w./-]*)`", TEXT)
    named += re.findall(r"\]\(((?!http)[^)#]+)", TEXT)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []
