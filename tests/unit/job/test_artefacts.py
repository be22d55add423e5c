"""The folder of a run: private, new, and old ones make room without touching what still runs."""

from __future__ import annotations

import os
import stat
import time

import pytest
from stand import NOBODY

from tcelab.errors import UsageError
from tcelab.job import artefacts


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
        (each / "result.json").write_text('{"verdict": {"result": "pass"}}')
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


@pytest.fixture
def forty(monkeypatch, tmp_path):
    """How many are kept; the config, to write another one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    file = tmp_path / "config" / "tcelab" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("runs_kept = 40\n")
    return file


def test_the_oldest_runs_make_room_for_the_new_one_which_is_told_in_one_line(runs, forty, shown):
    made = old(runs, 43)
    new = artefacts.folder(None)
    assert sorted(runs.iterdir()) == [*made[4:], new]
    (line,) = shown.notes
    assert line == (
        "removed 4 old runs without a finding, 20200101T000000Z-1073741824 to 20200101T000003Z-1073741824:"
        " 40 of them or 1000 MB are kept, see tcelab runs --help"
    )


def test_as_many_as_are_kept_are_kept_and_nothing_is_said(runs, forty, shown):
    made = old(runs, 39)
    new = artefacts.folder(None)
    assert sorted(runs.iterdir()) == [*made, new]
    assert shown.notes == []


def test_forty_runs_are_not_many(runs):
    made = old(runs, 60)
    artefacts.folder(None)
    assert all(each.exists() for each in made)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", '{"schema": 1, "verdict": {"result": "finding", "exit_code": 1}}'),
        ("result.json", '{"schema": 1, "verdict": "finding", "command": "true"}'),
        ("finding-1.json", "{}"),
    ],
    ids=["run", "leakcheck", "fuzz"],
)
def test_a_run_with_a_finding_is_never_removed_by_itself_and_takes_nobodys_place(runs, forty, name, content):
    made = old(runs, 43)
    for each in made[:3]:
        (each / name).write_text(content)
    artefacts.folder(None)
    assert [each.exists() for each in made[:5]] == [True, True, True, False, True]


def test_what_runs_take_on_disk_is_limited_too(runs, forty):
    forty.write_text('runs_size = "100 kB"\n')
    made = old(runs, 5)
    for each in made:
        (each / "console.log").write_bytes(bytes(40_000))
    artefacts.folder(None)
    assert [each.exists() for each in made] == [False, False, False, True, True]


def test_a_run_that_goes_on_is_never_removed(runs, forty):
    running = old(runs, 2, pid=os.getpid())
    second = runs / f"20200101T000009Z-{os.getpid()}+"
    second.mkdir()
    over = old(runs, 41)
    artefacts.folder(None)
    assert all(each.exists() for each in (*running, second))
    assert [each.exists() for each in over[:3]] == [False, False, True]


def test_a_file_beside_the_runs_is_nobodys_run(runs, forty):
    old(runs, 40)
    (runs / "0-notes.txt").write_text("mine")
    artefacts.folder(None)
    assert (runs / "0-notes.txt").read_text() == "mine"


def test_what_is_wrong_is_told_whatever_becomes_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    with pytest.raises(UsageError, match="no such kernel"), artefacts.of_a_run(tmp_path):
        raise UsageError("no such kernel")
