"""A million requests to the module for raw hypercalls, most of them malformed: the guest stays healthy."""

import pytest

from tcelab.judge import Judge
from tcelab.program import Checkpoint, Native, Program
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program

pytestmark = pytest.mark.guest

CHUNKS = 20
EACH = 50_000


def test_a_million_requests_are_answered_by_the_rules_and_leave_nothing(pseries):
    session = pseries.session
    ops = [Native(program="fuzz_hcall", args=[EACH, seed]) for seed in range(1, CHUNKS + 1)]
    program = Program(name="a million", topology=topology("two-pe"), ops=[*ops, Checkpoint(stream=True)])
    judge = Judge(program, session.facts)
    record = perform_program(program, session, judge)
    assert record.ending is None
    assert judge.verdict(record).findings == []
    told = [step.outcome.fields for step in record.steps[:-1]]
    assert [each["wrong"] for each in told] == [0] * CHUNKS
    assert sum(each["writes"] for each in told) >= CHUNKS * EACH
    assert all(not len(table.index) for table in record.steps[-1].snapshot.tables)
