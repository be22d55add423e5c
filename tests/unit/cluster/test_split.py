"""A fuzz campaign whose programs are tasks: findings are gathered by signature, and a pass needs every program's."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from tcelab.cluster.split import NOTED, SplitCampaign
from tcelab.fuzz import piece
from tcelab.fuzz.fuzzresult import make
from tcelab.fuzz.piece import Piece, PieceFound
from tcelab.judge import Finding
from tcelab.nightly.process import Ended
from tcelab.program import Checkpoint, Program, Read, load
from tcelab.program.topology import topology

PROGRAM = Program(name="p", topology=topology("two-small"), ops=[Read(what="pins"), Checkpoint()])
SHORT = msgspec.structs.replace(PROGRAM, ops=[Checkpoint()])
DONE = Piece(programs=1, operations=9, checkpoints=1, entries=5, quirks={"q": 1}, left_out={}, could_not=[], found=[])


def found(number, message, program="finding-1.json"):
    finding = Finding(law="table", step=0, message=message)
    return PieceFound(
        number=number, finding=finding, program=program, original=program[:-4] + "original.json", known=[]
    )


class Told:
    """A task that has ended as the test says."""

    def __init__(self, ended):
        self.descriptor, self.deadline, self.ended = os.eventfd(1), float("inf"), ended

    def end(self, *, late=False):
        """It has."""

    overdue = kill = end

    def reap(self):
        os.close(self.descriptor)
        return self.ended


@pytest.fixture
def campaign(tmp_path):
    """Run programs 0, 1, ... that end as told, by number; `shrink`: what every shrinking ends with."""

    def run(tells, shrink=None, *, fresh=True):
        run.asked = [] if fresh else run.asked

        def starts(words, output, *, out, cookie, limit, folder, inputs=None):
            run.asked.append(out.name)
            at = int(words[words.index("--program") + 1]) if "--program" in words else None
            code, done, *more = tells[at] if at is not None else shrink
            if inputs is not None:
                assert (inputs / "finding-1.original.json").exists()
                assert piece.read_found(Path(words[words.index("--shrink") + 1])).finding.law == "table"
            out.mkdir()
            if done is not None:
                (out / piece.NAME).write_bytes(piece.to_json(done))
                for each in done.found:
                    (out / each.program).write_bytes(SHORT.to_json())
                    (out / each.original).write_bytes(PROGRAM.to_json())
            output.write_text("said last\n")
            return Told(Ended(code, 0.0, 1.0, 0.5, late=False, **(more[0] if more else {})))

        job = SplitCampaign(["fuzz"], list(range(len(tells))), tmp_path, 2, starts=starts)
        job.perform()
        run.job = job
        return make(job.tally, 1, [""] * len(job.tally.found), "1")

    return run


def with_finding(number, message):
    return 1, msgspec.structs.replace(DONE, found=[found(number, message)])


def test_each_program_runs_once_and_all_of_it_is_added_up(campaign):
    result = campaign([(0, DONE)] * 3)
    assert campaign.asked == ["program-0", "program-1", "program-2"]
    assert (result.verdict, result.counts["operations"], result.quirks) == ("pass", 27, {"q": 3})
    assert campaign.job.cpu == 1.5


def test_what_several_programs_find_is_one_finding_and_shrunk_once(campaign, tmp_path):
    tells = [with_finding(number, f"IOBA 0x{number}000: an entry is missing") for number in range(3)]
    result = campaign([*tells, with_finding(3, "the frame is wrong")], with_finding(0, "IOBA 0x1000: smaller"))
    assert len([each for each in campaign.asked if each.startswith("shrink-")]) == 2
    assert (result.verdict, len(result.findings)) == ("finding", 2)
    assert load(tmp_path / "finding-1.json").ops == SHORT.ops
    assert load(tmp_path / "finding-1.original.json").ops == PROGRAM.ops


def test_a_finding_stands_though_nobody_can_shrink_it(campaign):
    result = campaign([with_finding(0, "an entry is missing")], (125, None))
    assert (result.verdict, [each.message for each in result.findings]) == ("finding", ["an entry is missing"])


@pytest.mark.parametrize(
    ("tell", "why"),
    [
        ((125, None), "program 1: exit code 125: said last"),
        ((-9, None), "program 1: exit code -9: said last"),
        ((0, None), "program 1: exit code 0: said last"),
        ((125, None, {"why": "its worker was lost, 3 times"}), "program 1: its worker was lost, 3 times"),
        ((125, DONE), "program 1: exit code 125, although its result says 0"),
        ((0, msgspec.structs.replace(DONE, programs=0)), "program 1: no program was run"),
        ((125, msgspec.structs.replace(DONE, could_not=["a guest was lost"])), "program 1: a guest was lost"),
    ],
)
def test_silence_is_no_pass(campaign, tell, why):
    result = campaign([(0, DONE), tell])
    assert (result.verdict, result.could_not) == ("could-not-judge", [why])


def test_two_verdicts_of_one_task_are_no_pass_whatever_the_last_one_was(campaign):
    result = campaign([(0, DONE, {"flaky": True})])
    assert (result.verdict, result.exit_code) == ("finding", 1)
    assert "two verdicts" in result.could_not[0]


def test_a_campaign_that_comes_back_asks_for_what_has_not_counted_alone(campaign, tmp_path):
    first = campaign([(0, DONE)] * 3)
    (tmp_path / "tasks" / "program-1" / NOTED).unlink()
    assert campaign([(0, DONE)] * 3) == first
    assert campaign.asked == ["program-1"]
