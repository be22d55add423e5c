"""The laws of a guest under KVM whose device is passed through: KVM's rules hold, and QEMU's are found to be wrong."""

import pytest

from tcelab.emulator import hcallfile
from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.judge import Judge
from tcelab.papr import hcallrules, kvmrules
from tcelab.program import Buffer, Call, Checkpoint, Fill, Hcall, HcallBatch, Program, Tce
from tcelab.program.topology import PASSTHROUGH
from tcelab.run.loop import perform_program

LIOBN, AT = 0x80000100, 0x100000
OUT = 0x7000000003
PUT, GET, STUFF, INDIRECT = "H_PUT_TCE", "H_GET_TCE", "H_STUFF_TCE", "H_PUT_TCE_INDIRECT"
READ_BACK = Hcall(call=Call(GET, [LIOBN, AT]))
FIRST = Hcall(call=Call(PUT, [LIOBN, AT, Tce("b", 5)]))

CASES = {
    "a page": Call(PUT, [LIOBN, AT, Tce("b")]),
    "out of RAM": Call(PUT, [LIOBN, AT, OUT]),
    "reserved bits, write only": Call(PUT, [LIOBN, AT, Tce("b", 0, 2, 0x800)]),
    "an address": Call(PUT, [LIOBN, AT, Tce("b", 0, 0)]),
    "misaligned": Call(PUT, [LIOBN, AT + 8, Tce("b")]),
    "stuffed with permissions": Call(STUFF, [LIOBN, AT, Tce("b"), 2]),
    "no pages": Call(STUFF, [LIOBN, AT, 0, 0]),
    "a list with one out of RAM": Call(INDIRECT, [LIOBN, AT, 0, 3], [Tce("b", 0, 2), OUT, Tce("b", 1)]),
    "a list with an address": Call(INDIRECT, [LIOBN, AT, 0, 2], [Tce("b", 1, 0), Tce("b", 2)]),
    "a list of reserved bits": Call(INDIRECT, [LIOBN, AT, 0, 2], [0xFFC, 0]),
}


def findings(call, times=1):
    ops = [
        Buffer(name="b", pages=8),
        Fill(buffer="b", offset=0, size=8 * 4096, seed=1),
        FIRST,
        HcallBatch(calls=[call], times=times),
        READ_BACK,
        Checkpoint(),
        Hcall(call=Call(PUT, [LIOBN, AT, Tce("b", 6)])),
        READ_BACK,
        Checkpoint(),
    ]
    program = Program(name="p", topology=PASSTHROUGH, ops=ops)
    session = EmulatorSession(PASSTHROUGH)
    judge = Judge(program, session.facts)
    return judge.verdict(perform_program(program, session, judge)).findings


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_kvms_answer_is_right(name, times):
    assert findings(CASES[name], times) == []


LENIENT = {"a page", "a list with an address", "a list of reserved bits", "no pages"}
"""What QEMU's rules make the same of, or refuse: a refusal breaks no law, and is the reference's to tell."""


@pytest.mark.parametrize("name", [name for name in CASES if name not in LENIENT])
def test_qemus_answer_is_a_finding(name, monkeypatch):
    def of_qemu(machine, _lost=None):
        return hcallrules.Hypercalls(hcallfile.tables(machine), machine.ram.read)

    monkeypatch.setattr(hcallfile, "hypercalls", of_qemu)
    assert {finding.law for finding in findings(CASES[name])} & {"table", "hypercalls"}


def test_a_copy_that_is_not_what_the_guest_wrote_is_a_finding(monkeypatch):
    monkeypatch.setattr(kvmrules.KvmHypercalls, "get", hcallrules.Hypercalls.get)
    (found, *_) = findings(CASES["out of RAM"])
    assert (found.law, "gives another TCE than it holds" in found.message) == ("hypercalls", True)


def test_an_entry_that_is_emptied_although_kvm_leaves_it_is_a_finding(monkeypatch):
    beneath = kvmrules.KvmHypercalls._beneath

    def emptied(self, word, _before, **how):
        return beneath(self, word, 0, **how)

    monkeypatch.setattr(kvmrules.KvmHypercalls, "_beneath", emptied)
    assert findings(CASES["out of RAM"])[0].law == "table"
