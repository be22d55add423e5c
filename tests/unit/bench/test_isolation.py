"""`tcelab bench isolation`: its program, its figures, and that there are none of a guard that does not isolate."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from tcelab import bench
from tcelab.bench import isolation
from tcelab.emulator import EmulatorSession
from tcelab.errors import UsageError
from tcelab.job import setup
from tcelab.program import Dma, Frames, Program
from tcelab.program.topology import Phb, Topology, topology
from tcelab.program.validate import validate
from tcelab.qemu.limits import Limits
from tcelab.scenarios import legal

SMALL = topology("two-small")


class Timed(EmulatorSession):
    """Each isolation takes one millisecond more than the one before."""

    def perform(self, ops):
        out = super().perform(ops)
        for outcome in out:
            outcome.events[:] = [
                msgspec.structs.replace(event, took=next(self.clock) * 1e-3) if event.kind == "isolated" else event
                for event in outcome.events
            ]
        return out


@pytest.fixture
def measure(monkeypatch, tmp_path, shown):
    """Measure on the emulator: how, and what was noted."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(isolation, "TRANSFERS", 2000)
    monkeypatch.setattr(setup, "prepare", lambda choice: SimpleNamespace(choice=choice))

    def run(turns=3, guard=None, session=Timed):
        @contextmanager
        def opened(ready, _limits, _folder):
            made = session(ready.choice.topology, isolates=ready.choice.isolates, guard=guard or ready.choice.guard)
            made.clock = itertools.count(1)
            yield made

        monkeypatch.setattr(isolation, "opened", opened)
        job = bench.BenchJob(setup.MachineChoice(topology=SMALL), Limits(), turns)
        return isolation.measure(job), shown.notes

    return run


def test_the_program_has_so_many_violations_of_each_size_and_brings_the_pe_back_after_each():
    made = isolation.plan(SMALL, 7)
    assert Counter(made.sizes.values()) == {8: 7, 4000: 7}
    for number, size in made.sizes.items():
        assert isinstance(made.ops[number], Dma)
        assert made.ops[number].size == size
        assert [(op.call, op.option) for op in made.ops[number + 1 : number + 3]] == [
            ("ibm,set-eeh-option", 2),
            ("ibm,set-eeh-option", 3),
        ]
    assert {made.ops[number].to_memory for number in made.sizes} == {True, False}
    validate(Program(name="x", topology=SMALL, ops=made.ops, isolation=True))


def test_figures_are_those_of_the_events_and_stand_beside_what_they_are_to_be(measure):
    measured, _ = measure(3)
    figures = {figure.name: figure for figure in measured.figures}
    assert figures["isolation for 8 bytes"].values == pytest.approx([1, 3, 5])
    assert figures["isolation for 4000 bytes"].values == pytest.approx([2, 4, 6])
    assert all(value > 0 for value in figures["judged transfers"].values)
    assert measured.verdict.result == "pass"
    rows = {line[:26].strip(): line for line in measured.text}
    assert rows["isolation for 8 bytes"].endswith("median 3, most 50")
    assert rows["isolation for 4000 bytes"].endswith("median 6, most 50")
    assert rows["judged transfers"].endswith("5,000 or more")
    assert rows["bytes that landed outside"].split()[-1] == "0"
    assert set(isolation.TARGETS) == set(figures)


@pytest.mark.parametrize("guard", ["off", "observe"])
def test_a_guard_that_does_not_isolate_gives_findings_and_no_figures(measure, tmp_path, guard):
    measured, notes = measure(1, guard)
    assert (measured.figures, measured.verdict.exit_code) == ([], 1)
    (again,) = [note.split()[-1] for note in notes if note.startswith("to repeat it: tcelab run ")]
    kept = json.loads(Path(again).with_name("result.json").read_text())
    assert kept["verdict"] == msgspec.to_builtins(measured.verdict, str_keys=True)
    (log,) = tmp_path.rglob("log.txt")
    assert "tcelab.bench.isolation: bench: end" in log.read_text()


def test_a_byte_that_lands_outside_gives_a_finding_and_no_figures(measure):
    class Leaky(Timed):
        """A violation reaches a page that no entry leads to."""

        canary = None

        def perform(self, ops):
            out = super().perform(ops)
            for op, outcome in zip(ops, out, strict=True):
                if isinstance(op, Frames):
                    self.canary = outcome.frames[0]
                if any(event.kind == "isolated" for event in outcome.events):
                    self.machine.ram.write(self.canary + 7, b"!")
            return out

    measured, _ = measure(1, session=Leaky)
    assert (measured.figures, measured.verdict.exit_code) == ([], 1)
    assert {finding.law for finding in measured.verdict.findings} == {"memory"}


def test_fast_transfers_that_are_wrong_give_no_figures(measure, monkeypatch):
    """Those of the other program are judged as well."""
    parts = legal.parts

    def wrong(*arguments):
        made = parts(*arguments)
        return [[op for op in part if type(op).__name__ != "Engine"] for part in made]

    monkeypatch.setattr(isolation.legal, "parts", wrong)
    measured, _ = measure(1)
    assert (measured.figures, measured.verdict.exit_code) == ([], 1)


def test_a_topology_without_devices_is_wrong_usage():
    with pytest.raises(UsageError, match="no device under test"):
        isolation.plan(Topology("bare", (Phb(1),)), 1)
