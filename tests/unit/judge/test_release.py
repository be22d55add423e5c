"""What a guest left that owned a device: each thing is a finding, and a declared quirk explains what it explains."""

from dataclasses import replace

import numpy as np
import pytest

from tcelab.judge import Judge
from tcelab.judge.laws.release import keeps
from tcelab.program import Buffer, Call, Hcall, HcallBatch, Program, Tce
from tcelab.program.topology import PASSTHROUGH
from tcelab.quirks import LIST_KEEPS
from tcelab.run.record import Facts, Outcome, Parting, RunRecord, Step, TableView

LIOBN, AT = 0x80000100, 0x100000
RAM = 256 << 20
FACTS = Facts("ideal", b"n" * 16, 4096, RAM, {}, {})
DECLARED = replace(FACTS, quirks=frozenset({LIST_KEEPS}))
WARNS = (
    "L1: [ 6.4] WARNING: CPU: 0 PID: 1 at drivers/vfio/vfio_iommu_spapr_tce.c:371 tce_iommu_release+0x180/0x224",
    "L1: [ 6.5] WARNING: CPU: 0 PID: 1 at arch/powerpc/mm/book3s64/mmu_context.c:276 destroy_context+0xe4/0xec",
)
OOPS = "L1: [ 6.6] Oops: Kernel access of bad area"


def listed(*tces, count=None):
    return HcallBatch(calls=[Call("H_PUT_TCE_INDIRECT", [LIOBN, AT, 0, len(tces) if count is None else count], tces)])


KEEPS = listed(Tce("b", 0, 3), Tce("b", 1, 0))


def table(*entries, liobn=LIOBN, size=4096):
    index = np.array([number for number, _ in entries], np.uint32)
    return TableView(liobn, "stream", size, index, np.array([word for _, word in entries], np.uint64))


def left(*tables, pins=7, said=(), problem=""):
    return Parting("SIGTERM", problem, tables or (table(),), pins, 7, tuple(said))


def judged(parting, *ops, facts=FACTS, status=0):
    program = Program(name="p", topology=PASSTHROUGH, ops=[Buffer(name="b", pages=2), *ops])
    steps = [Step(0, program.ops[0], Outcome(value=0))]
    steps += [Step(number, op, Outcome(value=0, fields={"statuses": [status]})) for number, op in enumerate(ops, 1)]
    judge = Judge(program, facts)
    judge.end(RunRecord(program, facts, steps, parting=parting))
    return judge.ledger


def messages(ledger):
    return [(finding.message, finding.quirk) for finding in ledger.findings]


def test_nothing_that_is_left_is_no_finding():
    ledger = judged(left())
    assert messages(ledger) == []
    assert ledger.evidence.laws["release"].judged == 1


def test_where_nobody_looked_nothing_is_judged():
    assert judged(None).evidence.laws["release"].judged == 0


def test_a_qemu_that_does_not_end_is_no_pass_and_no_finding():
    ledger = judged(left(table((1, 3)), problem="L1's QEMU did not end"))
    assert messages(ledger) == []
    assert ledger.evidence.laws["release"].judged == 0
    assert "L1's QEMU did not end" in ledger.reasons


@pytest.mark.parametrize(
    ("parting", "message"),
    [
        (left(table((3, 0x5003), (9, 0x7001))), "2 live entries after SIGTERM to L1's QEMU"),
        (left(table(), table(liobn=LIOBN | 1)), "the window of 64 bits is there after SIGTERM to L1's QEMU"),
        (left(pins=9), "L1's kernel holds +2 pins more than before its QEMU began"),
        (left(pins=6), "L1's kernel holds -1 pins more than before its QEMU began"),
        (left(said=[OOPS]), f"L1's kernel said when its QEMU ended: {OOPS}"),
        (left(said=WARNS[:1]), f"L1's kernel said when its QEMU ended: {WARNS[0]}"),
    ],
)
@pytest.mark.parametrize("facts", [FACTS, DECLARED])
def test_each_thing_that_is_left_is_a_finding(parting, message, facts):
    assert messages(judged(parting, listed(Tce("b", 0, 3)), facts=facts)) == [(message, "")]


def test_a_live_entry_is_told_by_its_bus_address():
    (finding,) = judged(left(table((3, 0x5003)))).findings
    assert (finding.liobn, finding.ioba) == (LIOBN, 3 << 12)
    assert "0x5000" in finding.seen


def test_a_window_that_is_gone_is_none():
    assert messages(judged(left(table(), table(liobn=LIOBN | 1, size=0)))) == []


def test_a_declared_quirk_explains_the_pins_and_the_warnings_of_a_list_without_permissions():
    ledger = judged(left(pins=99, said=WARNS), KEEPS, facts=DECLARED)
    assert messages(ledger) == []
    assert ledger.evidence.quirks == {LIST_KEEPS: 1}


def test_undeclared_it_is_a_finding_that_names_it_and_the_call():
    findings = judged(left(pins=99, said=WARNS), KEEPS).findings
    assert [finding.quirk for finding in findings] == [LIST_KEEPS] * 3
    assert {finding.operation.split()[0] for finding in findings} == {"#1"}


def test_declared_it_explains_nothing_else():
    ledger = judged(left(table((0, 3)), pins=99, said=[*WARNS, OOPS]), KEEPS, facts=DECLARED)
    assert [finding.seen for finding in ledger.findings][1:] == [OOPS]
    assert ledger.findings[0].message.startswith("1 live entry ")


@pytest.mark.parametrize("parting", [left(), left(said=WARNS), left(pins=99)])
def test_declared_it_must_show(parting):
    told = [message for message, _ in messages(judged(parting, KEEPS, facts=DECLARED))]
    assert told
    assert all(message.startswith(f"the declared quirk {LIST_KEEPS} does not show") for message in told)


@pytest.mark.parametrize(
    ("op", "status", "kept"),
    [
        (KEEPS, 0, True),
        (KEEPS, -4, False),
        (listed(0), 0, True),
        (listed(Tce("b", 0, 3)), 0, False),
        (listed(Tce("b", 0, 0), Tce("b", 1, 3, plus=4)), 0, False),
        (listed(Tce("b", 0, 0), RAM | 3), 0, False),
        (listed(Tce("b", 0, 3), Tce("b", 1, 0), count=1), 0, False),
        (HcallBatch(calls=[Call("H_PUT_TCE", [LIOBN, AT, Tce("b", 0, 0)])]), 0, False),
        (Hcall(call=KEEPS.calls[0]), 0, True),
        (Hcall(call=KEEPS.calls[0]), -4, False),
        (Buffer(name="c", pages=1), 0, False),
    ],
)
def test_which_lists_keep_memory(op, status, kept):
    fields = {} if isinstance(op, Hcall) else {"statuses": [status]}
    assert keeps(op, Outcome(value=status, fields=fields), FACTS) is kept
    assert not keeps(op, None, FACTS)
