"""Where KVM's rules for TCE hypercalls are not QEMU's: rows typed from arch/powerpc/kvm/book3s_64_vio.c."""

import pytest

from tcelab.program import Call, Hcall, HcallBatch, Tce
from tcelab.program.kvmcalls import DIFFERENCES, agreed, own_rule, seen
from tcelab.program.topology import PASSTHROUGH

LIOBN, AT, END = 0x80000100, 0x100000, 16 << 20
PUT, GET, STUFF, INDIRECT = "H_PUT_TCE", "H_GET_TCE", "H_STUFF_TCE", "H_PUT_TCE_INDIRECT"
PAGE = Tce("b")

ROWS = [
    # what KVM does by the same rule as QEMU
    (Call(PUT, [LIOBN, AT, PAGE]), ""),
    (Call(PUT, [LIOBN, AT, Tce("b", 0, 1)]), ""),
    (Call(PUT, [LIOBN, AT, 0]), ""),
    (Call(PUT, [LIOBN, END, PAGE]), ""),
    (Call(PUT, [LIOBN, END + 1, PAGE]), ""),
    (Call(PUT, [0x80000700, AT, PAGE]), ""),
    (Call(PUT, [LIOBN | 1, AT, PAGE]), ""),
    (Call(GET, [LIOBN, AT]), ""),
    (Call(STUFF, [LIOBN, AT, 0, 513]), ""),
    (Call(STUFF, [LIOBN, END - 0x4000, 0, 4]), ""),
    (Call(INDIRECT, [LIOBN, AT, 0, 2], [PAGE, PAGE]), ""),
    (Call(INDIRECT, [LIOBN, AT, 8, 2], [PAGE, PAGE]), ""),
    (Call(INDIRECT, [LIOBN, AT, 0, 513], [PAGE, PAGE]), ""),
    (Call(INDIRECT, [LIOBN, AT, 1 << 45, 2]), ""),
    (Call(PUT, [LIOBN, AT, 3]), ""),
    (Call(PUT, [LIOBN, AT, (255 << 20) + 3]), ""),
    # and what not
    (Call(PUT, [0x80000000, AT, PAGE]), "LIOBN of a PHB that the guest has not, or has of its own"),
    (Call(GET, [0x80001E00, AT]), "LIOBN of a PHB that the guest has not, or has of its own"),
    (Call(STUFF, [LIOBN, END - 0x1000, 0, 2]), "several pages, of which one is outside the window"),
    (Call(INDIRECT, [LIOBN, END - 0x1000, 0, 2], [PAGE, PAGE]), "several pages, of which one is outside the window"),
    (Call(STUFF, [LIOBN, AT, 0, (1 << 64) - 1]), "several pages, of which one is outside the window"),
    (Call(PUT, [LIOBN, AT + 0x10, PAGE]), "IOBA not aligned to a page"),
    (Call(GET, [LIOBN, END - 1]), "IOBA not aligned to a page"),
    (Call(STUFF, [LIOBN, AT, 0, 0]), "no pages"),
    (Call(INDIRECT, [LIOBN, AT, 0, 0], [PAGE]), "no pages"),
    (Call(STUFF, [LIOBN, AT, PAGE, 2]), "STUFF of a TCE with permissions"),
    (
        Call(PUT, [LIOBN, AT, 0x7000000003]),
        "TCE with permissions that is no page of the guest's, or has reserved bits",
    ),
    (
        Call(PUT, [LIOBN, AT, (256 << 20) + 3]),
        "TCE with permissions that is no page of the guest's, or has reserved bits",
    ),
    (
        Call(PUT, [LIOBN, AT, Tce("b", 0, 3, 0x800)]),
        "TCE with permissions that is no page of the guest's, or has reserved bits",
    ),
    (
        Call(INDIRECT, [LIOBN, AT, 0, 2], [PAGE, 0x7000000003]),
        "TCE with permissions that is no page of the guest's, or has reserved bits",
    ),
    (Call(PUT, [LIOBN, AT, Tce("b", 0, 0)]), "TCE without permissions that is not 0"),
    (Call(STUFF, [LIOBN, AT, 0x5000, 2]), "TCE without permissions that is not 0"),
    (Call(INDIRECT, [LIOBN, AT, 0, 2], [0, 0]), "INDIRECT with a TCE without permissions"),
    (Call(INDIRECT, [LIOBN, AT, PAGE, 2]), "INDIRECT with a list in a page of a process"),
    (
        Call(INDIRECT, [LIOBN, AT, 0, 2], [PAGE, 0x7000000000]),
        "INDIRECT with a TCE without permissions that leads out of the guest's RAM",
    ),
]


@pytest.mark.parametrize(("call", "case"), ROWS)
def test_kvms_own_rule(call, case):
    rule = own_rule(Hcall(call=call), PASSTHROUGH)
    assert (rule.case if rule else "") == case
    assert agreed([call], PASSTHROUGH) == (not case)


def test_every_rule_has_a_row():
    assert {case for _, case in ROWS if case} == {rule.case for rule in DIFFERENCES}


def test_one_call_of_a_batch_is_enough():
    good, bad = Call(GET, [LIOBN, AT]), Call(STUFF, [LIOBN, AT, 0, 0])
    assert own_rule(HcallBatch(calls=[good, bad]), PASSTHROUGH).case == "no pages"
    assert own_rule(HcallBatch(calls=[good]), PASSTHROUGH) is None


def test_only_what_some_kernel_does_not_survive_is_a_hazard():
    assert [rule.case for rule in DIFFERENCES if rule.hazard] == ["several pages, of which one is outside the window"]


@pytest.mark.parametrize(
    ("call", "status", "written"),
    [
        (Call(PUT, [LIOBN, AT + 1, PAGE]), -4, 0),
        (Call(STUFF, [LIOBN, AT, PAGE, 0]), -4, 0),
        (Call(STUFF, [LIOBN, AT, 0, 0]), 0, 0),
        (Call(PUT, [LIOBN, AT, 0x7000000003]), 0, 0),
        (Call(PUT, [LIOBN, AT, 0xC03]), 0, 1),
        (Call(PUT, [LIOBN, AT, Tce("b", 0, 0)]), 0, 0),
        (Call(INDIRECT, [LIOBN, AT, 0, 3], [PAGE, 0x7000000003, Tce("b", 1, 0)]), 0, 1),
        (Call(INDIRECT, [LIOBN, AT, 0, 3], [PAGE, 0, Tce("b", 1, 0)]), 0, 2),
        (Call(INDIRECT, [LIOBN, AT, 0, 2], [0xFFC, 0xFFC]), 0, 2),
        (Call(INDIRECT, [LIOBN, AT, 0, 2], [0, 0]), 0, 0),
    ],
)
def test_what_a_rule_gives(call, status, written):
    rule = own_rule(Hcall(call=call), PASSTHROUGH)
    assert (rule.status, rule.written(seen(call, PASSTHROUGH))) == (status, written)


def test_what_is_not_judged_says_why_and_all_else_is_let_through():
    for call, case in ROWS:
        rule = own_rule(Hcall(call=call), PASSTHROUGH, judged=False)
        unjudged = next((each for each in DIFFERENCES if each.case == case and each.why), None)
        assert rule == unjudged


def test_a_process_gets_a_signal():
    rule = own_rule(Hcall(call=Call(GET, [LIOBN, AT]), problem_state=True), PASSTHROUGH)
    assert "SIGILL" in rule.kvm
