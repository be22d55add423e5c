"""The judge's protocol: `feed` each step once; `confirm` a suspicious checkpoint, at once and once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ideal import Ideal
from story import BOTH, FIRST, after, nth, story, with_entry

from tcelab.judge import Judge, judge
from tcelab.program import Checkpoint
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome

MAPPED, CONTROL = nth("mapped"), nth("control")
WRONG = after(nth("Read", 2), lambda session: session.pes["pe1"].table.update({0x99: 0x9000 | BOTH}))
"""An entry that nothing explains, from before the first checkpoint on."""


def fed(until=MAPPED, **lies):
    """A judge that was fed the story up to a step, that step, and whether it was suspicious."""
    program = story()
    record = perform_program(program, Ideal(program, **lies))
    it = Judge(program, record.facts)
    suspicious = [it.feed(step) for step in record.steps[: until + 1]]
    return it, record.steps[until], suspicious[-1]


def by_every_view(step, change=lambda table: table):
    """A second snapshot, in which the stream shows what live memory does, changed in some way."""
    live = step.snapshot.tables
    return replace(step.snapshot, tables=(*live, *(change(replace(table, view="stream")) for table in live)))


def test_a_second_snapshot_adds_the_view_that_agrees_and_counts_nothing_twice():
    it, step, suspicious = fed(**WRONG)
    assert suspicious
    before = it.ledger.close()
    it.confirm(step, by_every_view(step))
    (finding,) = it.ledger.findings
    assert (finding.law, finding.view) == ("table", "live, stream")
    now = it.ledger.close()
    assert (now.checkpoints, now.operations, now.dma) == (before.checkpoints, before.operations, before.dma)
    assert (now.batches[0].maps, now.batches[0].checkpoints) == (before.batches[0].maps, 1)
    assert (before.steps, now.steps) == ({"live": 1}, {"live": 2, "stream": 1})


def test_a_second_snapshot_tells_what_one_view_alone_shows():
    it, step, _ = fed(**WRONG)
    right = with_entry(0x99, 0)
    it.confirm(step, by_every_view(step, lambda table: right(table) if table.liobn == FIRST else table))
    assert [(each.law, each.view) for each in it.ledger.findings] == [("table", "live"), ("views", "live, stream")]


def test_a_second_snapshot_is_not_blamed_for_what_came_before_the_first():
    """The refusals of the time before were in the first one, and so was what had to be refused."""
    it, step, suspicious = fed(CONTROL, **WRONG)
    assert (suspicious, step.snapshot.refusals != ()) == (False, True)
    it, step, _ = fed(CONTROL, **after(nth("Dma", 0), lambda session: session.pes["pe1"].table.update({0x99: 3})))
    it.confirm(step, replace(by_every_view(step), refusals=()))
    assert {each.law for each in it.ledger.findings} == {"table"}
    assert it.ledger.reasons == []


def test_a_step_is_known_by_itself_and_not_by_its_number():
    it, step, _ = fed()
    it.feed(replace(step))
    assert it.ledger.evidence.checkpoints == 2


def never_suspicious():
    it, step, suspicious = fed()
    assert not suspicious
    return it, step


def another_one_since():
    it, step, _ = fed(**WRONG)
    program = story()
    it.feed(perform_program(program, Ideal(program, **WRONG)).steps[MAPPED + 1])
    return it, step


def another_step():
    it, step, _ = fed(**WRONG)
    return it, replace(step)


def an_operation():
    refused = after(nth("SPAPR_TCE_GET_INFO"), lambda _: Outcome(errno="EPERM"))
    it, step, suspicious = fed(nth("SPAPR_TCE_GET_INFO"), **refused)
    assert suspicious
    return it, step


def twice():
    it, step, _ = fed(**WRONG)
    it.confirm(step, by_every_view(step))
    return it, step


@pytest.mark.parametrize("broken", [never_suspicious, another_one_since, another_step, twice, an_operation])
def test_only_the_suspicious_checkpoint_that_was_fed_last_can_be_confirmed_and_once(broken):
    it, step = broken()
    mapped = perform_program(story(), Ideal(story())).steps[MAPPED]
    before = it.ledger.close()
    with pytest.raises(AssertionError, match=f"step {step.number} is confirmed, and it was not fed last"):
        it.confirm(step, by_every_view(mapped))
    assert it.ledger.close() == before


def test_a_second_look_that_the_laws_alone_would_not_have_asked_for_is_never_passed_over():
    """Of a run that was judged with a reference, and is judged again without."""
    program = story()
    record = perform_program(program, Ideal(program))
    assert judge(record).result == "pass"
    at = next(number for number, step in enumerate(record.steps) if isinstance(step.op, Checkpoint))
    record.steps[at] = replace(record.steps[at], confirmed=record.steps[at].snapshot)
    assert judge(record).exit_code == 125
