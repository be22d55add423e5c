"""`tcelab runs`, and the user's config: what runs have left is listed, told again, and removed when it is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stand import NOBODY, WRONG
from story import story

from tcelab.errors import UsageError
from tcelab.image.room import room
from tcelab.job import artefacts, platforms


@pytest.fixture
def file(monkeypatch, tmp_path):
    """The user's config, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "tcelab").mkdir(parents=True)
    return tmp_path / "config" / "tcelab" / "config.toml"


@pytest.fixture
def three(host, tcelab):
    """A pass, a finding and a run that left no result, all over; their names."""
    tcelab("run", "story.json")
    host.lies = WRONG
    tcelab("run", "story.json")
    made = sorted(host.runs.iterdir())
    for number, each in enumerate(made):
        each.rename(each.with_name(f"2020010{number + 1}T000000Z-{NOBODY}"))
    (host.runs / f"20200103T000000Z-{NOBODY}").mkdir()
    return [each.name for each in artefacts.runs()]


# -- list, show, prune


def test_a_list_has_each_run_with_what_came_of_it(three, tcelab):
    lines = tcelab("runs", "list").out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == three
    assert [line[27:42].strip() for line in lines[:3]] == ["pass", "finding", "no result"]
    assert lines[0].endswith(f"story on {story().topology.name}, seed {story().seed}")
    assert lines[3].startswith("3 runs, ")
    (only, total) = tcelab("runs", "list", "--findings").out.splitlines()
    assert (only.split()[0], total.split()[0]) == (three[1], "1")


def test_a_run_is_told_again_with_its_replay_and_its_files(three, tcelab):
    for name in (three[1], str(artefacts.root() / three[1])):
        done = tcelab("runs", "show", name)
        assert done.code == 0
        assert "FINDING (exit code 1)" in done.out
        assert "replay:    tcelab run " in done.out
        assert "  program.json" in done.out.splitlines()
    assert tcelab("runs", "show").out == f"{three[2]}: no result\n"


def test_a_command_by_which_nothing_was_run_leaves_nothing_and_the_run_before_it_is_the_last(host, tcelab, monkeypatch):
    tcelab("run", "story.json")
    (kept,) = host.runs.iterdir()

    def wrong(*_args, **_more):
        raise UsageError("no such kernel")

    monkeypatch.setattr(platforms, "prepare", wrong)
    assert tcelab("run", "story.json").code == 2
    assert tcelab("run", "story.json", "--out", "mine").code == 2
    assert tcelab("run", "isolation", "--platform", "emulator").code == 2
    assert [*host.runs.iterdir()] == [kept]
    assert [*Path("mine").iterdir()] == []
    assert "PASS (exit code 0)" in tcelab("runs", "show").out


def test_a_run_elsewhere_is_told_as_well_and_never_removed(host, tcelab):
    tcelab("run", "story.json", "--out", "out")
    assert "PASS (exit code 0)" in tcelab("runs", "show", "out").out
    done = tcelab("runs", "prune", "out")
    assert (done.code, Path("out/result.json").exists()) == (2, True)


def test_what_is_named_is_removed_whatever_it_found(three, tcelab):
    done = tcelab("runs", "prune", three[1])
    assert (done.code, [each.name for each in artefacts.runs()]) == (0, [three[0], three[2]])
    assert f"removed {three[1]} (finding)" in done.err


def test_limits_remove_the_oldest_and_no_finding_unless_it_is_asked_for(three, tcelab):
    assert tcelab("runs", "prune").out.startswith("0 runs removed")
    assert tcelab("runs", "prune", "--count", "1").out.startswith("1 run removed")
    assert [each.name for each in artefacts.runs()] == three[1:]
    tcelab("runs", "prune", "--size", "0")
    assert three[1] in [each.name for each in artefacts.runs()]
    tcelab("runs", "prune", "--count", "0", "--findings")
    assert artefacts.runs() == []


def test_a_run_that_goes_on_is_not_removed_by_name(host, tcelab):
    going = host.runs / f"20200101T000000Z-{os.getpid()}"
    going.mkdir(parents=True)
    done = tcelab("runs", "prune", going.name)
    assert (done.code, going.exists()) == (2, True)
    assert "goes on" in done.err
    assert tcelab("runs", "prune", "--count", "0").out.startswith("0 runs removed")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "none"], "there is no run none"),
        (["show"], "there is no run last"),
        (["prune", ".."], "there is no run .."),
        (["prune", "--size", "much"], "--size: 'much' is no size"),
        (["prune", "x", "--count", "1"], "limits are for runs that are not named"),
    ],
)
def test_wrong_usage_is_2(host, tcelab, words, said):
    done = tcelab("runs", *words)
    assert done.code == 2
    assert said in done.err.splitlines()[0]


def test_what_made_room_for_a_run_is_told_by_every_verb(three, tcelab, host, file):
    file.write_text("runs_kept = 1\n")
    done = tcelab("run", "story.json")
    assert "removed 2 old runs without a finding" in done.err
    assert (host.runs / three[1]).exists()


# -- the config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs_keep = 3\n", "unknown field `runs_keep`"),
        ('runs_size = "many"\n', "runs_size"),
        ("runs_kept = 0\n", "runs_kept"),
        ("runs_kept\n", "config.toml"),
    ],
)
def test_what_nobody_knows_is_2_before_anything_boots(host, tcelab, file, text, said):
    file.write_text(text)
    for words in (["run", "story.json"], ["run", "story.json", "--out", "out"], ["fuzz"], ["runs", "list"]):
        done = tcelab(*words)
        assert (done.code, host.chosen) == (2, [])
        assert said in done.err.splitlines()[0]
        assert str(file) in done.err.splitlines()[0]


def test_the_option_goes_before_the_file_and_a_wrong_one_is_2(host, tcelab, file, monkeypatch):
    monkeypatch.setenv("TCELAB_CACHE_SIZE", "1")
    file.write_text("cache_size = 7\n")
    assert room() == 1
    assert tcelab("run", "story.json", "--cache-size", "3 MB").code == 0
    assert room() == 3_000_000
    monkeypatch.delenv("TCELAB_CACHE_SIZE")
    assert room() == 7
    done = tcelab("run", "story.json", "--cache-size", "much")
    assert (done.code, "--cache-size: 'much' is no size" in done.err) == (2, True)
    monkeypatch.setenv("TCELAB_CACHE_SIZE", "much")
    done = tcelab("run", "story.json")
    assert (done.code, "TCELAB_CACHE_SIZE: 'much' is no size" in done.err) == (2, True)


def test_the_last_run_is_one_that_is_over(three, tcelab):
    going = artefacts.root() / f"20300101T000000Z-{os.getpid()}"
    going.mkdir()
    assert tcelab("runs", "show").out == f"{three[2]}: no result\n"
    assert tcelab("runs", "show", going.name).out == f"{going.name}: running\n"
