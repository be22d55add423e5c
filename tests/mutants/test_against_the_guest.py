"""Mutants of the rules against one record of a real guest: the emulator with a mutant must give something else."""

from functools import partial

import pytest

import rowkit
from mutants.judged import MUTANTS, by_guest, difference, killer_of, settled
from mutants.mutant import Mutant, using

pytestmark = pytest.mark.guest

MUST_SHOW = [mutant for mutant in MUTANTS if mutant.guest is True]


@pytest.fixture(scope="session")
def recordings(recorded):
    return [recorded(name) for name in rowkit.recorded_programs()]


@pytest.mark.parametrize("name", rowkit.recorded_programs())
def test_the_emulator_as_it_is_gives_what_the_guest_gave(recorded, name):
    recording = recorded(name)
    assert recording.run.ending is None
    assert [finding.message for finding in recording.verdict.findings] == []
    assert difference(recording, recording.excerpts) == ""


def test_the_emulator_as_it_is_gives_it_even_if_only_some_of_it_is_done(recordings):
    for words in {mutant.words for mutant in MUST_SHOW}:
        assert by_guest(Mutant("nothing", "by hand", "core", partial(using, None), words), recordings) == "", words


@pytest.mark.parametrize("mutant", MUST_SHOW, ids=lambda mutant: mutant.name)
def test_a_difference_from_the_guest_kills_the_mutant(recordings, mutant, record_property):
    settled(mutant, killer_of(mutant, recordings), record_property)
