"""`tcelab bench dma`: its program, its figures, and that there are none of a kernel that does wrong."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tcelab import bench
from tcelab.bench import dma
from tcelab.emulator import EmulatorSession
from tcelab.errors import HarnessError
from tcelab.job import setup
from tcelab.program import Checkpoint, DmaMove, DmaRepeat, Program
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.qemu.limits import Limits
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome

WHERE = topology(dma.TOPOLOGY)
FEW = {"LISTS": 64, "MOVES": {"testdev": 20, "edu": 2}}
SPEED = {dma.LOOP: 100.0, dma.COMMAND: 90.0, dma.LOOP_ONE: 80.0, dma.COMMAND_ONE: 40.0}
"""Lists a second, each way."""


class Timed(EmulatorSession):
    """Each list takes its time, and so does each transfer."""

    lies = False

    def perform(self, ops):
        out = super().perform(ops)
        for op, outcome in zip(ops, out, strict=True):
            if isinstance(op, DmaRepeat):
                outcome.fields["seconds"] = outcome.fields["lists"] / SPEED[op.loop, len(op.lists)]
                if self.lies:
                    self.machine.pes[1].table.put(77, 0x5003)
        return out


class Lying(Timed):
    """An entry stays behind."""

    lies = True


@pytest.fixture
def measure(monkeypatch, tmp_path, shown):
    """Measure on the emulator: how, and what was noted."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name, few in FEW.items():
        monkeypatch.setattr(dma, name, few)
    monkeypatch.setattr(setup, "prepare", lambda choice: SimpleNamespace(choice=choice))

    def run(turns=2, session=Timed):
        @contextmanager
        def opened(ready, _limits, _folder):
            yield session(ready.choice.topology)

        monkeypatch.setattr(dma, "opened", opened)
        job = bench.BenchJob(setup.MachineChoice(topology=topology("two-pe")), Limits(), turns)
        return dma.measure(job), shown.notes

    return run


def test_the_program_is_legal_and_leaves_every_table_empty(monkeypatch):
    for name, few in FEW.items():
        monkeypatch.setattr(dma, name, few)
    plan = dma.plan(WHERE, 2)
    program = Program(name="bench dma", topology=WHERE, ops=plan.ops)
    validate(program)
    record = perform_program(program, EmulatorSession(WHERE))
    assert record.ending is None
    assert [step.number for step in record.steps if step.outcome is not None and step.outcome.errno] == []
    looks = {step.op.label: step.snapshot for step in record.steps if step.snapshot is not None}
    for label, snapshot in looks.items():
        there = sum(len(each.index) for each in snapshot.tables)
        assert there == ("transfers" in label), label


def test_each_way_has_the_same_number_of_lists_of_32_parts_and_each_turn_another_order():
    plan = dma.plan(WHERE, 3)
    timed = [plan.ops[number] for number in plan.timed]
    assert {op.times * len(op.lists) for op in timed} == {dma.LISTS}
    assert {len(parts) for op in timed for parts in op.lists} == {32}
    assert len({tuple([*plan.timed.values()][at : at + 4]) for at in (0, 4, 8)}) == 3


def test_the_transfers_of_a_turn_are_those_between_two_checkpoints():
    plan = dma.plan(WHERE, 1)
    for number, (model, count) in plan.moved.items():
        assert count == dma.MOVES[model]
        between = plan.ops[number - count : number]
        assert {type(op) for op in between} == {DmaMove}
        assert isinstance(plan.ops[number], Checkpoint)
        assert isinstance(plan.ops[number - count - 1], Checkpoint)


def test_the_figures_are_rates_and_ratios_beside_what_they_are_to_reach(measure):
    measured, _ = measure()
    assert (measured.verdict.exit_code, measured.verdict.could_not) == (0, [])
    by_name = {figure.name: figure for figure in measured.figures}
    assert [by_name[dma.WAYS[way]].median for way in SPEED] == pytest.approx([*SPEED.values()])
    ratios = [by_name[name] for name, *_ in dma.RATIOS]
    assert [each.median for each in ratios[:2]] == pytest.approx([0.9, 0.5])
    assert {each.unit for each in ratios} == {"ratio"}
    text = "\n".join(measured.text)
    assert "0.90     0.90     0.90  ratio       0.8 reached" in text
    assert {len(figure.values) for figure in measured.figures} == {2}


def test_a_ratio_that_is_not_reached_says_so(measure, monkeypatch):
    monkeypatch.setitem(SPEED, dma.COMMAND, 79.0)
    measured, _ = measure()
    assert "0.79     0.79     0.79  ratio       0.8 MISSED" in "\n".join(measured.text)


def test_there_are_no_figures_of_a_kernel_that_leaves_an_entry(measure):
    measured, notes = measure(session=Lying)
    assert (measured.figures, measured.verdict.exit_code) == ([], 1)
    assert any("to repeat it" in note for note in notes)


def test_what_did_not_succeed_is_not_timed():
    plan = dma.DmaPlan([], {0: dma.LOOP})
    steps = [SimpleNamespace(outcome=Outcome(errno="EIO", fields={"lists": 0, "seconds": 0.0}))]
    with pytest.raises(HarnessError, match="did not succeed"):
        dma.figures(plan, SimpleNamespace(steps=steps), {})
