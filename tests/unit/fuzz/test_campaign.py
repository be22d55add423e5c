"""What a campaign keeps of a finding: a program that its numbers belong to, whether or not it shows again."""

import pytest
from rich.console import Console

from tcelab.cli import fuzz as verb
from tcelab.fuzz import campaign
from tcelab.fuzz.campaign import Campaign, Done
from tcelab.judge import Finding
from tcelab.program import Checkpoint, Program, Read, load
from tcelab.program.topology import topology

PINS, CHARGE = Read(what="pins"), Read(what="vmlck")
PROGRAM = Program(name="p", topology=topology("two-small"), ops=[PINS, CHARGE, CHARGE, PINS, CHARGE, Checkpoint()])
FOUND = Finding(law="pins", step=3, message="as it was found")


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """Keep FOUND of PROGRAM: what was kept, the saved program, and how often a guest was asked."""

    def keep_(shows, step=0, until=None):
        asked = []

        def again(_finding, candidate, _judged):
            asked.append(candidate)
            return Finding(law="pins", step=step, message="again") if shows(candidate) else None

        monkeypatch.setattr(campaign, "shows_again", again)
        job = Campaign(1, lambda _: None, tmp_path)
        if until is not None:
            job._until = until
        job._keep(Done(0, PROGRAM, frozenset(), None, {}), FOUND)
        (found,) = job.tally.found
        assert verb._tell(Console(width=200), job.tally, 1, tmp_path, ["tcelab replay"]) == 1
        keep_.sizes = [len(each.ops) for each in asked]
        return found, load(found.file), len(asked)

    return keep_


def test_what_does_not_show_again_is_kept_as_it_was_found(keep, capsys):
    """Its numbers are those of the program in which it was seen: they would lead nowhere in another."""
    found, saved, asked = keep(lambda _: False)
    assert (found.finding, found.missed, asked) == (FOUND, True, 2)
    assert found.program.ops[:-1] == saved.ops[:4] == PROGRAM.ops[:4]
    out = capsys.readouterr().out
    assert "finding 1: 6 operations cut to 5, not shrunk: fresh guests did not show it again" in out


def test_what_checkpoints_everywhere_hide_is_shrunk_without_them(keep, capsys):
    found, saved, _ = keep(lambda program: [*map(type, program.ops)].count(Checkpoint) == 1)
    assert (found.finding.message, found.missed) == ("again", False)
    assert [*map(type, found.program.ops)] == [Checkpoint] == [type(saved.ops[0])]
    assert "finding 1: 6 operations shrunk to 1\n" in capsys.readouterr().out


def test_what_came_after_the_step_at_which_it_shows_needs_no_tries(keep):
    """The program with checkpoints everywhere has eight operations; once it shows at its third, three are left."""
    keep(lambda program: program.ops[:3] == [PINS, Checkpoint(label="after operation 0"), CHARGE], step=2)
    assert keep.sizes[0] == 8
    assert max(keep.sizes[1:]) <= 4


def test_shrinking_ends_ten_minutes_after_the_time_of_the_campaign_and_says_nothing_else(keep, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(campaign.time, "monotonic", lambda: now[0])

    def shows(_program):
        now[0] += 400.0
        return True

    found, _, asked = keep(shows, until=100.0)
    assert asked == 2
    assert (found.finding.message, found.missed) == ("again", False)
    now[0] = 701.0
    found, saved, asked = keep(shows, until=100.0)
    assert (asked, found.missed, saved.ops[:4]) == (0, False, PROGRAM.ops[:4])
