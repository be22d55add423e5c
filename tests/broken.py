"""Mutants of the guest's driver and of its kernel, as a user runs them, and what must be found by `images/mutants.toml`
and `images/kernel-mutants.toml`.
"""

import json
import re

from calls import tcelab
from tcelab.image import mutants

KNOWN = mutants.known()
FAULTS = {fault.name: fault for fault in KNOWN.fault}
FETCHING = 600
"""Seconds: the first of them fetches a compiler and the kernel's sources."""
OF_KERNEL = {fault.name: fault for fault in mutants.known_of_kernel().fault}
BUILDING = 4 * 60 * 60
"""Seconds: the first of them builds a kernel, on a machine that may have other work."""
BUILT = mutants.known_of_kernel().image


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


def run_kernel(verb, state, *options):
    """Exit code and result of a scenario, or of the leak check, on a kernel that was built; booted."""
    words = [mutants.LEAKCHECK] if verb == mutants.LEAKCHECK else ["run", verb, "--seed", KNOWN.seed]
    code, call = tcelab(*words, *options, "--boot", "--json", "-", state=state, limit=BUILDING)
    assert "Traceback" not in call.said
    result = json.loads(call.out) if call.out else {}
    assert result["versions"]["provenance"]["image"]["name"] == BUILT, call.said
    return code, result


def _told(result):
    found = result["findings"] if "findings" in result else result["verdict"]["findings"]
    return [f"{each['law']}: {each['message']}" for each in found]


def _assert_told(fault, code, result):
    told = _told(result)
    assert code == 1, told
    for pattern in fault.finds:
        assert any(re.match(pattern, line) for line in told), (pattern, told)


def assert_found(name, state):
    fault = FAULTS[name]
    _assert_told(fault, *run(fault.run, name, state))


def assert_found_in_kernel(name, state):
    fault = OF_KERNEL[name]
    code, result = run_kernel(fault.run, state, "--mutant", name)
    assert result["versions"]["provenance"]["mutant"]["name"] == name
    _assert_told(fault, code, result)


def assert_passes(scenario, state):
    """The rebuilt module, without a fault: it is the fault that is found, and not the rebuilding."""
    code, result = run(scenario, mutants.CLEAN, state)
    assert code == 0, result["verdict"]
    assert result["verdict"]["findings"] == []


def assert_kernel_passes(verb, state):
    """The kernel that was built, without a fault."""
    code, result = run_kernel(verb, state, "--image", BUILT)
    assert (code, _told(result)) == (0, [])
    assert "mutant" not in result["versions"]["provenance"]
