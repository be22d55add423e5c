"""docs/operations.md tells all operations as they are, and its examples can be run."""

import json
from pathlib import Path

import pytest

from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import from_json, load
from tcelab.program import operationspage as made
from tcelab.program.validate import validate
from tcelab.run.loop import perform_program

DOCS = Path(__file__).parents[3] / "docs"
NOT_EMULATED = {"native"}
LIES = {"flip"}


def performed(program):
    """What the emulator makes of a program: how it ended, and the verdict."""
    session = EmulatorSession(program.topology)
    judge = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))
    record = perform_program(program, session, judge)
    return record, judge.verdict(record)


def test_the_page_is_what_the_docstrings_say():
    again = "python -m tcelab.program.operationspage > docs/operations.md"
    assert (DOCS / "operations.md").read_text() == made.page(), f"make it anew: {again}"


def test_every_operation_has_an_example_of_itself():
    assert list(made.EXAMPLES) == list(made.operations())
    assert [name for name, ops in made.EXAMPLES.items() if all(op["op"] != name for op in ops)] == []


def test_every_field_is_told():
    page = made.page()
    for name, kind in made.operations().items():
        section = page.partition(f"### `{name}`\n")[2].partition("\n##")[0]
        fields = [field for field in kind.__struct_fields__ if field not in {"expect", "by"}]
        assert [field for field in fields if f"| `{field}` |" not in section] == [], name


@pytest.mark.parametrize("name", made.EXAMPLES)
def test_the_example_of_an_operation_is_a_program_that_can_be_run(name):
    program = from_json(json.dumps(made.program(name)).encode(), f"{name}.json")
    validate(program)
    if name in NOT_EMULATED or name == "fresh":  # a real guest's own program; a second guest
        return
    record, verdict = performed(program)
    assert record.ending is None
    assert len(record.steps) == len(program.ops)
    assert [str(each) for each in verdict.findings if name not in LIES] == []


def test_the_example_with_dma_passes_and_moves_data():
    _, verdict = performed(load(DOCS / "examples" / "dma.json"))
    assert (verdict.findings, verdict.could_not) == ([], [])
    dma = verdict.evidence.dma
    assert (dma.transfers, dma.allowed, dma.refused) == (5, 2, 3)
    assert verdict.evidence.tags > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"flags": 2, "vaddr": {"buffer": "target"}', '"flags": 9, "vaddr": {"buffer": "target"}'),
        ('"expect": "passed"},\n  {"op": "checkpoint", "label": "copied"}', '"expect": 7},\n  {"op": "checkpoint"}'),
        (
            '"expect": "passed"},\n  {"op": "checkpoint", "label": "copied"}',
            '"expect": "refused"},\n  {"op": "checkpoint"}',
        ),
        ('"iova": "0x3ffff100"', '"iova": "0x3fffe100"'),
        ('"iova": "0x20000"', '"iova": "0x1f000"'),
    ],
)
def test_the_example_with_dma_fails_when_it_is_spoilt(old, new):
    text = (DOCS / "examples" / "dma.json").read_text()
    assert text.count(old) == 1
    _, verdict = performed(from_json(text.replace(old, new).encode(), "spoilt"))
    assert verdict.exit_code == 1
