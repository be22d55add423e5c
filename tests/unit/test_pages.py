"""The pages of docs/ make a site, and what they name is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tcelab.cli import commandspage
from tcelab.emulator import quirkspage
from tcelab.program import operationspage
from tcelab.report import lawspage, resultpage
from tcelab.report.result import Result

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "docs" / "mkdocs" / "mkdocs.yml"
QUIET = {"NO_MKDOCS_2_WARNING": "1"}


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    """A link or an anchor that leads nowhere, or a page that stands in no menu, is a warning.

    Never with --quiet: warnings that are not shown are not counted either.
    """
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(CONFIG), "-d", str(tmp_path)]
    done = subprocess.run(build, capture_output=True, text=True, check=False, env=os.environ | QUIET)
    assert done.returncode == 0, done.stdout + done.stderr
    fetched = re.compile(r"""<(?:script|img|link rel="(?:stylesheet|icon)")[^>]* (?:src|href)="(?:https?:)?//""")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    assert [page.name for page in pages if fetched.search(page.read_text())] == []


@pytest.mark.parametrize(
    "maker", [commandspage, lawspage, operationspage, quirkspage, resultpage], ids=lambda maker: maker.__name__
)
def test_a_page_that_is_made_from_the_code_is_what_the_code_says(maker):
    name = maker.__name__.rpartition(".")[2].removesuffix("page")
    page = (ROOT / "docs" / f"{name}.md").read_text()
    assert page == maker.page(), "make it anew: ./scripts/pages"
    assert f"python -m {maker.__name__} > docs/{name}.md" in page


def test_the_page_of_the_result_has_every_struct_that_a_result_may_hold():
    """Whatever `result.Result` leads to."""
    found, ahead = set(), [msgspec.inspect.type_info(Result)]
    while ahead:
        kind = ahead.pop()
        if isinstance(kind, msgspec.inspect.StructType):
            ahead += [] if kind.cls in found else [field.type for field in kind.fields]
            found.add(kind.cls)
        below = (getattr(kind, name, None) for name in ("item_type", "key_type", "value_type"))
        ahead += [each for each in [*below, *getattr(kind, "types", ())] if each is not None]
    assert found == set(resultpage.STRUCTS)
