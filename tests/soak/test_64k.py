"""Kernels with 64 KiB pages: the programs of the quirks prove there what they prove with 4 KiB, as a user runs them."""

import json
from pathlib import Path

import pytest

from calls import tcelab
from tcelab.program import load

pytestmark = pytest.mark.guest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROGRAMS = sorted(EXAMPLES.rglob("*.json"))


def verdict_of(path, state, *options):
    code, call = tcelab("run", path, "--image", "guest-64k", "--json", "-", *options, state=state, limit=300)
    result = json.loads(call.out)
    assert result["platform"]["page_size"] == 65536
    return code, result["verdict"]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_an_example_meets_its_quirks(path, tmp_path):
    code, verdict = verdict_of(path, tmp_path)
    assert (code, verdict["findings"]) == (0, [])
    assert all(verdict["evidence"]["quirks"][quirk] for quirk in load(path).shows)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_without_a_declaration_it_is_a_finding_that_names_the_quirk(path, tmp_path):
    for quirk in load(path).shows:
        code, verdict = verdict_of(path, tmp_path / quirk, "--without-quirk", quirk)
        assert code == 1
        assert quirk in {finding["quirk"] for finding in verdict["findings"]}
