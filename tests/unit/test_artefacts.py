"""The folder of a run: private, new, and old ones make room without touching what still runs."""

from __future__ import annotations

import os
import stat
import time

import pytest

from tcelab import artefacts
from tcelab.artefacts import KEPT
from tcelab.errors import UsageError

NOBODY = 1 << 30
"""No process has this number."""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "tcelab" / "runs"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def old(runs, count, *, pid=NOBODY):
    """`count` folders of runs that are over, oldest first."""
    made = [runs / f"20200101T{i:06}Z-{pid}" for i in range(count)]
    for each in made:
        each.mkdir(parents=True)
        (each / "result.json").write_text("{}")
    return made


def test_a_run_has_a_private_folder_named_after_time_and_process(runs):
    made = artefacts.folder(None)
    assert made.parent == runs
    assert made.name.startswith(time.strftime("%Y%m", time.gmtime()))
    assert made.name.endswith(f"-{os.getpid()}")
    assert (mode(made), mode(runs)) == (0o700, 0o700)


def test_without_a_state_folder_of_its_own_it_lies_in_the_home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert artefacts.root() == tmp_path / ".local" / "state" / "tcelab" / "runs"


def test_two_runs_of_one_process_in_one_second_have_two_folders(runs, monkeypatch):
    monkeypatch.setattr(artefacts.time, "strftime", lambda *_: "20261123T000000Z")
    first, second, third = (artefacts.folder(None) for _ in range(3))
    assert [first.name, second.name, third.name] == [
        f"20261123T000000Z-{os.getpid()}{plus}" for plus in ("", "+", "++")
    ]


def test_a_folder_that_is_given_is_made_private(tmp_path):
    made = artefacts.folder(tmp_path / "a" / "b")
    assert mode(made) == 0o700
    assert made == tmp_path / "a" / "b"


def test_an_empty_folder_that_was_open_becomes_private(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir(mode=0o755)
    monkeypatch.chdir(tmp_path)
    made = artefacts.folder(artefacts.Path("out"))
    assert made == tmp_path / "out"
    assert mode(made) == 0o700


def test_a_folder_that_holds_something_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "out").mkdir(mode=0o755)
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(UsageError, match="out is not empty"):
        artefacts.folder(tmp_path / "out")
    assert mode(tmp_path / "out") == 0o755
    assert (tmp_path / "out" / "mine").read_text() == "keep"


def test_a_place_where_no_folder_can_be_made_is_wrong_usage(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make a folder for artefacts") as caught:
        artefacts.folder(tmp_path / "file" / "out")
    assert "--out" in caught.value.next_step


def test_the_oldest_runs_make_room_for_the_new_one(runs):
    made = old(runs, KEPT + 3)
    new = artefacts.folder(None)
    assert sorted(runs.iterdir()) == [*made[4:], new]
    assert len(list(runs.iterdir())) == KEPT == 40


def test_as_many_as_are_kept_are_kept(runs):
    made = old(runs, KEPT - 1)
    new = artefacts.folder(None)
    assert sorted(runs.iterdir()) == [*made, new]


def test_a_run_that_goes_on_is_never_removed(runs):
    running = old(runs, 2, pid=os.getpid())
    second = runs / f"20200101T000009Z-{os.getpid()}+"
    second.mkdir()
    over = old(runs, KEPT + 1)
    artefacts.folder(None)
    assert all(each.exists() for each in (*running, second))
    assert [each.exists() for each in over[:3]] == [False, False, True]


def test_a_file_beside_the_runs_is_nobodys_run(runs):
    old(runs, KEPT)
    (runs / "0-notes.txt").write_text("mine")
    artefacts.folder(None)
    assert (runs / "0-notes.txt").read_text() == "mine"
