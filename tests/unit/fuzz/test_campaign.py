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

    def keep_(shows):
        asked = []

        def again(_finding, candidate, _judged):
            asked.append(candidate)
            return Finding(law="pins", step=0, message="again") if shows(candidate) else None

        monkeypatch.setattr(campaign, "shows_again", again)
        job = Campaign(1, lambda _: None, tmp_path)
        job._keep(Done(0, PROGRAM, frozenset(), None, {}), FOUND)
        (found,) = job.tally.found
        assert verb._tell(Console(width=200), job.tally, 1, tmp_path, ["tcelab replay"]) == 1
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
