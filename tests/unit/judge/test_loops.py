"""Loops of the kernel's DMA API on several CPUs: what they leave, what they read meanwhile, whether they ever met."""

import dataclasses

import loops_story as story
import pytest
from msgspec.structs import replace

from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import Checkpoint, DmaRepeat, Exit, Flip
from tcelab.program.validate import validate
from tcelab.run.loop import perform_program

TIMES = 3


class Machine(EmulatorSession):
    """The emulator as a guest whose loops meet; `change` makes of each outcome what is told; `turned` is flipped once
    an operation of that number is done.
    """

    def __init__(self, change=lambda _number, outcome: outcome, turned=None, meets=None):
        super().__init__(story.WHERE)
        self._change, self._turned, self._done = change, turned, 0
        self._meets = meets or {"met": 5, "beside": 7}
        self.facts = dataclasses.replace(self.facts, platform="qemu")  # so that another emulator follows it
        self.outcomes = {}

    def perform(self, ops):
        out = []
        for op in ops:
            (outcome,) = super().perform([op])
            if isinstance(op, DmaRepeat):
                outcome = replace(outcome, fields={**outcome.fields, **self._meets})
            self.outcomes[self._done] = outcome
            out.append(self._change(self._done, outcome))
            self._after()
        return out

    def intervene(self, op, frames):
        told = super().intervene(op, frames)
        if isinstance(op, Checkpoint) and frames is not None and not op.label.startswith("again"):
            self._after()
        return told

    def _after(self):
        number = self._done
        self._done += 1
        if self._turned is not None and self._turned[0] == number:
            _, liobn, ioba, bit = self._turned
            super().intervene(Flip(liobn=liobn, ioba=ioba, bit=bit), None)


def judged(session, program=None):
    made = program or story.story(TIMES)
    validate(made)
    judge = Judge(made, session.facts, references=second_opinion(made.topology, session.facts))
    return judge.verdict(perform_program(made, session, judge))


def told(number, **fields):
    return lambda at, outcome: replace(outcome, fields={**outcome.fields, **fields}) if at == number else outcome


def test_what_they_leave_is_as_before_and_what_they_read_is_counted():
    verdict = judged(Machine())
    assert ([each.message for each in verdict.findings], verdict.could_not) == ([], [])
    loops = verdict.evidence.loops
    entries = TIMES * 2 * story.PAGES
    assert (loops.loops, loops.met, loops.beside, loops.checked) == (4, 20, 28, 4 * entries)


@pytest.mark.parametrize(
    ("meets", "said"),
    [
        (
            {"met": 0, "beside": 7},
            ["never met in the kernel, with LIOBN 0x80000100 (steps 14 to 15)"],
        ),
        (
            {"met": 5, "beside": 0},
            ["never met in the kernel, each with its own table (steps 18 to 19)"],
        ),
        ({"met": None}, ["the loop of step 14 does not tell", "the loop of step 18 does not tell"]),
    ],
)
def test_loops_that_never_met_prove_nothing(meets, said):
    verdict = judged(Machine(meets=meets))
    assert verdict.result == "could-not-judge"
    assert len(verdict.could_not) == len(said)
    assert all(any(words in each for each in verdict.could_not) for words in said)


def test_the_emulator_does_one_after_the_other_and_says_so():
    session = EmulatorSession(story.WHERE)
    verdict = judged(session)
    assert verdict.result == "pass", verdict.could_not
    assert (verdict.evidence.loops.loops, verdict.evidence.loops.met) == (4, 0)


@pytest.mark.parametrize(
    ("change", "ioba", "words"),
    [
        (
            told(15, wrong={"count": 2, "ioba": 0x7000, "seen": 0x9001, "expected": 0x8003}),
            0x7000,
            "read while a loop had it mapped, its entry does not lead to its bytes (2 times, operation 15)",
        ),
        (
            told(18, shared={"count": 1, "ioba": 0x3000}),
            0x3000,
            "a list was given an entry that another list of a loop had at that time (1 time, operation 18)",
        ),
    ],
)
def test_what_a_loop_has_read_is_a_finding_that_names_the_entry(change, ioba, words):
    verdict = judged(Machine(change))
    (found,) = verdict.findings
    assert words in found.message
    assert (found.law, found.liobn, found.ioba) == ("handles", story.ONE, ioba)


def test_a_loop_that_was_to_be_checked_and_read_nothing_is_no_pass():
    verdict = judged(Machine(told(14, checked=0)))
    assert verdict.could_not == ["the loop of step 14 was to be checked, and read no entry"]


@pytest.mark.parametrize("number", [15, 19])
def test_an_entry_that_a_loop_leaves_behind_is_named(number):
    """One that nobody has: a loop that did not unmap it."""
    ioba = 0x321000
    verdict = judged(Machine(turned=(number, story.ONE, ioba, 1)))
    found = [each for each in verdict.findings if each.law == "table"]
    assert (found[0].liobn, found[0].ioba) == (story.ONE, ioba)
    assert verdict.result == "finding"


def test_what_a_loop_takes_from_a_mapping_beside_it_is_named():
    session = Machine()
    handle = []

    def taken(number, outcome):
        if number == 15:
            first = session.outcomes[story.KEPT].fields["segments"][0][0]
            handle.append(first & -4096)
            session.machine.pes[1].table.put(first >> 12, 0)
        return outcome

    session._change = taken
    verdict = judged(session)
    found = [each for each in verdict.findings if each.law == "handles"]
    assert "mapping 'kept' (operation 5): no entry at its handle" in found[0].message
    assert found[0].ioba == handle[0]


def test_two_lists_that_are_mapped_at_once_and_share_an_entry_are_named():
    session = Machine()

    def same(number, outcome):
        if number != story.MAPPED + 2:
            return outcome
        return replace(
            outcome, fields={**outcome.fields, "segments": session.outcomes[story.MAPPED + 1].fields["segments"]}
        )

    session._change = same
    found = [each for each in judged(session).findings if "has an entry of mapping 'list-left'" in each.message]
    first = session.outcomes[story.MAPPED + 1].fields["segments"][0][0]
    assert found[0].ioba == first & -4096


def ended(*more):
    """A process ends while what it has mapped is mapped."""
    ops = [*story.story(TIMES).ops[: story.MAPPED + 4], Exit(process="left"), *more, Checkpoint(stream=True)]
    return replace(story.story(TIMES), ops=ops)


def test_what_a_process_has_mapped_goes_with_it():
    session = Machine()
    verdict = judged(session, ended())
    assert ([each.message for each in verdict.findings], verdict.could_not) == ([], [])
    ioba = session.outcomes[story.MAPPED + 1].fields["segments"][0][0] & -4096
    stays = judged(Machine(), ended(Flip(liobn=story.ONE, ioba=ioba, bit=0)))
    found = [each for each in stays.findings if each.law == "handles"]
    assert "an entry survives mapping 'list-left', which operation 25 ended" in found[0].message
    assert found[0].ioba == ioba
