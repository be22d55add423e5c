"""A device comes to a PE that a container has: how often a kernel with the defect warns, and what may follow."""

import dataclasses
from itertools import chain

import msgspec
import pytest

from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.errors import UsageError
from tcelab.judge import Judge
from tcelab.papr import tce
from tcelab.program import Bind, Crash, DeviceAdd, DeviceRemove, Kexec, Open, Page, Program, Reset
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.quirks import COMING_LOSES
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

WHERE = topology("hotplug")
ONE, TWO = b.pes(WHERE, "used")[:2]
COMES, GOES = DeviceAdd(device="hot1", expect="ok"), DeviceRemove(device="hot1", expect="ok")
BUFFER = b.buffer("b", 16, 1)


def container(pe, kind=b.SPAPR_TCE):
    return [*b.bind(pe), *b.open_container(pe, kind)]


def mapped(pe):
    return [*container(pe), *b.enable(pe), *BUFFER, *b.map_dma(pe, Page("b"), 0x20000, 16, tce.PERMISSIONS)]


def registered(pe, *more):
    register = b.ask(pe, "SPAPR_REGISTER_MEMORY", vaddr=Page("b"), size=16 * b.PAGE)
    return [*container(pe, b.SPAPR_TCE_V2), *BUFFER, *register, *chain(*more)]


MAP = b.map_dma(ONE, Page("b"), 0x20000, 16, tce.PERMISSIONS)
CLOSED = b.close(ONE.group, ONE.container)
SEEN = {
    "only bound": (b.bind(ONE), 0),
    "its group is open": ([*b.bind(ONE), Open(file="g", path="/dev/vfio/$pe1", expect="ok")], 0),
    "nothing mapped": (container(ONE), 3),
    "nothing mapped, v2": (container(ONE, b.SPAPR_TCE_V2), 3),
    "enabled": ([*container(ONE), *b.enable(ONE)], 3),
    "mapped": (mapped(ONE), 2),
    "mapped, v2": (registered(ONE, MAP), 2),
    "mapped and closed": ([*mapped(ONE), *CLOSED], 0),
    "its buses were scanned, mapped": ([COMES, GOES, *mapped(ONE)], 1),
    "its buses were scanned, nothing mapped": ([COMES, GOES, *container(ONE)], 2),
    "another PE, nothing mapped": (container(TWO), 1),
    "another PE, mapped": (mapped(TWO), 0),
    "after a reset": ([COMES, GOES, Reset(expect="ok"), *container(ONE)], 3),
}
"""As 6.12.95 does it; all but those of other PEs were seen three times, or with what they lead to."""


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("quirks", [(), (COMING_LOSES,)], ids=["right", "6.12"])
def test_a_kernel_with_the_defect_warns_as_often_as_it_looks_for_a_window_that_is_not_there(name, quirks):
    before, times = SEEN[name]
    ops = [*before, COMES, *b.checkpoint("after")]
    program = Program(name="used", topology=WHERE, ops=ops)
    validate(program)
    with EmulatorSession(WHERE, quirks=quirks) as session:
        judge = Judge(program, session.facts, references=EmulatorReferences(WHERE, session.facts))
        run = perform_program(program, session, judge)
        verdict = judge.verdict(run)
    assert run.ending is None, run.ending.error
    assert [each.message for each in verdict.findings] == []
    assert len(run.steps[-1].snapshot.console) == (times if quirks else 0)
    assert bool(verdict.evidence.quirks.get(COMING_LOSES)) == bool(times and quirks)


def test_one_that_is_not_declared_is_named():
    ops = [*container(ONE), COMES, *b.checkpoint("after")]
    program = Program(name="used", topology=WHERE, ops=ops)
    with EmulatorSession(WHERE, quirks=(COMING_LOSES,)) as session:
        facts = dataclasses.replace(session.facts, quirks=frozenset())
        judge = Judge(program, facts, references=EmulatorReferences(WHERE, facts))
        verdict = judge.verdict(perform_program(program, session, judge))
    assert COMING_LOSES in {each.quirk for each in verdict.findings}


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (Bind(device="hot1"), "hot1 came while VFIO had its PE, and may have no group: pull it, and add it again"),
        (Kexec(), "nobody knows what a second kernel makes of a window that hot1 has found in use"),
        (Crash(), "nobody knows what a second kernel makes of a window that hot1 has found in use"),
    ],
)
def test_what_nobody_knows_of_such_a_device_is_refused_until_it_was_pulled(op, why):
    def said(*ops):
        try:
            validate(Program(name="p", topology=msgspec.structs.replace(WHERE, crashkernel=256), ops=list(ops)))
        except UsageError as error:
            return error.message
        return ""

    assert why in said(*container(ONE), COMES, op)
    assert said(*container(ONE), COMES, *CLOSED, GOES, COMES, op) == ""
    assert said(*container(ONE), COMES, Reset(), op) == ""


def test_where_pes_are_guarded_no_device_comes_to_one_in_use():
    with pytest.raises(UsageError, match="the group of device 'pe1' is in use"):
        validate(Program(name="p", topology=WHERE, ops=[*container(ONE), COMES], isolation=True))
