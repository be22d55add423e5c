"""The README, and what pages must say; `docs/test_pages.py` holds what they name against the code."""

import re
from pathlib import Path

import pytest

from tcelab.job.job import FILES
from tcelab.program import load
from tcelab.program.validate import validate

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]


def test_the_page_on_own_kernels_names_what_somebody_has_to_know():
    page = (ROOT / "docs" / "own-kernel.md").read_text()
    for words in (
        "ppc64le_guest_defconfig",
        "pages of 64 KiB",
        "apt-get install build-essential bc bison flex",
        "make M=/tmp/kmod modules",
        "tcelab run hcalls --kernel vmlinux --modules /tmp/kmod/tce_hcall.ko",
    ):
        assert words in page


def test_every_file_of_a_run_is_named():
    runs = (ROOT / "docs" / "runs.md").read_text()
    assert [
        name for name in [*FILES.values(), "result.json"] if f"| `{name}`" not in runs and f", `{name}` |" not in runs
    ] == []


@pytest.mark.parametrize("script", ["demo", "test", "nightly"])
def test_every_script_is_there_and_can_be_executed(script):
    assert (ROOT / "scripts" / script).stat().st_mode & 0o111
    assert re.search(rf"\bscripts/{script}\b", README)


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "examples").glob("*.json")), ids=lambda path: path.stem)
def test_every_example_is_a_program_that_can_be_run(path):
    validate(load(path))
    assert any(str(path.relative_to(ROOT)) in page for page in PAGES)


def test_the_readme_can_be_read_in_one_go():
    assert len(README.splitlines()) <= 160
