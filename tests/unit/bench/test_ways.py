"""The ways into a table, compared: what is timed is legal, leaves nothing, and is told beside what it is to reach."""

from __future__ import annotations

import statistics

import msgspec
import pytest

from tcelab.bench import Figure, Measured, batch, plot, watch, ways
from tcelab.emulator.emulatedkernel import EmulatedKernel
from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.errors import HarnessError
from tcelab.program import Call, HcallBatch, Native, Program, Repeat
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome

TWO = topology("two-pe")


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(ways, "PAGES", 64)


def test_the_program_does_what_it_says_and_leaves_every_table_empty(few):
    """On the emulator, which runs all but the C program."""
    plan = batch.ways_plan(TWO, [1, 2, 32], 2)
    program = Program(name="bench ways", topology=TWO, ops=plan.ops)
    validate(program)
    record = perform_program(program, EmulatorSession(TWO))
    assert record.ending is None
    assert [step.number for step in record.steps if step.outcome is not None and step.outcome.errno] == []
    looks = {step.op.label: step.snapshot for step in record.steps if step.snapshot is not None}
    for label, snapshot in looks.items():
        assert sum(len(each.index) for each in snapshot.tables) == (32 if label == "batch: ways, mapped" else 0), label
    batches = [step for step in record.steps if isinstance(step.op, HcallBatch)]
    unknown = -4  # H_PARAMETER
    assert {status for step in batches for status in step.outcome.fields["statuses"]} == {0, unknown}


def test_the_agents_loop_is_a_write_for_each_round_and_the_modules_is_one(monkeypatch):
    writes = []
    pwrite = EmulatedKernel.pwrite
    monkeypatch.setattr(EmulatedKernel, "pwrite", lambda *a: writes.append(a[2]) or pwrite(*a))
    call = Call("H_GET_TCE", [ways.UNKNOWN, 0])
    for loop, count in (("module", 1), ("agent", 7)):
        (outcome,) = EmulatorSession(TWO).perform([HcallBatch(calls=[call], times=7, loop=loop)])
        assert (outcome.fields["calls"], outcome.fields["statuses"]) == (7, [-4])
        assert len(writes) == count
        writes.clear()


def test_the_picture_has_a_panel_for_the_ways(tmp_path):
    pytest.importorskip("matplotlib")
    calls = [Figure(f"{kind} {n}", "us/call", [1.0, 2.0]) for kind in batch.KINDS for n in (1, 32)]
    for figures, name in ((calls, "two.svg"), ([*calls, *ways.figures(values())], "three.svg")):
        plot.draw(Measured(figures=figures), tmp_path / name)
    two, three = ((tmp_path / name).read_text() for name in ("two.svg", "three.svg"))
    assert (two.count('id="axes_'), three.count('id="axes_')) == (2, 3)


def test_every_way_is_timed_for_every_size_in_every_turn(few):
    plan = batch.ways_plan(TWO, [1, 2, 32], 2)
    ways_of = list(plan.timed.values())
    for size in (1, 2, 32):
        for way in (ways.AGENT, ways.PUT, ways.INDIRECT):
            assert ways_of.count((way, size)) == 2
        assert sum(native.args[1] == size for native in plan.natives.values()) == 2
    for way in (ways.BY_AGENT, ways.CHEAPEST, ways.MANY, ways.MANY_BY_AGENT):
        assert [size for each, size in ways_of if each == way] == [32, 32]
    assert all(isinstance(plan.ops[number], Repeat | HcallBatch) for number in plan.timed)


def test_one_pe_is_too_few_to_compare():
    alone = msgspec.structs.replace(TWO, phbs=TWO.phbs[:1])
    assert batch.ways_plan(alone, [1], 1) is None


def test_both_loops_of_a_comparison_do_the_same_calls(few):
    pes = batch.b.pes(TWO, "x")
    timed = ways.timed(*pes[:2], "x", 32)
    for mine, loop in ((ways.BY_AGENT, ways.INDIRECT), (ways.MANY_BY_AGENT, ways.MANY)):
        ours, theirs = timed[mine][0], timed[loop][0]
        assert (ours.calls, ours.times, ours.loop, theirs.loop) == (theirs.calls, theirs.times, "agent", "module")


def test_seconds_are_those_of_one_batch():
    call = Call("H_GET_TCE", [0, 0])
    repeat = Repeat(ops=[], times=5)
    assert ways.seconds(repeat, Outcome(value=0, fields={"calls": 10, "seconds": 5.0})) == 1.0
    native = Native(program="vfio_loop", args=["$a", 1, 5])
    assert ways.seconds(native, Outcome(value=0, fields={"calls": 10, "microseconds": 5_000_000})) == 1.0
    assert ways.seconds(HcallBatch(calls=[call] * 3, times=5), Outcome(value=0, fields={"seconds": 5.0})) == 1.0
    with pytest.raises(HarnessError, match="did not succeed"):
        ways.seconds(native, Outcome(value=1, fields={"errno": 16}))


def values(**seconds):
    sizes = {ways.BY_AGENT: [32], ways.CHEAPEST: [32], ways.MANY: [32], ways.MANY_BY_AGENT: [32]}
    every = [*ways.CURVES, *sizes]
    return {(way, n): [seconds.get(way, 1.0)] * 3 for way in every for n in sizes.get(way, [1, 32])}


def test_a_pair_of_calls_concerns_its_pages_twice():
    rates = ways.curves(ways.figures(values()))
    assert (rates[ways.AGENT][32], rates[ways.PUT][32]) == ([64.0] * 3, [32.0] * 3)
    assert set(rates) == set(ways.CURVES)


def test_ratios_are_of_rates_and_a_missed_one_is_told():
    found = ways.figures(values(**{ways.NATIVE: 0.5, ways.MANY_BY_AGENT: 0.5}))
    ratios = {each.name: statistics.median(each.values) for each in found if each.unit == "ratio"}
    assert list(ratios.values()) == [0.5, 0.5, 1.0, 2.0, 1.0]
    told = [line.split()[-2:] for line in ways.text(found)[-5:]]
    assert told == [["0.9", "MISSED"], ["0.6", "MISSED"], ["0.8", "reached"], ["0.8", "reached"], ["0.7", "reached"]]


def test_without_a_comparison_nothing_is_told():
    assert ways.text([]) == []


# -- the watcher's price


def test_what_fails_is_not_timed():
    class Session:
        def perform(self, ops):
            return [Outcome(errno="EPERM", fields={"calls": 0, "seconds": 0.0}) for _ in ops]

    with pytest.raises(HarnessError, match="did not succeed"):
        watch.seconds(Session(), Repeat(ops=[], times=1))
