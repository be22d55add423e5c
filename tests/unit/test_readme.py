"""The README tells what is."""

import re
import shlex
from pathlib import Path

import click
import pytest

from tcelab.cli import cli
from tcelab.job.job import FILES
from tcelab.judge import LAWS
from tcelab.program import load
from tcelab.program.validate import validate
from tcelab.quirks import QUIRKS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]
COMMANDS = re.findall(r"^    (tcelab .*?)(?: +#.*)?$", "\n".join(PAGES), re.MULTILINE)


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


def test_the_page_on_own_kernels_names_what_somebody_has_to_know():
    page = (ROOT / "docs" / "own-kernel.md").read_text()
    judge = page.partition("`judge` being")[2].partition("    exit $code")[0]
    assert "export ARCH=powerpc CROSS_COMPILE=powerpc64le-linux-gnu-" in judge
    for words in (
        "ppc64le_guest_defconfig",
        "pages of 64 KiB",
        "apt-get install build-essential bc bison flex",
        "make M=/tmp/kmod modules",
        "tcelab run hcalls --kernel vmlinux --modules /tmp/kmod/tce_hcall.ko",
        "Quicker: the driver's modules alone, on Debian's kernel",
    ):
        assert words in page


def test_every_file_of_a_run_is_named():
    assert [name for name in [*FILES.values(), "result.json"] if f"`{name}`" not in README] == []


@pytest.mark.parametrize("script", ["demo", "test", "nightly"])
def test_every_script_is_there_and_can_be_executed(script):
    assert (ROOT / "scripts" / script).stat().st_mode & 0o111
    assert re.search(rf"\bscripts/{script}\b", README)


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "examples").glob("*.json")), ids=lambda path: path.stem)
def test_every_example_is_a_program_that_can_be_run(path):
    validate(load(path))
    assert any(str(path.relative_to(ROOT)) in page for page in PAGES)


def test_the_quirks_are_those_that_are_known():
    rows = re.findall(r"^\| ([a-z0-9-]+) \| [^|]+ \| [^|]+ \|$", README, re.MULTILINE)
    assert [row for row in rows if "-" in row and row.strip("-")] == list(QUIRKS)
