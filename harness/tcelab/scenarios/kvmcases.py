"""The cases of the scenario `hcalls` on a topology: under KVM, by its rules, as far as these are judged."""

from __future__ import annotations

from dataclasses import replace

from tcelab.papr import hcallnumbers
from tcelab.program import HcallBatch
from tcelab.program.kvmcalls import KvmCall, agreed, own_rule, seen
from tcelab.program.topology import Topology
from tcelab.scenarios import hcallcases
from tcelab.scenarios.hcallcases import PAGE, SUCCESS, Case


def cases(topology: Topology) -> list[Case]:
    """As `hcallcases.cases`."""
    every = hcallcases.cases(topology)
    if not topology.nested:
        return every
    return [made for each in every if (made := _under_kvm(each, topology)) is not None]


def _under_kvm(case: Case, topology: Topology) -> Case | None:
    """What KVM makes of a case; None: it is not judged there."""
    if case.problem_state or not agreed(case.before, topology):
        return None
    if agreed(case.calls, topology):
        return case
    rule = own_rule(HcallBatch(calls=list(case.calls)), topology)
    if rule is None or rule.why or len(case.calls) > 1:
        return None
    call = seen(case.calls[0], topology)
    written = rule.written(call) + _emptied(call) if rule.status == SUCCESS else 0
    gives = case.gives if rule.status == SUCCESS else None
    # What QEMU makes of it, in the case's name, does not hold here.
    name = case.name.removesuffix(": rounded down").removesuffix(", stored as it is")
    return replace(
        case, name=name, expected=(rule.status,), written=written, gives=gives, source=rule.source, differs=""
    )


def _emptied(call: KvmCall) -> int:
    """Of the standing entries, at both ends of the window, how many an H_STUFF_TCE that succeeds clears."""
    if call.phb is None or call.opcode != hcallnumbers.H_STUFF_TCE:
        return 0
    first = (call.ioba - call.phb.window_start) // PAGE
    return sum(first <= entry < first + call.npages for entry in (0, call.phb.entries - 1))
