"""The recipes of docs/ci.md can be read by those whom they are for, and their commands are ours."""

import re
import shlex
import subprocess

import click
import pytest
import yaml
from pagesteps import ROOT

from tcelab.cli import cli
from tcelab.testing.plugin import OPTIONS

PAGE = (ROOT / "docs" / "ci.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"(?:^|[\s'`(])(tcelab(?: (?!\|\|)[^\s'`;>)]+)+)", "\n".join(text for _, text in BLOCKS))


def scripts():
    """Every shell script of a recipe, by the kind of recipe."""
    for kind, text in BLOCKS:
        if kind == "sh":
            yield kind, text
        elif kind == "groovy":
            yield from ((kind, each) for each in re.findall(r"sh(?:\(script:)? '([^']*)'", text))
        else:
            recipe = yaml.safe_load(text)
            steps = [step.get("run", "") for job in recipe.get("jobs", {}).values() for step in job["steps"]]
            own = recipe.get("tcelab", {})
            yield from (
                (kind, each) for each in [*steps, *own.get("before_script", ()), *own.get("script", ())] if each
            )


def test_each_kind_of_recipe_is_there_with_commands_of_ours():
    assert [kind for kind, _ in BLOCKS].count("yaml") == 2
    assert {kind for kind, script in scripts() if "tcelab run" in script} == {"sh", "groovy", "yaml"}
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("script", [script for _, script in scripts()])
def test_a_shell_reads_the_script(script):
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", sorted(set(COMMANDS)))
def test_the_command_line_takes_the_command(line):
    """With its options and their values, as it would before anything is done."""
    command, words, context = cli, shlex.split(line)[1:], click.Context(cli)
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
    assert command.make_context(line, words)


def test_the_jobs_know_what_125_is():
    github, gitlab = (yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml")
    assert gitlab["tcelab"]["allow_failure"]["exit_codes"] == gitlab["tcelab"]["retry"]["exit_codes"] == [125]
    assert any("125" in step.get("run", "") for step in github["jobs"]["tcelab"]["steps"])
    assert re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE) == ["0", "1", "2", "125"]


def test_the_options_of_pytest_are_the_plugins():
    assert set(re.findall(r"--tcelab-([\w-]+)", PAGE)) <= OPTIONS.keys()
