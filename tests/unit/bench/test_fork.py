"""`tcelab bench fork`: what is timed, on what, and when there is nothing to time."""

from __future__ import annotations

import mmap
import os
import time
from types import SimpleNamespace

import pytest
from ideal import Ideal

from tcelab.bench import BenchJob, fork
from tcelab.errors import HarnessError, Unsupported
from tcelab.job import setup
from tcelab.program import Checkpoint, Fresh, Program
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.qemu.limits import Limits
from tcelab.run.record import Outcome

TWO = topology("two-pe")


class StandSession(Ideal):
    """An ideal guest of this very process."""

    def __init__(self, forked, **lies):
        super().__init__(Program(name="stand", topology=TWO, ops=[]), **lies)
        self.guest = SimpleNamespace(pid=os.getpid())
        self.began = time.monotonic()
        self.reached = {"loaded": 0.1, "ready": 0.25} if forked else {"ready": 5.0}
        if forked:
            self.facts.versions["base"] = {"key": "0"}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host with guests to be had; says what was opened."""
    told = SimpleNamespace(opened=[], open=0, forkable=True, lies={})

    def opened(kind):
        told.opened.append(kind)
        return StandSession(kind != "boot" and told.forkable, **told.lies)

    class Forks:
        def __init__(self, qemu, options, *, digest, limits, boot=False):
            self.kind = "boot" if boot else "fork"
            told.open += 1

        def open(self, folder):
            return opened(self.kind)

        def untried(self, folder, loaded=lambda _: None):
            session = opened("untried")
            loaded(session.guest)
            return session

        def close(self):
            told.open -= 1

    class Ahead:
        def __init__(self, forks, folder, count):
            self.forks = forks

        def prepare(self):
            told.opened.append("prepared")

        def take(self, more):
            return opened("ahead")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.forks.close()

    monkeypatch.setattr(fork, "Forks", Forks)
    monkeypatch.setattr(fork, "Ahead", Ahead)
    monkeypatch.setattr(setup, "prepare", lambda *_: setup.PreparedMachine(None, None, "", {}))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return told


def measure(repeat=2):
    return fork.measure(BenchJob(setup.MachineChoice(topology=TWO), Limits(), repeat))


def test_every_turn_boots_forks_takes_one_that_is_ready_and_forks_four_at_once(host):
    measured = measure()
    turn = ["boot", "untried", "prepared", "ahead", *4 * ["untried"]]
    assert host.opened == ["fork", *turn, *turn]
    assert host.open == 0
    figures = {figure.name: figure for figure in measured.figures}
    assert all(len(figure.values) == 2 for figure in figures.values())
    assert {figure.unit for figure in figures.values()} == {"s", "MiB", "ratio"}
    assert figures["fork: loaded"].values == [0.1, 0.1]
    assert figures["fork: first reply"].values == [0.25, 0.25]
    assert figures["memory of a fork: loaded"].unit == "MiB"


def test_a_ratio_is_of_two_figures_of_one_turn(host):
    figures = {figure.name: figure.values for figure in measure().figures}
    pairs = zip(figures["boot: first program"], figures["fork: first program"], strict=True)
    assert figures["boot / fork"] == [boot / forked for boot, forked in pairs]


def test_where_guests_cannot_be_forked_there_is_nothing_to_measure(host):
    host.forkable = False
    with pytest.raises(Unsupported, match="cannot be forked"):
        measure()
    assert host.open == 0


def test_a_program_that_fails_gives_no_figures(host):
    host.lies = {"tamper": lambda _s, _n, _op, _out: Outcome(errno="EPERM")}
    with pytest.raises(HarnessError, match="the program that is timed fails here: EPERM"):
        measure()
    assert host.open == 0


def test_the_program_that_is_timed_is_whole_and_goes_out_in_one_request():
    ops = fork.first_program(TWO)
    assert not [op for op in ops if isinstance(op, Checkpoint | Fresh)]
    assert [getattr(op, "request", "") for op in ops][-2:] == ["MAP_DMA", "UNMAP_DMA"]
    validate(Program(name="first", topology=TWO, ops=ops))


def test_own_memory_is_what_a_process_alone_has():
    before = fork.own_memory(os.getpid())
    with mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        for at in range(0, 64 << 20, 4096):
            area[at] = 1
        assert 60 < fork.own_memory(os.getpid()) - before < 70
