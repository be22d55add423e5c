"""What the report tells of PEs: what was tried and what came of it, each PE's timeline, and several runs as one."""

from __future__ import annotations

import io
import json
from collections import Counter
from copy import deepcopy
from xml.etree import ElementTree as ET

import msgspec
import pytest
from rich.console import Console
from story import story

from tcelab.emulator import EmulatorSession
from tcelab.errors import Unsupported
from tcelab.job.parallel import ParallelRun
from tcelab.program import Program, Rtas
from tcelab.program.topology import topology
from tcelab.report import failed, junit, load, make, merge, render, render_series, to_json
from tcelab.report.isolationlog import (
    Isolations,
    access,
    cell,
    entries,
    isolation_line,
    isolations,
    log_lines,
    table_lines,
    timeline,
    timeline_lines,
)
from tcelab.run.record import Event, RunRecord
from tcelab.scenarios import isolation

PAIR = topology("pair")
HOLE = Event(
    kind="isolated",
    pe=1,
    liobn=0x80000100,
    device="pe1",
    iova=0x40000000,
    start=0x3FFFFFFC,
    size=8,
    direction="write",
    reason="outside the window",
    entry=None,
    neighbours=[0x1234003],
    at=1.5,
    took=0.0021,
)


def program(where=PAIR, *further):
    """One violation, and what else is asked for."""
    story = isolation.IsolationStory(where, 1)
    story.set_up()
    story.violate(next(isolation.violations(where)))
    for each in further:
        each(story)
    story.end()
    return Program(name="isolation", topology=where, ops=story.ops, seed=1, isolation=True)


def fresh_run(made, guard="freeze"):
    return ParallelRun(made, lambda _: EmulatorSession(made.topology, isolates=True, guard=guard)).run()


RUNS = {}


def run_of(made, guard="freeze"):
    """Made once for all that ask for it: the record is for reading alone, the verdict is a copy."""
    what = made.to_json(), guard
    if what not in RUNS:
        RUNS[what] = fresh_run(made, guard)
    record, verdict = RUNS[what]
    return record, deepcopy(verdict)


def result_of(made, guard="freeze"):
    return make(*run_of(made, guard))


def printed(show, result, **options):
    out = io.StringIO()
    show(Console(file=out, width=100), result, **options)
    return out.getvalue()


# -- what was tried


def test_a_story_counts_its_isolations():
    rows = isolations(*run_of(program(PAIR, isolation.obstinate)))
    assert [(row.kind, row.tried, row.done, row.expected, row.isolated, row.findings) for row in rows] == [
        ("beyond the end", 1, 1, 1, 1, 0),
        ("obstinate driver", 1, 1, 1, 1, 0),
    ]
    assert all(row.right for row in rows)


def test_what_did_not_isolate_is_bad_and_has_its_findings():
    (row,) = isolations(*run_of(program(), "off"))
    assert (row.expected, row.isolated) == (1, 0)
    assert row.findings > 0
    assert (row.right, cell(row)) == (False, "0/1 BAD")


def test_what_was_not_reached_is_neither_right_nor_wrong():
    made = program()
    record, verdict = run_of(made)
    half = RunRecord(made, record.facts, steps=record.steps[: len(record.steps) // 2])
    (row,) = isolations(half, verdict)
    assert (row.tried, row.done) == (1, 0)
    assert cell(row) == f"{row.isolated}/1 ?"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (None, "-"),
        (Isolations(kind="x", tried=2, done=2, expected=2, isolated=2), "2/2 ok"),
        (Isolations(kind="x", tried=2, done=2, expected=2, isolated=1), "1/2 BAD"),
        (Isolations(kind="x", tried=2, done=2, expected=2, isolated=3), "3/2 BAD"),
        (Isolations(kind="x", tried=2, done=2, expected=2, isolated=2, findings=1), "2/2 BAD"),
        (Isolations(kind="x", tried=2, done=1, expected=2, isolated=1), "1/2 ?"),
        (Isolations(kind="x", tried=2, done=1, expected=2, isolated=1, findings=1), "1/2 BAD"),
    ],
)
def test_a_cell_is_ok_bad_or_not_known(row, text):
    assert cell(row) == text


def test_the_table_has_a_column_for_each_topology_and_fits():
    rows = [Isolations(kind="hole", tried=8, done=8, expected=8, isolated=8)]
    names = ("one-pe", "two-pe", "pair", "four-pe", "high-window", "narrow-mask", "fast")
    lines = list(table_lines({name: rows if name != "pair" else [] for name in names}))
    assert lines[0].split() == ["isolated/expected", "one", "two", "pair", "four", "high", "narrow", "fast"]
    assert lines[1].split() == ["pe", "pe", "pe", "window", "mask"]
    assert lines[2].split("  ")[0] == "hole"
    assert (lines[2].count("8/8 ok"), lines[2].count(" -")) == (6, 1)
    assert max(map(len, lines)) <= 80
    assert list(table_lines({"one-pe": []})) == []


