"""What the tests of public reports share."""

import dataclasses

import pytest

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.run.loop import perform_program


@pytest.fixture
def judged(_tcelab_guests):
    """The verdict on a program, done by a fork, with the emulator as the reference; `without`: quirks not declared."""

    def of(program, without=frozenset()):
        with _tcelab_guests.fresh(program.topology.name, 0) as session:
            facts = dataclasses.replace(session.facts, quirks=session.facts.quirks - without)
            judge = Judge(program, facts, references=second_opinion(program.topology, facts))
            return judge.verdict(perform_program(program, session, judge))

    return of
