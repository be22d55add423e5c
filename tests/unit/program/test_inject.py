"""The lie: one bit of one entry of a PE under test, looked at while it stands, then undone."""

from __future__ import annotations

import pytest
from msgspec import structs
from story import SMALL, story

from tcelab.errors import UsageError
from tcelab.program import Checkpoint, Flip, Program, inject
from tcelab.program.topology import Device, Phb, Topology

SEEDS = range(300)


def lies(seed=1, **changes):
    program = structs.replace(story(), seed=seed, **changes)
    return program, inject.flip(program)


def test_the_lie_is_looked_at_by_every_view_and_so_is_its_undoing():
    honest, lying = lies()
    lie, look, undo, again = lying.ops[len(honest.ops) :]
    assert lying.ops[: len(honest.ops)] == honest.ops
    assert isinstance(lie, Flip)
    assert (look, undo) == (Checkpoint(label="after the flip", stream=True), lie)
    assert again == Checkpoint(label="after the undoing", stream=True)
    assert lie.expect == "ok"


def test_one_seed_tells_one_lie():
    assert lies(7)[1] == lies(7)[1]
    assert len({lies(seed)[1].ops[-2] for seed in SEEDS}) > 290


def test_a_lie_stays_within_its_window_and_reaches_all_of_it():
    flips = [lies(seed)[1].ops[-2] for seed in SEEDS]
    windows = {phb.liobn: phb.window_size for phb in SMALL.phbs}
    assert {flip.liobn for flip in flips} == set(windows)
    assert all(0 <= flip.ioba < windows[flip.liobn] and flip.ioba % 4096 == 0 for flip in flips)
    assert min(flip.ioba for flip in flips) < (4 << 20) // 16
    assert max(flip.ioba for flip in flips) >= (4 << 20) * 15 // 16
    assert {flip.bit for flip in flips} == set(range(64))


def test_only_a_pe_under_test_is_lied_about():
    where = Topology("mixed", (Phb(1), Phb(2, (Device("pe2", 2),), 1 << 16), Phb(3)))
    flips = [inject.flip(Program(name="p", topology=where, ops=[], seed=seed)).ops[-2] for seed in range(20)]
    assert {flip.liobn for flip in flips} == {0x80000200}
    assert {flip.ioba for flip in flips} <= set(range(0, 1 << 16, 4096))


def test_without_a_pe_under_test_there_is_nothing_to_lie_about():
    with pytest.raises(UsageError, match="topology 'bare' has no PE under test"):
        inject.flip(Program(name="p", topology=Topology("bare", (Phb(1),)), ops=[]))
