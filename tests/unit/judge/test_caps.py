"""A cap cuts what is shown, and never what is counted or judged: more is wrong here than anybody shows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ideal import Ideal
from msgspec import structs
from story import BOTH, FIRST, SECOND, after, nth, on, see, story, with_entry

from tcelab.emulator import EmulatorSession
from tcelab.judge import Judge
from tcelab.judge.core import KEEP
from tcelab.judge.laws.table import table
from tcelab.judge.laws.tag import tag
from tcelab.judge.laws.views import views
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.reading import read_tables
from tcelab.judge.standing import Standing
from tcelab.program import Checkpoint, Ddw, Page, Program
from tcelab.program.topology import Device, Phb, Topology, topology
from tcelab.report.isolationlog import isolations
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome, RunRecord, Snapshot, Step, TableView
from tcelab.scenarios import build
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.stories import parse

WIDE = Topology("wide", (Phb(1, (Device("pe1", 1),), 16 << 20),))
ENTRIES = 4096
(WIDE_ONE,) = b.pes(WIDE, "wide")


def judged(**lies):
    program = story()
    session = Ideal(program, **lies)
    watch = Judge(program, session.facts)
    return watch.verdict(perform_program(program, session, watch))


class Bench:
    """The table laws alone, on one table that is looked at as often as is wanted."""

    def __init__(self, frames=(), pages=0):
        self.program = Program(name="p", topology=WIDE, ops=[])
        self.fold = Fold(self.program, Ideal(self.program).facts)
        self.ledger = Ledger(self.program, KEEP)
        for op in [*b.buffer("a", max(pages, 1), 0)[:1], *b.open_container(WIDE_ONE), *b.enable(WIDE_ONE)]:
            self.fold.apply(Step(0, op, Outcome(value=0x100000 if hasattr(op, "pages") else 0)))
        if pages:
            op = b.map_dma(WIDE_ONE, Page("a"), 0, pages, BOTH)[0]
            self.fold.apply(Step(1, op, Outcome(value=0, frames=list(frames))))

    def look(self, step, *shown, laws=(views, table), pages=None):
        """Judge one look: `shown` are the entries of live memory, and then of the state stream."""
        self.ledger.step = step
        tables = tuple(map(viewed, ("live", "stream"), shown))
        seen = read_tables(Snapshot(tables, {}, pages or {}, ()), [])
        for law in laws:
            law(self.ledger, self.fold, seen)
        return self.ledger

    def counts(self):
        return {law: count.findings for law, count in self.ledger.evidence.laws.items() if count.findings}


def viewed(name, held):
    index, words = np.array(sorted(held), np.uint32), np.array([held[i] for i in sorted(held)], np.uint64)
    return TableView(FIRST, name, ENTRIES, index, words)


def rubbish(numbers, low=3):
    return {number: number << 12 | 1 << 40 | low for number in numbers}


# -- tables


def test_all_wrong_entries_of_a_table_are_counted_once_however_often_they_are_seen():
    bench = Bench()
    for step in (5, 6, 7):
        bench.look(step, rubbish(range(3000)))
    assert bench.counts() == {"table": 3000}
    assert (len(bench.ledger.findings), bench.ledger.total) == (KEEP, 3000)
    assert bench.ledger.by_step == {5: {"table": 3000}}


def test_other_wrong_entries_are_news_behind_the_cap_too():
    bench = Bench()
    bench.look(5, rubbish(range(2000)))
    bench.look(6, rubbish(range(1000, 3000)))
    bench.look(7, rubbish(range(1000, 3000)) | {2999: 0x7003})
    assert bench.ledger.by_step == {5: {"table": 2000}, 6: {"table": 1000}, 7: {"table": 1}}


def test_what_was_right_in_between_is_news_when_it_is_wrong_again():
    bench = Bench()
    for step, wrong in ((5, [9]), (6, []), (7, [9]), (8, [9])):
        bench.look(step, rubbish(wrong))
    assert bench.ledger.by_step == {5: {"table": 1}, 7: {"table": 1}}


def test_where_views_differ_is_news_once_until_they_agreed_in_between():
    bench = Bench()
    for step, wrong in ((5, [9]), (6, [9]), (7, []), (8, [9])):
        bench.look(step, {}, rubbish(wrong))
    assert bench.ledger.by_step == {5: {"views": 1}, 8: {"views": 1}}


def test_both_views_of_one_wrong_entry_are_one_finding_behind_the_cap_too():
    bench = Bench()
    bench.look(5, rubbish(range(3000)), rubbish(range(3000)))
    assert bench.counts() == {"table": 3000}
    assert bench.ledger.findings[0].view == "live, stream"


def test_what_one_view_alone_shows_wrong_is_told_by_one_law_behind_the_cap_too():
    """The views differ, and one of them is right: that is no wrong table."""
    bench = Bench()
    bench.look(5, {}, rubbish(range(3000)))
    assert bench.counts() == {"views": 3000}


def test_frames_that_were_not_told_are_no_findings_however_many():
    bench = Bench(pages=3000)
    assert len(bench.fold.unknown) == 1
    bench.look(5, rubbish(range(3000)))
    assert bench.counts() == {}
    bench.look(6, rubbish(range(2999)) | {2999: 0x5001})
    assert bench.counts() == {"table": 1}


def test_the_tag_law_leaves_all_wrong_entries_to_the_table_law():
    """With frames that nobody told, it asks the table where they lead: one that is missing leads nowhere."""
    bench = Bench(pages=3000)
    ledger = bench.look(5, {}, laws=(table, tag))
    assert bench.counts() == {"table": 3000}
    assert ledger.reasons == []


def test_standing_forgets_what_a_view_has_since_seen_right():
    standing = Standing()

    def news(view, step, *numbers):
        arrays = np.array(numbers, np.int64), np.ones((len(numbers), 1), np.uint64)
        return standing.news("t", view, step, *arrays).tolist()

    assert news("live", 1, 3, 4) == [True, True]
    assert news("stream", 1, 3, 4, 5) == [False, False, True]
    assert news("live", 2) == []
    assert news("live", 3, 3) == [True]
    assert news("stream", 3, 3, 6) == [False, True]


# -- what counts by it


@pytest.mark.parametrize("keep", [0, 1, 5])
def test_a_verdict_is_the_same_however_few_findings_are_kept(keep):
    program = story()
    world = see(on(SECOND, many))
    watch = Judge(program, Ideal(program).facts, keep=keep)
    verdict = watch.verdict(perform_program(program, Ideal(program, **world), watch))
    assert (verdict.exit_code, len(verdict.findings), verdict.more) == (1, keep, 150 - keep)
    assert verdict.by_step == {nth("mapped"): {"table": 150}}
    assert verdict.found(0, nth("mapped")) == {}
    assert verdict.found(nth("mapped"), nth("mapped") + 1) == {"table": 150}


def many(shown):
    for number in range(100, 250):
        shown = with_entry(number, number << 12 | BOTH)(shown)
    return shown


def test_a_kind_of_isolation_is_bad_however_many_findings_there_were_before_it():
    program = build("isolation", topology("two-small"), 1)
    labels = [number for number, op in enumerate(program.ops) if isinstance(op, Checkpoint) and parse(op.label)]
    steps = [Step(number, op, Outcome(value=0)) for number, op in enumerate(program.ops)]
    record = RunRecord(program, SimpleNamespace(), steps=steps)
    last = labels[-1]
    few = isolations(record, verdict_of({}))
    found = isolations(record, verdict_of({labels[0]: {"table": 500}, last: {"table": 1}}))
    assert sum(row.findings for row in few) == 0
    assert sorted(row.findings for row in found if row.findings) == [1, 500]


def verdict_of(by_step):
    program = Program(name="p", topology=WIDE, ops=[])
    verdict = Judge(program, Ideal(program).facts).verdict(RunRecord(program, Ideal(program).facts))
    verdict.by_step = by_step
    return verdict


# -- refusals


def test_a_first_access_that_went_through_is_found_by_the_refusals_that_come_later():
    verdict = judged(**after(nth("Dma", 0), lambda session: session.refused.clear()))
    (finding,) = verdict.findings
    assert (finding.law, finding.step, finding.ioba) == ("refusals", nth("control"), 0x40000)
    assert finding.operation.startswith(f"#{nth('Dma', 0)} ")
    assert "QEMU refused nothing there" in finding.message
    assert verdict.could_not == []
    assert verdict.evidence.dma.control == ["pe1"]


def test_a_watcher_that_never_sees_a_refusal_cannot_judge_them():
    def warp(_session, _number, _op, snapshot):
        return replace(snapshot, refusals=())

    verdict = judged(warp=warp)
    assert (verdict.result, verdict.exit_code, verdict.findings) == ("could-not-judge", 125, [])
    assert verdict.could_not == [
        f"the watcher cannot see refused accesses of pe1 (3 times, first at step {nth('control')})"
    ]


def test_a_first_access_that_went_through_is_found_at_once_where_a_guard_has_proven_that_it_sees():
    program = story()
    session = Ideal(program, warp=lambda _s, _n, _o, snapshot: replace(snapshot, refusals=()))
    session.facts = replace(session.facts, guard="observe")
    watch = Judge(program, session.facts)
    verdict = watch.verdict(perform_program(program, session, watch))
    assert {finding.law for finding in verdict.findings} >= {"refusals"}
    assert verdict.exit_code == 1


def test_the_refusals_of_one_device_prove_the_watcher_for_another():
    program = story()
    ops = [
        *program.ops[: nth("refused") + 1],
        *b.open_device(b.pes(program.topology, "story")[1]),
        *b.dma(b.pes(program.topology, "story")[1], 0x40000, 64, to_memory=False),
        *b.checkpoint("other", stream=True),
    ]
    program = Program(name="p", topology=program.topology, ops=ops, seed=1)
    number = len(ops) - 2

    def tamper(session, at, _op, outcome):
        if at == number:
            session.refused.clear()
        return outcome

    session = Ideal(program, tamper=tamper)
    watch = Judge(program, session.facts)
    verdict = watch.verdict(perform_program(program, session, watch))
    assert [(each.law, each.liobn, each.operation.split()[0]) for each in verdict.findings] == [
        ("refusals", SECOND, f"#{number}")
    ]


# -- what a law is about must not make it mute


@pytest.mark.parametrize(("name", "wrong"), [("liobn", 0x80000201), ("liobn", FIRST), ("start", 1 << 60)])
def test_a_window_that_firmware_says_it_made_where_it_cannot_be_is_found(name, wrong):
    """The fold cannot go on from there: that alone were no finding."""

    class Firmware(EmulatorSession):
        def intervene(self, op, frames):
            outcome = super().intervene(op, frames)
            return replace_fields(outcome, name, wrong) if isinstance(op, Ddw) else outcome

    ops = [
        *b.ddw(b.pes(topology("two-small"), "w")[0], "create", page_shift=16, window_shift=24),
        *b.checkpoint("made"),
    ]
    program = Program(name="p", topology=topology("two-small"), ops=ops)
    session = Firmware(program.topology)
    watch = Judge(program, session.facts)
    verdict = watch.verdict(perform_program(program, session, watch))
    assert ("inventory", f"{name} {wrong:#x}") in [(each.law, each.seen) for each in verdict.findings]
    assert verdict.exit_code == 1


def replace_fields(outcome, name, value):
    return structs.replace(outcome, fields={**outcome.fields, name: value})
