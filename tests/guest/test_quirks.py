"""Known defects of 6.12, each by the program to which the fuzzer's find was shrunk.

With the quirk declared the program passes and the quirk is met; without it, it is a finding that names the quirk.
"""

import dataclasses
from pathlib import Path

import pytest

from tcelab.emulator.reference import EmulatorReferences
from tcelab.judge import Judge
from tcelab.program import load
from tcelab.program.parts import parts
from tcelab.quirks import QUIRKS
from tcelab.run.loop import Recorder

SHOWN = [name for name, quirk in QUIRKS.items() if not quirk.apart]
PROGRAMS = Path(__file__).parents[2] / "docs" / "examples" / "quirks"


def test_there_is_a_program_for_each_known_defect():
    assert {path.stem for path in PROGRAMS.glob("*.json")} == set(SHOWN)


@pytest.fixture
def judged(_tcelab_guests):
    def of(program, without):
        with _tcelab_guests.fresh(program.topology.name, 0) as session:
            facts = dataclasses.replace(session.facts, quirks=session.facts.quirks - without)
            judge = Judge(program, facts, references=EmulatorReferences(program.topology, facts))
            first = parts(program)[0].ops  # the rest is what a pass of the whole rests on
            recorder = Recorder(program, session, judge)
            recorder.perform(first)
            recorder.finish()
            return judge.verdict(recorder.run)

    return of


@pytest.mark.guest
@pytest.mark.parametrize("quirk", SHOWN)
def test_a_declared_defect_is_met_and_is_no_finding(judged, quirk):
    verdict = judged(load(PROGRAMS / f"{quirk}.json"), frozenset())
    assert [finding.message for finding in verdict.findings] == []
    assert verdict.evidence.quirks[quirk]


@pytest.mark.guest
@pytest.mark.parametrize("quirk", SHOWN)
def test_an_undeclared_defect_is_a_finding_that_names_it(judged, quirk):
    verdict = judged(load(PROGRAMS / f"{quirk}.json"), frozenset({quirk}))
    assert quirk in {finding.quirk for finding in verdict.findings}
