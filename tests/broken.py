"""Mutants of the guest's driver, as a user runs them, and what `images/mutants.toml` says must be found."""

import json
import re

from calls import tcelab
from tcelab.image import mutants

KNOWN = mutants.known()
FAULTS = {fault.name: fault for fault in KNOWN.fault}
FETCHING = 600
"""Seconds: the first of them fetches a compiler and the kernel's sources."""


def run(scenario, name, state):
    """Exit code and result of a scenario on a mutant, booted: guests of broken kernels are not kept for forks."""
    options = ("--seed", KNOWN.seed, "--boot", "--mutant", name, "--json", "-")
    code, call = tcelab("run", scenario, *options, state=state, limit=FETCHING)
    result = json.loads(call.out) if call.out else {}
    # A report on it cannot be taken for one on the kernel's own driver.
    assert result["versions"]["provenance"]["mutant"]["name"] == name, call.said
    assert f"mutant:  {KNOWN.module} rebuilt from {KNOWN.source} 6.12." in call.err
    assert "Traceback" not in call.said
    (folder,) = call.runs()
    # It is this module that the kernel loaded: its own is built with the tree.
    assert f"{KNOWN.module}: loading out-of-tree module taints kernel" in (folder / "console.log").read_text()
    return code, result


def assert_found(name, state):
    fault = FAULTS[name]
    code, result = run(fault.run, name, state)
    told = [f"{each['law']}: {each['message']}" for each in result["verdict"]["findings"]]
    assert code == 1, told
    for pattern in fault.finds:
        assert any(re.match(pattern, line) for line in told), (pattern, told)


def assert_passes(scenario, state):
    """The rebuilt module, without a fault: it is the fault that is found, and not the rebuilding."""
    code, result = run(scenario, mutants.CLEAN, state)
    assert code == 0, result["verdict"]
    assert result["verdict"]["findings"] == []
