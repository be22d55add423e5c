"""A kernel whose DMA API goes wrong when several CPUs use it: what loops read while they map names the entry, though
they leave nothing behind.
"""

import loops_story as story
import pytest
from dmafaults import MODULE, dma_faults, python, unpacked

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.qemu.typist import Typist
from tcelab.run.loop import perform_program

pytestmark = pytest.mark.guest

LONGEST = 300
"""Seconds that anything typed may take."""
FAULTS = {
    "none": "",
    "given-twice": "a list was given an entry that another list of a loop had at that time",
    "mixed-up": "read while a loop had it mapped, its entry does not lead to its bytes",
}


@pytest.fixture(scope="module")
def module():
    return python(unpacked(dma_faults()))


@pytest.fixture
def fresh(_tcelab_guests):
    return lambda: _tcelab_guests.fresh(story.WHERE.name, 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_shows_on_several_cpus_alone_is_named(fresh, module, fault):
    with fresh() as session:
        ended = Typist(session, LONGEST).run(f"{module} && insmod {MODULE} slot=1 fault={fault}", LONGEST)
        assert ended is not None
        assert ended.status == 0, ended.output
        judge = Judge(story.story(), session.facts, references=second_opinion(story.WHERE, session.facts))
        verdict = judge.verdict(perform_program(story.story(), session, judge))
    assert verdict.evidence.loops.met > 0
    said = [each for each in verdict.findings if FAULTS[fault] and FAULTS[fault] in each.message]
    assert all(each.liobn == story.ONE and each.ioba is not None for each in said)
    assert bool(said) == bool(FAULTS[fault]), [each.message for each in verdict.findings]
    assert verdict.result == ("finding" if FAULTS[fault] else "pass"), verdict.could_not