# -- the timeline


def test_an_isolation_is_told_in_one_line():
    assert isolation_line(HOLE) == (
        "PE 1 (LIOBN 0x80000100): pe1 writes 8 bytes at 0x3ffffffc, refused from 0x40000000 on: outside the window; "
        "isolated after 2.1 ms; entry outside the table, neighbours 0x1234003"
    )
    inside = msgspec.structs.replace(HOLE, start=HOLE.iova, direction="read", reason="no entry", entry=0, neighbours=[])
    assert access(inside) == "pe1 reads 8 bytes at 0x40000000: no entry"
    assert entries(inside) == "entry 0x0, neighbours none"


def test_the_timeline_has_every_event_and_every_call_in_order():
    made = program()
    record, _ = run_of(made)
    moments = timeline(record)
    events = [event for step in record.steps if step.outcome for event in step.outcome.events]
    assert [moment.event for moment in moments if moment.event] == events
    assert len([moment for moment in moments if moment.what == "call"]) == len(
        [op for op in made.ops if isinstance(op, Rtas)]
    )
    assert [moment.step for moment in moments] == sorted(moment.step for moment in moments)
    state = next(moment for moment in moments if moment.what == "call" and moment.state == 2)
    assert (state.call, state.status, state.pe, state.guest) == ("ibm,read-slot-reset-state2", 0, 1, 1)


def test_the_timeline_as_text_is_a_story_with_times_and_a_count():
    record, _ = run_of(program(PAIR, isolation.obstinate))
    moments = timeline(record)
    text = list(timeline_lines(moments))
    kinds = Counter(moment.what for moment in moments)
    assert text[0] == (
        f"PE 1 (LIOBN 0x80000100): 2 isolations, {kinds['blocked']} blocked attempts, 4 re-applied,"
        f" {kinds['call']} calls of firmware"
    ), "two devices let on the bus twice"
    told = "\n".join(text)
    assert "+0.0 ms  pe1 writes" in told
    assert "ms  isolated" in told
    assert "ibm,read-slot-reset-state2 gives 0: state 2, stopped" in told
    assert "ibm,set-eeh-option 2 gives 0" in told
    assert "blocked: pe1b" in told
    assert len([line for line in text if line.endswith("ms  isolated")]) == 1
    assert len([line for line in timeline_lines(moments, shown=2) if line.endswith("ms  isolated")]) == 2


def test_the_log_has_a_line_for_each_event_by_the_clock_of_its_guest():
    record, _ = run_of(program(PAIR, isolation.obstinate))
    moments = timeline(record)
    lines = list(log_lines(moments))
    assert len(lines) == len([moment for moment in moments if moment.event])
    first = moments[next(i for i, moment in enumerate(moments) if moment.event)].event
    assert lines[0] == f"guest 1 {first.at:10.6f} s  {isolation_line(first)}"
    assert any(
        line.endswith("s  PE 1 (LIOBN 0x80000100): pe1b was let master the bus, undone after 0.0 ms") for line in lines
    )
    assert any(": blocked: pe1b reads 64 bytes at " in line and "; entry 0x" in line for line in lines)


def test_what_nobody_is_to_blame_for_is_told_too():
    record, _ = fresh_run(program())
    step = next(step for step in record.steps if step.outcome and step.outcome.events)
    nobody = Event(kind="unblamed", pe=-1, iova=0x7000, size=4, direction="write", reason="no device has it")
    step.outcome.events.append(nobody)
    first = next(timeline_lines(timeline(record)))
    assert first == "nobody's: 1 refused accesses of which nobody can be blamed"
    assert any("nobody's: unblamed: " in line for line in log_lines(timeline(record)))


def test_a_run_that_is_not_about_isolation_tells_nothing_of_it():
    result = make(*ParallelRun(story(), lambda _: EmulatorSession(story().topology)).run())
    assert (result.isolations, result.timeline, result.runs) == ([], [], [])
    assert "isolated/expected" not in printed(render, result)


def test_the_text_of_a_run_has_the_table_and_the_timeline():
    text = printed(render, result_of(program()))
    assert "beyond the end       1/1 ok" in text.splitlines()
    assert "PE 1 (LIOBN 0x80000100): 1 isolation, " in text
    part = printed(render, result_of(program()), extent="part")
    assert "beyond the end" not in part
    assert part.splitlines()[-1] == "PASS (exit code 0)"


