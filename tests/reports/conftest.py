"""What the tests of public reports share."""

import dataclasses

import pytest

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.run.loop import perform_program
from thorough import THOROUGH


def pytest_collection_modifyitems(config, items):
    """What is for the night stays out of all other runs, and is counted as deselected."""
    left = [item for item in items if not THOROUGH and item.get_closest_marker("night")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.fixture
def judged(_tcelab_guests):
    """The verdict on a program, done by a fork, with the emulator as the reference; `without`: quirks not declared."""

    def of(program, without=frozenset()):
        with _tcelab_guests.fresh(program.topology.name, 0) as session:
            facts = dataclasses.replace(session.facts, quirks=session.facts.quirks - without)
            judge = Judge(program, facts, references=second_opinion(program.topology, facts))
            return judge.verdict(perform_program(program, session, judge))

    return of
