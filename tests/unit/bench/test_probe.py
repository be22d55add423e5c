"""`tcelab bench probe`: its program and its figures."""

import pytest

from tcelab.bench import Figure, probe
from tcelab.program import Burst, Program
from tcelab.program.topology import TOPOLOGIES
from tcelab.program.validate import validate
from tcelab.run.record import Facts, Outcome, RunRecord, Step


def program(turns):
    return Program(name="bench probe", topology=TOPOLOGIES["probe"], ops=probe.plan(turns))


def test_the_program_is_valid_and_looks_after_each_burst():
    made = program(3)
    validate(made)
    bursts = [i for i, op in enumerate(made.ops) if isinstance(op, Burst)]
    assert [len(made.ops[i].transfers) for i in bursts] == [200, 5] * 3
    assert all(type(made.ops[i + way]).__name__ == "Checkpoint" for i in bursts for way in (-1, 1))


def test_a_rate_lasts_from_one_checkpoint_to_the_next():
    made = program(2)
    steps = [Step(i, op, Outcome(value=0)) for i, op in enumerate(made.ops)]
    record = RunRecord(made, Facts("qemu", b"", 4096, 1 << 28, {}, {}), steps)
    times = {}
    now = 0.0
    for step in steps:
        now += 0.25
        times[step.number] = now
    figures = {each.name: each.values for each in probe.rates(record, times)}
    assert figures == {"edu, judged": [10, 10], "probe, judged": [400, 400]}


def test_the_ratios_are_told_beside_those_to_reach():
    figures = [
        Figure(name, "transfers/s", [value])
        for name, value in zip(probe.NAMES.values(), (10, 250, 400, 2000), strict=True)
    ]
    lines = probe.text(figures, {"host": "here"})
    assert lines[0] == "host:   here"
    assert lines[-2:] == [
        "probe, judged / edu, judged: 25.0; to reach: 20",
        "shared memory / by messages: 5.0; to reach: 3",
    ]


@pytest.mark.parametrize("turns", [1, 7])
def test_each_turn_has_its_transfers(turns):
    assert sum(isinstance(op, Burst) for op in probe.plan(turns)) == 2 * turns
