"""The pages of docs/ make a site, and what they name is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

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
