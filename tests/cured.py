"""Guests whose driver, or kernel, has cures, as a user runs them; what is cured is not declared."""

import json
from pathlib import Path

from calls import tcelab
from tcelab.image import cures

KNOWN = cures.known()
BY_NAME = {cure.quirk: cure for cure in KNOWN.cure}
OF_MODULE = [name for name, cure in BY_NAME.items() if KNOWN.of_module(cure)]
PROGRAMS = Path(__file__).parents[1] / "docs" / "examples" / "quirks"
BUILDING = 4 * 60 * 60
"""Seconds: the first of them may build a kernel, on a machine that may have other work."""


def run(state, *words):
    """Exit code and result."""
    code, call = tcelab(*words, "--json", "-", state=state, limit=BUILDING)
    assert "Traceback" not in call.said
    assert call.out, call.said
    return code, json.loads(call.out)


def of(quirk):
    """Options: the image that can have the cure."""
    return () if quirk in OF_MODULE else ("--image", KNOWN.image)


def assert_cured(quirk, state):
    """The quirk's smallest program: a finding where the quirk is not declared, and a pass with the cure."""
    program = PROGRAMS / f"{quirk}.json"
    code, result = run(state / "as-it-is", "run", program, "--without-quirk", quirk, *of(quirk))
    assert code == 1, result["verdict"]
    assert quirk in {finding["quirk"] for finding in result["verdict"]["findings"]}
    code, result = run(state / "cured", "run", program, "--cure", quirk, *of(quirk))
    assert (code, result["verdict"]["findings"]) == (0, [])
    assert_told(result, [quirk])


def assert_told(result, names):
    """The result says what is cured, and none of it is declared."""
    told = result["versions"]["provenance"]["cures"]
    assert told["quirks"] == list(names)
    assert told["module"] == (KNOWN.module if set(names) <= set(OF_MODULE) else "vmlinux")
    assert not set(names) & set(result["verdict"]["evidence"]["quirks"])
