"""Two CPUs of a real guest use the kernel's DMA API at once: they meet inside it, and an entry left behind is named."""

import loops_story as story
import pytest

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import Checkpoint, Flip
from tcelab.run.loop import perform_program

pytestmark = pytest.mark.guest

LEFT_BEHIND = 0xABC000
"""An entry that no mapping has."""


@pytest.fixture
def judged(_tcelab_guests):
    def done(*more):
        program = story.story(400, *more)
        with _tcelab_guests.fresh(story.WHERE.name, 0) as session:
            judge = Judge(program, session.facts, references=second_opinion(story.WHERE, session.facts))
            record = perform_program(program, session, judge)
            assert record.ending is None, record.ending.error
            return judge.verdict(record), record

    return done


def test_loops_on_one_table_and_on_two_meet_inside_the_kernel_and_leave_nothing(judged):
    verdict, record = judged()
    assert ([each.message for each in verdict.findings], verdict.could_not) == ([], [])
    loops = verdict.evidence.loops
    assert loops.loops == 4
    assert loops.met > 0
    assert loops.beside > 0
    assert loops.checked == 4 * 400 * 2 * story.PAGES
    told = [record.steps[number].outcome.fields for number in (story.TOGETHER + 1, story.TOGETHER + 2)]
    assert {each["cpu"] for each in told} == {0, 1}
    assert {each["liobn"] for each in told} == {story.ONE}


def test_an_entry_that_is_left_behind_is_named(judged):
    verdict, _ = judged(Flip(liobn=story.ONE, ioba=LEFT_BEHIND, bit=1), Checkpoint(label="left behind", stream=True))
    found = next(each for each in verdict.findings if each.law == "table")
    assert (found.liobn, found.ioba) == (story.ONE, LEFT_BEHIND)
    assert found.view == "live, stream"
    assert verdict.exit_code == 1
