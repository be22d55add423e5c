"""Several devices in a PE, four PEs, a window that does not start at 0, a device with a narrow mask: a real kernel maps
there as the emulator has it, to the entry, and the device lands where the laws have it.
"""

import pytest

import folded
from tcelab import scenarios
from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program.topology import topology
from tcelab.quirks import NOT_AT_ZERO
from tcelab.run.loop import perform_program

pytestmark = pytest.mark.guest


def judged(program, session):
    judge = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))
    return judge.verdict(perform_program(program, session, judge))


@pytest.fixture
def fresh(_tcelab_guests):
    return lambda name: _tcelab_guests.fresh(name, 0)


NIGHT = pytest.mark.night
"""For those of which a base is booted that no other test has."""


@pytest.mark.parametrize(
    "name", ["pair", pytest.param("four-pe", marks=NIGHT), "high-window", pytest.param("narrow-mask", marks=NIGHT)]
)
def test_a_flow_passes(fresh, name):
    with fresh(name) as session:
        verdict = judged(scenarios.build("flow", topology(name), 12), session)
    assert (verdict.findings, verdict.result) == ([], "pass"), verdict.could_not
    assert verdict.evidence.quirks[NOT_AT_ZERO] == (name == "high-window")


def test_a_device_below_its_window_is_refused(fresh):
    with fresh("high-window") as session:
        verdict = judged(scenarios.build("dma", topology("high-window"), 12), session)
    assert (verdict.findings, verdict.result) == ([], "pass"), verdict.could_not
    assert verdict.evidence.dma.reasons["outside the window"] > 10


def test_a_transfer_lands_where_its_address_is_folded_to(fresh):
    program = folded.program()
    with fresh(program.topology.name) as session:
        verdict = judged(program, session)
    assert (verdict.findings, verdict.result) == ([], "pass"), verdict.could_not
    assert (verdict.evidence.dma.allowed, verdict.evidence.dma.refused) == (8, 2)
