"""The worked examples of docs/howto are done as they are written, in a copy of the tree."""

import pytest
from pagesteps import ROOT, Copy, steps

PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_does_what_it_says(page, tmp_path):
    todo = steps(page.read_text())
    assert {step.kind for step in todo} == {"file", "edit", "commands"}
    copy = Copy(tmp_path)
    for step in todo:
        copy.do(step)
