"""Guests for tests: one machine for each topology, and only that of the test at hand is kept ahead."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fake_guest import abilities

from tcelab.errors import Unsupported, UsageError
from tcelab.job import pool, setup
from tcelab.job.pool import NEEDS, Guests
from tcelab.program.topology import topology


@pytest.fixture
def world(monkeypatch):
    """What was made, taken and closed, in order."""
    told = []

    class Forks:
        def __init__(self, qemu, options, *, digest, limits, boot):
            self.name = options
            self.abilities = abilities(vof=False, private_ram=False)
            told.append(("forks", self.name, boot))

        def close(self):
            told.append(("forks closed", self.name))

    class Ahead:
        def __init__(self, forks, folder, count):
            self.forks = forks
            told.append(("ahead", forks.name, count))

        def take(self, more):
            told.append(("take", self.forks.name, more))
            return SimpleNamespace(of=self.forks.name)

        def close(self):
            told.append(("ahead closed", self.forks.name))
            self.forks.close()

    monkeypatch.setattr(pool, "Forks", Forks)
    monkeypatch.setattr(pool, "Ahead", Ahead)
    monkeypatch.setattr(setup, "prepare", lambda choice: setup.PreparedMachine(None, choice.topology.name, "", {}))
    return told


def made(tmp_path, **more):
    return Guests(setup.MachineChoice(topology=topology("two-pe")), lambda: tmp_path, **more)


def test_guests_of_one_topology_come_from_one_place(world, tmp_path):
    all_ = made(tmp_path, ahead=3)
    assert [all_.fresh("one-pe", 5).of, all_.fresh("one-pe", None).of] == ["one-pe", "one-pe"]
    assert world == [
        ("forks", "one-pe", False),
        ("ahead", "one-pe", 3),
        ("take", "one-pe", 5),
        ("take", "one-pe", None),
    ]


def test_what_was_kept_ahead_for_another_topology_ends_and_can_be_had_again(world, tmp_path):
    all_ = made(tmp_path, ahead=1)
    for name in ("one-pe", "two-pe", "one-pe"):
        all_.fresh(name, 0)
    kinds = [each[:2] for each in world]
    assert kinds[3:6] == [("ahead closed", "one-pe"), ("forks closed", "one-pe"), ("forks", "two-pe")]
    assert kinds[-3:] == [("forks", "one-pe"), ("ahead", "one-pe"), ("take", "one-pe")]


def test_a_guest_is_kept_for_each_core_unless_told_otherwise(world, tmp_path, monkeypatch):
    monkeypatch.setattr(pool.os, "cpu_count", lambda: 7)
    made(tmp_path).fresh("one-pe", 0)
    assert ("ahead", "one-pe", 7) in world
    made(tmp_path, ahead=0).fresh("one-pe", 0)
    assert ("ahead", "one-pe", 0) in world


def test_closing_ends_all(world, tmp_path):
    all_ = made(tmp_path)
    all_.fresh("one-pe", 0)
    all_.expect("two-pe", "edu")
    all_.close()
    closed = [each for each in world if "closed" in each[0]]
    assert ("ahead closed", "one-pe") in closed
    assert ("forks closed", "two-pe") in closed


@pytest.mark.parametrize("needs", NEEDS)
def test_what_a_test_needs_is_asked_of_the_qemu_that_it_gets(world, tmp_path, needs):
    all_ = made(tmp_path)
    if needs in {"vof", "fork"}:
        with pytest.raises(Unsupported, match=f"QEMU 9.9.9 cannot do what the test needs: {needs}"):
            all_.expect("two-pe", needs)
    else:
        all_.expect("two-pe", needs)


@pytest.mark.parametrize(
    ("needs", "lacks"),
    [
        ("edu", {"edu": False}),
        ("fork", {"private_ram": False}),
        ("live", {"traces": ()}),
        ("stream", {"device_state": False}),
        ("vof", {"vof": False}),
    ],
)
def test_each_need_is_an_ability_of_its_own(needs, lacks):
    assert NEEDS[needs](abilities(private_ram=True))
    assert not NEEDS[needs](abilities(**{"private_ram": True} | lacks))


def test_a_topology_that_nobody_knows_is_wrong_usage(world, tmp_path):
    with pytest.raises(UsageError, match="no topology 'ring'"):
        made(tmp_path).fresh("ring", 0)
