"""Windows of all RAM with smaller pages, where firmware offers no larger ones."""

import pytest

from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.errors import UsageError
from tcelab.judge import Judge
from tcelab.papr import window
from tcelab.program import Bind, Buffer, Checkpoint, Ddw, DmaBind, DmaMap, DmaMask, Flip, Page, Program
from tcelab.program.topology import Phb, Topology, topology
from tcelab.program.validate import validate
from tcelab.run.loop import perform_program

WHERE = topology("direct-pages")
ENTRIES = {"pe1": (12, 1 << 17), "pe2": (16, 1 << 13), "pe3": (21, 1 << 8)}


def story(device, *more):
    ops = [
        Buffer(name="b", pages=2, seed=1),
        DmaBind(device=device, expect="ok"),
        DmaMask(device=device, bits=64, expect="ok"),
        DmaMap(device=device, name="m", page=Page("b", 1, 9), size=80, expect="ok"),
        Checkpoint(stream=True),
    ]
    return Program(name="pages", topology=WHERE, ops=[*ops, *more])


def judged(program):
    session = EmulatorSession(WHERE)
    judge = Judge(program, session.facts, references=EmulatorReferences(WHERE, session.facts))
    return session, judge.verdict(perform_program(program, session, judge))


@pytest.mark.parametrize("device", ["pe2", "pe3"])
def test_the_largest_pages_that_firmware_offers_are_taken(device):
    session, verdict = judged(story(device))
    high = session.machine.pes[int(device[-1])].windows.high
    assert (high.page_shift, high.entries) == ENTRIES[device]
    assert verdict.findings == []


def test_one_wrong_entry_among_many_is_named():
    ioba = window.SECOND_START + (4097 << 16)
    _, verdict = judged(story("pe2", Flip(liobn=0x80000201, ioba=ioba, bit=1), Checkpoint()))
    assert {(each.liobn, each.ioba) for each in verdict.findings} == {(0x80000201, ioba)}


def test_firmware_refuses_what_it_does_not_offer():
    session = EmulatorSession(WHERE)
    query = session.intervene(Ddw(call="query", device="pe1"), ())
    large = session.intervene(Ddw(call="create", device="pe1", page_shift=24, window_shift=30), ())
    assert (query.fields["page_sizes"], large.value) == (1, -3)


def test_vfio_has_no_rules_for_it():
    program = Program(name="p", topology=WHERE, ops=[Bind(device="pe1"), Checkpoint()])
    with pytest.raises(UsageError, match="fewer page sizes than the rules of VFIO"):
        validate(program)


@pytest.mark.parametrize("shifts", [(), (13,), (12, 12)])
def test_only_page_sizes_that_qemu_has_are_offered(shifts):
    with pytest.raises(ValueError, match=r"page_shifts of PHB 1 are some of 12, 16, 21, 24, each once"):
        Topology("t", (Phb(1, page_shifts=shifts),))
