"""Whatever is done to devices and PEs, three who know nothing of each other agree: the law, the emulator, and the ideal
session of the tests.
"""

from __future__ import annotations

import dataclasses

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ideal import Ideal
from isolation_story import END, TWO_DEVICES, program
from msgspec.structs import replace

from tcelab.emulator import EmulatorSession
from tcelab.judge import Judge
from tcelab.papr.isolationrules import CALLS
from tcelab.program import Dma, Look, Master, Rtas, Together
from tcelab.program.validate import validate
from tcelab.run.loop import perform_program
from thorough import often

DEVICES = st.sampled_from(["pe1", "pe1b", "pe2"])
PLACES = st.sampled_from([0x20000, 0x20800, 0x20FF0, 0x30000, 0x40000, 0, END - 32, END, END + 4096, 1 << 40])


def transfers(device):
    return st.builds(
        Dma,
        file=device,
        iova=PLACES,
        size=st.sampled_from([0, 1, 64, 2100]),
        to_memory=st.booleans(),
        offset=st.sampled_from([0, 100]),
    )


@st.composite
def at_once(draw):
    names = draw(st.lists(DEVICES, min_size=1, max_size=3, unique=True))
    return Together(ops=[draw(transfers(st.just(name))) for name in names])


OPS = st.lists(
    st.one_of(
        transfers(DEVICES),
        at_once(),
        st.builds(Master, file=DEVICES, on=st.booleans()),
        st.builds(Look, file=DEVICES, what=st.sampled_from(["identity", "command"])),
        st.builds(Rtas, call=st.sampled_from(CALLS), device=DEVICES, option=st.integers(0, 3)),
    ),
    max_size=14,
)


def played(session, asked):
    judge = Judge(asked, session.facts)
    record = perform_program(asked, session, judge)
    verdict = judge.verdict(record)
    assert [finding.message for finding in verdict.findings] == []
    return [step.outcome for step in record.steps]


def alike(outcome):
    """Without times and without what frames and descriptors there were."""
    if outcome is None:
        return None
    events = [replace(event, at=0.0, took=0.0, entry=None, neighbours=[]) for event in outcome.events]
    return outcome.value, outcome.errno, outcome.fields, events


@settings(max_examples=often(32, 80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OPS, st.sampled_from(["freeze", "observe", "off"]))
def test_whatever_is_done_all_agree(ops, guard):
    asked = program(*ops, isolation=guard == "freeze")
    validate(asked)
    ideal = Ideal(asked)
    emulated = EmulatorSession(TWO_DEVICES, isolates=guard == "freeze", guard=guard, nonce=bytes(16))
    ideal.facts = dataclasses.replace(ideal.facts, guard=guard)
    first = len(asked.ops) - len(ops) - 1
    one, other = (played(session, asked)[first:] for session in (ideal, emulated))
    assert list(map(alike, one)) == list(map(alike, other))
