"""The worked examples of docs/howto are done as they are written, in a copy of the tree."""

import re
import tomllib

import pytest
from pagesteps import OTHERS, ROOT, Copy, steps
from warm import warm

PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))


@pytest.fixture(scope="module")
def forks():
    with warm(*OTHERS) as forks:
        yield forks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_does_what_it_says(page, tmp_path, forks):
    todo = steps(page.read_text())
    assert {step.kind for step in todo} == {"file", "edit", "commands"}
    copy = Copy(tmp_path, forks)
    for step in todo:
        copy.do(step)


def test_every_broken_driver_that_a_page_names_is_one():
    files = [ROOT / "images" / name for name in ("mutants.toml", "kernel-mutants.toml")]
    known = {each["name"] for file in files for each in tomllib.loads(file.read_text())["fault"]}
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"--mutant ([a-z][\w-]+)", page.read_text())}
    assert len(named) >= 2
    assert named - known == {"clean"}  # the module rebuilt without a fault
