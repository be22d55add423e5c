"""docs/troubleshooting.md tells every reason for 125, every error class and every limit."""

import re

import msgspec
import pytest
from pagesteps import ROOT
from reasons import reasons

from tcelab import errors
from tcelab.qemu.limits import Limits
from tcelab.qemu.waiter import _SILENT
from tcelab.run import exitcode

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


def shown(text):
    """A message as the page writes it."""
    return " ".join(text.replace("{}", "...").split())


@pytest.fixture(scope="module")
def given():
    """Each reason, and where it is: not when tests are collected, which each process does."""
    return {shown(each.text): each.where for each in reasons() if re.search("[a-z]", each.text)}


def test_every_reason_is_on_the_page(given):
    assert {text: where for text, where in given.items() if f"| `{text}` |" not in PAGE} == {}


def test_the_page_tells_no_reason_that_is_no_more(given):
    told = re.findall(r"^\| `([^`]+)` \|", PAGE.partition("## Every reason")[2], re.MULTILINE)
    assert len(told) > 100
    assert [text for text in told if text not in given] == []


def test_every_error_class_is_on_the_page_with_its_exit_code():
    known = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.TcelabError)]
    for each in known:
        row = next((line for line in PAGE.splitlines() if line.startswith(f"| `{each.__name__}` |")), "")
        assert row, each
        assert each is errors.TcelabError or f" {exitcode.of_error(each.__new__(each))}" in row


def test_every_limit_is_on_the_page_with_its_seconds():
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (\d+) \|", PAGE, re.MULTILINE))
    assert {name: float(text) for name, text in rows.items()} == msgspec.structs.asdict(Limits())
    assert [said for said in _SILENT.values() if f"`{said}`" not in PAGE] == []
