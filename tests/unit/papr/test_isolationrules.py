"""The conditions of a PE and the services that change them, against literals typed from LoPAR and vfio.rst."""

from __future__ import annotations

import copy

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tcelab.papr.isolationrules import CALLS, Condition, Isolation

OK, HARDWARE, PARAMETER = 0, -1, -3
N, S, M, R, U, X = (
    Condition.NORMAL,
    Condition.STOPPED,
    Condition.MMIO_THAWED,
    Condition.RESET,
    Condition.UNCONFIGURED,
    Condition.UNAVAILABLE,
)
LETTERS = {"N": N, "S": S, "M": M, "R": R, "U": U, "X": X}

# Where each service leads from each condition; "-": a hardware error; "p": there is no such option.
TABLE = """
                        N S M R U X
    ibm,set-eeh-option 0  p p p p p p
    ibm,set-eeh-option 1  N S M R U -
    ibm,set-eeh-option 2  N M M - - -
    ibm,set-eeh-option 3  N - N - - -
    ibm,set-eeh-option 4  p p p p p p
    ibm,set-slot-reset 0  N - - U U -
    ibm,set-slot-reset 1  R R R R R -
    ibm,set-slot-reset 2  p p p p p p
    ibm,set-slot-reset 3  R R R R R -
    ibm,set-slot-reset 4  p p p p p p
    ibm,configure-pe 0    N - - - N -
    ibm,configure-pe 1    p p p p p p
"""
CELLS = [
    pytest.param(call, int(option), LETTERS[before], cell, id=f"{call} {option} from {LETTERS[before].title}")
    for call, option, *cells in (line.split() for line in TABLE.strip().splitlines()[1:])
    for before, cell in zip(TABLE.split()[:6], cells, strict=True)
]


@pytest.mark.parametrize(("call", "option", "before", "cell"), CELLS)
def test_a_service_leads_from_a_condition_to_another_or_is_refused(call, option, before, cell):
    isolation = Isolation(before, freezes=7, untold=True)
    answer = isolation.call(call, option)
    assert answer.status == {"-": HARDWARE, "p": PARAMETER}.get(cell, OK)
    assert answer.outputs == ()
    assert isolation == Isolation(LETTERS.get(cell, before), freezes=7, untold=True)


@pytest.mark.parametrize(
    ("condition", "state", "mmio", "dma"),
    [
        (N, 0, True, True),
        (R, 1, False, False),
        (S, 2, False, False),
        (M, 4, True, False),
        (U, 0, False, False),
        (X, 5, False, False),
    ],
    ids=lambda each: getattr(each, "title", None),
)
def test_firmware_tells_a_state_and_each_condition_lets_through_what_it_lets(condition, state, mmio, dma):
    isolation = Isolation(condition)
    for option in (0, 1, 99):
        assert isolation.call("ibm,read-slot-reset-state2", option) == (OK, (state, 1, 0, 0))
    assert (isolation.mmio, isolation.dma) == (mmio, dma)
    assert isolation.condition is condition


@pytest.mark.parametrize("condition", Condition)
def test_a_violation_stops_a_pe_whose_dma_passes_and_no_other(condition):
    isolation = Isolation(condition, freezes=3)
    if condition is N:
        assert isolation.violate()
        assert isolation == Isolation(S, freezes=4, untold=True)
    else:
        assert not isolation.violate()
        assert isolation == Isolation(condition, freezes=3)


def test_thawing_brings_a_pe_back_registers_first():
    isolation = Isolation()
    isolation.violate()
    assert isolation.call("ibm,set-eeh-option", 3).status == HARDWARE
    assert isolation.call("ibm,set-eeh-option", 2).status == OK
    assert (isolation.mmio, isolation.dma) == (True, False)
    assert isolation.call("ibm,set-eeh-option", 3).status == OK
    assert (isolation.mmio, isolation.dma) == (True, True)


@pytest.mark.parametrize("option", [1, 3])
def test_a_reset_brings_a_pe_back_once_it_is_configured(option):
    isolation = Isolation()
    isolation.violate()
    assert isolation.call("ibm,set-slot-reset", option).status == OK
    assert isolation.call("ibm,configure-pe").status == HARDWARE
    assert isolation.call("ibm,set-slot-reset", 0).status == OK
    assert (isolation.mmio, isolation.dma) == (False, False)
    assert isolation.call("ibm,configure-pe").status == OK
    assert isolation.condition is N


def test_each_violation_after_a_recovery_counts():
    isolation = Isolation()
    for times in (1, 2, 3):
        isolation.violate()
        isolation.violate()
        assert isolation.freezes == times
        isolation.call("ibm,set-eeh-option", 2)
        isolation.call("ibm,set-eeh-option", 3)


def test_an_isolation_is_told_once_in_detail():
    isolation = Isolation()
    assert isolation.call("ibm,slot-error-detail", 1).status == 1
    isolation.violate()
    assert isolation.call("ibm,slot-error-detail", 1).status == OK
    assert isolation.call("ibm,slot-error-detail", 1).status == 1
    assert isolation.condition is S


@pytest.mark.parametrize("option", [0, 3])
def test_detail_of_another_kind_is_no_parameter_and_tells_nothing(option):
    isolation = Isolation()
    isolation.violate()
    assert isolation.call("ibm,slot-error-detail", option).status == PARAMETER
    assert isolation.call("ibm,slot-error-detail", 1).status == OK


@pytest.mark.parametrize("condition", Condition)
def test_a_permanent_error_makes_a_pe_unavailable_unless_it_is_normal(condition):
    isolation = Isolation(condition, untold=True)
    assert isolation.call("ibm,slot-error-detail", 2).status == OK
    assert isolation.condition is (N if condition is N else X)
    assert not isolation.untold


def test_there_is_no_other_service():
    with pytest.raises(ValueError, match="no service 'ibm,errinjct'"):
        Isolation().call("ibm,errinjct", 0)


class Recoveries(RuleBasedStateMachine):
    """Anything at all, in any order."""

    def __init__(self):
        super().__init__()
        self.isolation = Isolation()
        self.violations = 0

    @rule(call=st.sampled_from(CALLS), option=st.integers(0, 4))
    def ask(self, call, option):
        before = copy.copy(self.isolation)
        status = self.isolation.call(call, option).status
        assert status in {0, 1, -1, -3}
        if status < 0:
            assert self.isolation == before
        assert self.isolation.untold <= before.untold, "no service makes an error"

    @rule()
    def violate(self):
        before = copy.copy(self.isolation)
        isolates = self.isolation.violate()
        self.violations += isolates
        assert isolates == before.dma
        assert isolates or self.isolation == before
        assert not self.isolation.dma

    @precondition(lambda self: self.isolation.condition is X)
    @rule(call=st.sampled_from(CALLS), option=st.integers(0, 4))
    def stay_unavailable(self, call, option):
        self.isolation.call(call, option)
        assert self.isolation.condition is X

    @precondition(lambda self: self.isolation.condition is not X)
    @rule(option=st.sampled_from([1, 3]))
    def recover(self, option):
        statuses = [
            self.isolation.call("ibm,set-slot-reset", option).status,
            self.isolation.call("ibm,set-slot-reset", 0).status,
            self.isolation.call("ibm,configure-pe").status,
        ]
        assert statuses == [0, 0, 0]
        assert self.isolation.condition is N

    @invariant()
    def dma_passes_only_where_registers_can_be_reached(self):
        assert self.isolation.mmio or not self.isolation.dma

    @invariant()
    def only_violations_are_counted(self):
        assert self.isolation.freezes == self.violations


TestRecoveries = Recoveries.TestCase
