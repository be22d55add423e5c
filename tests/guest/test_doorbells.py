"""Doorbells of a probe of a real QEMU, rung by the guest."""

import pytest
from msgspec.structs import replace
from rung import AT, PE, PROBE, bell, outcomes, program

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import Master
from tcelab.run.loop import perform_program

pytestmark = pytest.mark.guest

BELLS = (
    bell(size=1),
    bell(size=1 << 20),
    bell(AT + 4095, 2, to_memory=True, pattern=0x1122334455667788),
    bell(AT + 3, 65536, to_memory=True, count=4, stride=65537, pattern=7),
    bell(size=1 << 20, to_memory=True, pattern=5, interrupt=False),
    bell(AT - 1, 65536),
    bell(PE.end - 1, 2, to_memory=True),
    bell((1 << 32) - 1, 2),
    bell(1 << 59, 1, to_memory=True),
    bell((1 << 64) - 1, 1, interrupt=False),
    Master(file="d", on=False),
    bell(size=64),
)


@pytest.fixture
def session(_tcelab_guests):
    with _tcelab_guests.fresh(PROBE.name, 0) as made:
        yield made


def test_the_guest_is_told_what_its_probe_was_refused_and_gets_its_msi(session):
    made = replace(program(*BELLS), name="doorbells on a guest")
    judge = Judge(made, session.facts, references=second_opinion(PROBE, session.facts))
    record = perform_program(made, session, judge)
    verdict = judge.verdict(record)
    assert (verdict.result, verdict.findings) == ("pass", [])
    told = [(each.fields["errno"], each.fields.get("interrupts")) for each in outcomes(record)]
    assert told == [(0, 1)] * 4 + [(0, None)] + [(19, 1)] * 4 + [(19, None), (19, 0)]