def test_a_result_with_its_timeline_comes_back_from_its_json():
    result = result_of(program())
    assert load(to_json(result)) == result
    plain = json.loads(to_json(result))
    assert plain["isolations"][0]["kind"] == "beyond the end"
    first = next(moment for moment in plain["timeline"] if moment["what"] == "isolated")
    assert first["event"]["liobn"] == 0x80000100


def test_junit_has_a_case_for_each_kind():
    case = ET.fromstring(junit(result_of(program()))).find(".//testcase[@classname='tcelab.isolation']")
    assert (case.get("name"), case.find("failure")) == ("beyond the end", None)
    case = ET.fromstring(junit(result_of(program(), "off"))).find(".//testcase[@classname='tcelab.isolation']")
    assert case.find("failure").get("message") == "0 of 1 isolations, 1 of 1 done"


# -- several runs

ONE = topology("one-pe")
PROGRAMS = [program(ONE), program(PAIR)]


def both(*guards, error=None):
    runs = {made.topology.name: result_of(made, guard) for made, guard in zip(PROGRAMS, guards, strict=False) if guard}
    if error is not None:
        runs[PAIR.name] = failed(error, PROGRAMS[1])
    return merge(runs, PROGRAMS, {"seed": 1})


@pytest.mark.parametrize(
    ("guards", "error", "word", "code"),
    [
        (("freeze", "freeze"), None, "pass", 0),
        (("freeze", "off"), None, "finding", 1),
        (("off", "freeze"), None, "finding", 1),
        (("freeze",), Unsupported("this QEMU is too old"), "could-not-judge", 125),
        (("off",), Unsupported("this QEMU is too old"), "finding", 1),
        (("freeze",), None, "could-not-judge", 125),
        (("off",), None, "finding", 1),
        ((), None, "could-not-judge", 125),
    ],
    ids=["pass", "last", "first", "one could not", "1 beats 125", "one not run", "finding, one not run", "none"],
)
def test_a_finding_beats_what_could_not_be_judged_and_that_beats_a_pass(guards, error, word, code):
    result = both(*guards, error=error)
    assert (result.verdict.result, result.verdict.exit_code) == (word, code)
    assert result.ended.complete == (len(guards) == 2)
    assert load(to_json(result)) == result


def test_findings_and_reasons_say_which_topology_they_are_of():
    result = both("off", error=Unsupported("this QEMU is too old"))
    assert all(finding.message.startswith("one-pe: ") for finding in result.verdict.findings)
    assert result.verdict.could_not == ["pair: this QEMU is too old"]
    assert both("freeze").verdict.could_not == ["pair: it was not run"]


def test_counts_are_those_of_all_runs_together():
    one, pair = (result_of(made) for made in PROGRAMS)
    result = merge({"one-pe": one, "pair": pair}, PROGRAMS, {})
    evidence, parts = result.verdict.evidence, [one.verdict.evidence, pair.verdict.evidence]
    for name in ("operations", "checkpoints", "tags", "entries", "pages"):
        assert getattr(evidence, name) == sum(getattr(each, name) for each in parts)
    assert evidence.laws["isolation"].judged == sum(each.laws["isolation"].judged for each in parts)
    assert evidence.dma.transfers == sum(each.dma.transfers for each in parts)
    assert evidence.dma.control == ["pe1", "pe1b"]
    assert (result.program.topology, result.program.operations) == (
        "one-pe, pair",
        sum(len(made.ops) for made in PROGRAMS),
    )
    assert [each.program.topology for each in result.runs] == ["one-pe", "pair"]
    assert [each.timeline for each in result.runs] == [[], []]
    assert one.timeline


def test_findings_that_are_not_shown_are_counted():
    runs = {name: result_of(made, "off") for name, made in (("one-pe", PROGRAMS[0]), ("pair", PROGRAMS[1]))}
    runs["pair"].verdict.more = 7
    shown = sum(len(each.verdict.findings) for each in runs.values())
    verdict = merge(runs, PROGRAMS, {}).verdict
    assert len(verdict.findings) + verdict.more == shown + 7


def test_the_text_of_all_is_the_table_and_one_verdict(tmp_path):
    text = printed(render_series, both("freeze", "off"), folder=tmp_path).splitlines()
    assert text[0].split() == ["isolated/expected", "one", "pair"]
    assert text[2] == "beyond the end     1/1 ok  0/1 BAD"
    assert "topologies: one-pe pass, pair finding" in text
    assert text[-1] == f"FINDING (exit code 1); artefacts in {tmp_path}"
    assert "one-pe pass, pair not run" in printed(render_series, both("freeze"))


def test_junit_of_several_runs_has_a_suite_for_each():
    root = ET.fromstring(junit(both("freeze", "off")))
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["tcelab isolation on one-pe", "tcelab isolation on pair"]
    assert [suite.get("failures") != "0" for suite in suites] == [False, True]
