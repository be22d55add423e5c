"""A kernel by recipe: it passes, the quirks that its recipe declares are its own, and every fault of its built-in code
is found out by what must find it. The first of these tests builds the kernel.
"""

import json
from pathlib import Path

import pytest

import broken
from calls import tcelab
from tcelab import image
from tcelab.program import load

pytestmark = [pytest.mark.guest, pytest.mark.network]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DECLARED = image.quirks(broken.BUILT)
SHOWING = [path for path in sorted(EXAMPLES.rglob("*.json")) if set(load(path).shows) & DECLARED]
FOUND = [name for name, fault in broken.OF_KERNEL.items() if fault.finds]


@pytest.mark.parametrize("verb", ["rules", "windows", "leakcheck", "dma-api", "windows-removed"])
def test_the_kernel_without_a_fault_passes(verb, tmp_path):
    broken.assert_kernel_passes(verb, tmp_path)


@pytest.mark.parametrize("path", SHOWING, ids=lambda path: path.stem)
def test_an_example_meets_the_quirks_that_are_declared(path, tmp_path):
    options = ("--image", broken.BUILT, "--json", "-")
    code, call = tcelab("run", path, *options, state=tmp_path, limit=broken.BUILDING)
    verdict = json.loads(call.out)["verdict"]
    assert (code, verdict["findings"]) == (0, [])
    assert all(verdict["evidence"]["quirks"][quirk] for quirk in load(path).shows)


@pytest.mark.parametrize("name", FOUND)
def test_the_fault_is_found(name, tmp_path):
    broken.assert_found_in_kernel(name, tmp_path)
