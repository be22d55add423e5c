"""A short campaign on real guests: nothing is found that is not declared, and what is not declared is found."""

import pytest

from tcelab.fuzz import campaign
from tcelab.fuzz.campaign import Campaign
from tcelab.program import is_host, load
from tcelab.program.validate import validate
from tcelab.quirks import MISALIGNED, QUIRKS

pytestmark = pytest.mark.guest


@pytest.fixture
def made(_tcelab_guests, tmp_path):
    def make(seed, **options):
        opening = lambda name: _tcelab_guests.fresh(name, 0)  # noqa: E731
        return Campaign(seed, opening, tmp_path, usual="two-small", **options)

    return make


def test_hundreds_of_random_operations_differ_in_nothing_that_is_not_declared(made):
    job = made(1, steps=300)
    job.run(600)
    tally = job.tally
    assert (tally.found, tally.could_not) == ([], [])
    assert (tally.programs, tally.operations >= 570, tally.checkpoints >= 12) == (2, True, True)
    assert sum(tally.quirks.values())


def test_a_defect_that_is_not_declared_is_found_shrunk_and_saved(made, monkeypatch):
    # A seed whose program shows it early: each try is a guest, and looks at it after each operation.
    monkeypatch.setattr(campaign, "TRIES", 14)
    job = made(36, steps=120)
    job.known = frozenset(QUIRKS) - {MISALIGNED}
    job.run(120)
    (found,) = job.tally.found
    assert (found.finding.law, found.finding.quirk, found.finding.seen) == ("difference", MISALIGNED, "value 1")
    # Not counting looks: what is shrunk has one after each operation.
    did, was = ([op for op in each.ops if not is_host(op)] for each in (found.program, found.original))
    assert len(did) < len(was) / 2
    validate(load(found.file))
    assert job.known == frozenset(QUIRKS)
