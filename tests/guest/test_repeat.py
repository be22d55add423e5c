"""A `Repeat` on the real driver leaves what its calls leave, also when it fails half way."""

import msgspec
import pytest

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import Checkpoint, Page, Program, Repeat
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as build

pytestmark = pytest.mark.guest

TWO = topology("two-pe")
FIRST, PAGE = 0x80000100, 4096
BEYOND = 1 << 40


def test_a_repeat_on_the_real_driver_is_judged_like_its_calls(session):
    """Maps over live entries, unmaps, both loops, and one that the driver refuses in the middle of a round."""
    pe = build.pes(TWO, "repeat")[0]
    maps = build.map_dma(pe, Page("b"), 0, 32, 3)
    mixed = [*maps, *build.unmap_dma(pe, 8 * PAGE, 4), *build.map_dma(pe, Page("b", 16), 16 * PAGE, 2, 1)]
    (fails,) = build.repeat([*maps, *build.map_dma(pe, Page("b"), BEYOND, 1, 3)], 5)
    checked = [*build.vmlck(), *build.pins(), Checkpoint(stream=True)]
    ops = [
        *build.vmlck(),
        *build.pins(),
        *build.buffer("b", 32, 3),
        *build.bind(pe),
        *build.open_container(pe),
        *build.enable(pe),
        *build.tag(Page("b"), 32, FIRST, 0, 1),
        *build.repeat(mixed, 100),
        *checked,
        *build.repeat(mixed, 100, "python"),
        *checked,
        msgspec.structs.replace(fails, expect="ENXIO"),
        *checked,
        *build.repeat([*maps, *build.unmap_dma(pe, 0, 32)], 500),
        *checked,
        *build.disable(pe),
        *build.close(pe.group, pe.container),
        *checked,
    ]
    program = Program(name="repeat", topology=TWO, ops=ops)
    judge = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))
    record = perform_program(program, session, judge)
    verdict = judge.verdict(record)
    assert verdict.findings == []
    assert verdict.result == "pass", verdict.could_not
    outcomes = [step.outcome for step in record.steps if isinstance(step.op, Repeat)]
    assert [outcome.fields["calls"] for outcome in outcomes] == [300, 300, 1, 1000]
    assert [len(outcome.frames) for outcome in outcomes] == [34, 34, 32, 32]
    assert all(outcome.fields["seconds"] > 0 for outcome in outcomes)
