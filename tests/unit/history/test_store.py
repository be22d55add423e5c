"""The history keeps what it was told: whatever ends the process, fills the disk, or lies in its place."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from nights import cell, found, night

from tcelab.errors import HarnessError, UsageError
from tcelab.history import database, schema
from tcelab.history.nightfile import Attempt, CellFigure
from tcelab.history.store import History


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "history.sqlite"


@pytest.fixture
def history(path):
    with History(path) as made:
        yield made


def again(path, name="night-1"):
    with History(path) as opened:
        return opened.night(name)


def test_all_of_a_night_comes_back_from_the_file(path):
    findings = [found("aaaa"), found("bbbb", law="pins", count=3)]
    chosen = {"qemu": "debian", "cpu": "power9", "mutant": "m", "options": {"ram": 1}, "expected": "finding"}
    flaky = cell("dma", "flaky", seed=2**70, findings=findings, figures={"map": [1.5, 2.0]}, **chosen)
    flaky.attempts.append(
        Attempt(word="could-not-judge", exit_code=-9, seconds=2.5, cpu_seconds=4, folder="cells/dma/2", why="it hung")
    )
    flaky.figures.append(CellFigure(name="coverage", unit="%", values=[88.5], better="higher"))
    host = {"name": "host", "cores": "2"}
    whole = night(1, flaky, cell("late", "not-run"), host=host, folder="/nights/1", stopped="interrupted")
    with History(path) as history:
        history.end(whole)
    assert again(path) == whole
    assert again(path, "none") is None


def test_a_night_that_begins_has_all_its_cells_not_run(path, history):
    made = night(1, cell("a", "not-run"), cell("b", "not-run"))
    history.begin(made)
    assert again(path) == made


def test_a_cell_that_is_recorded_again_replaces_what_was_there(history):
    made = night(1, cell("a", "finding", findings=[found("aaaa"), found("bbbb")], figures={"t": [1.0]}), cell("b"))
    history.begin(made)
    made.cells[0] = cell("a", "pass", began=90000.0)
    history.record(made, made.cells[0])
    assert history.night("night-1") == made


def test_a_night_that_is_resumed_keeps_what_its_cells_were(history):
    history.end(night(1, cell("a", "finding", findings=[found()]), cell("b", "not-run")))
    history.begin(night(1, cell("a", "not-run"), cell("b", "not-run"), cell("c")))
    assert [each.word for each in history.night("night-1").cells] == ["finding", "not-run", "pass"]


def test_another_night_of_the_same_name_is_refused_and_nothing_of_it_kept(history):
    history.end(night(1, cell("a")))
    with pytest.raises(UsageError, match="another night night-1"):
        history.end(night(2, cell("b"), name="night-1"))
    assert history.night("night-1") == night(1, cell("a"))


def test_a_night_asks_how_long_a_cell_takes_and_how_it_ended_last(history):
    history.end(night(3, cell("a", "could-not-judge", seconds=99.0), cell("b", "not-run")))
    history.end(night(1, cell("a", "pass", seconds=5.0), cell("b", "flaky", seconds=7.0, seed=8)))
    history.end(night(2, cell("a", "finding", seconds=6.0)))
    assert history.seconds() == {"a": 6.0}  # one that could not be judged may have ended early
    assert (history.last("a", 1), history.last("b", 8)) == ("could-not-judge", "flaky")
    assert (history.last("b", 1), history.last("none", 1)) == (None, None)


def test_the_file_and_the_users_folder_are_private(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "tcelab").mkdir(mode=0o755)
    with History() as history:
        history.end(night(1, cell()))
        files = list((tmp_path / "tcelab").iterdir())
        assert {each.name: each.stat().st_mode & 0o777 for each in files} == {
            "history.sqlite": 0o600,
            "history.sqlite-wal": 0o600,
            "history.sqlite-shm": 0o600,
        }
    assert (tmp_path / "tcelab").stat().st_mode & 0o777 == 0o700


def test_what_was_recorded_is_on_the_disk_and_not_in_its_cache(history):
    with history.database.read() as sql:
        assert sql.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert sql.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_what_breaks_off_in_the_middle_leaves_nothing_of_it(history):
    history.end(night(1, cell("a")))
    broken = cell("c")
    broken.expected = None
    with pytest.raises(sqlite3.IntegrityError):
        history.end(night(1, cell("b"), broken))
    assert history.night("night-1") == night(1, cell("a"))


# -- a process that is killed, or not alone

RECORD = """
import sys
from pathlib import Path
from nights import cell, night
from tcelab.history.store import History
made = night(1, *(cell(f"c{number}", "not-run") for number in range(500)))
with History(Path(sys.argv[1])) as history:
    history.begin(made)
    for number in range(500):
        made.cells[number] = cell(f"c{number}", "pass", began=90000.0)
        history.record(made, made.cells[number])
        print(number, flush=True)
"""


def child(script, *words):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", script, *words], stdout=subprocess.PIPE, text=True, env=environment)


def test_a_process_that_is_killed_loses_nothing_that_was_told_as_saved(path):
    with child(RECORD, str(path)) as writer:
        for line in writer.stdout:
            if int(line) == 20:
                writer.send_signal(signal.SIGKILL)
                break
        told = 20 + len(writer.stdout.readlines())
    assert writer.returncode == -signal.SIGKILL
    assert 20 <= told < 499
    with History(path) as history:
        words = [each.word for each in history.night("night-1").cells]
        assert words[: told + 1] == ["pass"] * (told + 1)
        assert words.count("pass") <= told + 2  # the one that was being written may be there
        with history.database.read() as sql:
            assert sql.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


HOLD = """
import sys
from pathlib import Path
from tcelab.history.store import History
with History(Path(sys.argv[1])) as history, history.database.write():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_who_writes_is_waited_for_and_named_when_it_lasts_too_long(path, monkeypatch, shown):
    monkeypatch.setattr(database, "_PATIENCE", 0.0)
    History(path).close()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], text=True, env=environment, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        with History(path, limit=0.3) as history:
            with pytest.raises(HarnessError) as failed:
                history.end(night(1, cell()))
            assert failed.value.scene.phase == database.PHASE
            assert failed.value.message.startswith(f"process {holder.pid} (")
            assert any(f"waiting for process {holder.pid}" in line for line in shown.lines)
            assert history.night("night-1") is None  # whoever reads waits for nobody
        later = threading.Timer(0.5, holder.stdin.close)
        later.start()
        with History(path, limit=600.0) as history:
            history.end(night(1, cell()))
        later.join()
    assert again(path) == night(1, cell())


def test_two_processes_and_several_threads_lose_nothing_of_each_other(path):
    with History(path) as history:
        made = [night(day, *(cell(f"c{number}") for number in range(10))) for day in range(2, 6)]
        threads = [
            threading.Thread(target=lambda of=of: [history.record(of, each) for each in of.cells]) for of in made
        ]
        with child(RECORD.replace("500", "40"), str(path)) as other:
            for each in threads:
                each.start()
            for each in threads:
                each.join()
            assert len(other.stdout.readlines()) == 40
        assert [history.night(each.id) for each in made] == made
        assert {each.word for each in history.night("night-1").cells} == {"pass"}


# -- a disk that is full


def test_a_file_that_may_not_grow_is_no_room_and_stays_as_it_was(path, history):
    before = night(1, cell("a"))
    history.end(before)
    with history.database.read() as sql:
        (pages,) = sql.execute("PRAGMA page_count").fetchone()
    history.database._sqlite.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(HarnessError, match="database or disk is full") as failed:
        history.end(night(2, *(cell(f"c{number}") for number in range(500))))
    assert "make room" in failed.value.next_step
    assert history.night("night-2") is None
    history.database._sqlite.execute("PRAGMA max_page_count = 100000")
    history.end(night(2, cell("b")))
    assert (again(path), again(path, "night-2")) == (before, night(2, cell("b")))


LIMITED = """
import resource, sys
from pathlib import Path
from nights import cell, night
from tcelab.errors import HarnessError
from tcelab.history.store import History
made = night(1, *(cell(f"c{number}", "not-run") for number in range(5)))
with History(Path(sys.argv[1])) as history:
    history.begin(made)
    size = Path(sys.argv[1] + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, resource.RLIM_INFINITY))
    try:
        for number in range(5000):
            history.record(made, made.cells[number % 5])
            print(number, flush=True)
    except HarnessError as error:
        print(error.message, flush=True)
"""


def test_a_disk_that_takes_no_more_is_no_room_and_the_file_is_whole(path):
    with child(LIMITED, str(path)) as writer:
        *_, last = writer.stdout.read().splitlines()
    assert (writer.returncode, last.startswith(f"cannot write to {path}: ")) == (0, True), last
    assert len(again(path).cells) == 5


def test_a_history_that_cannot_be_made_for_want_of_room_is_no_room(path, monkeypatch):
    def full(*_given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(HarnessError, match="No space left on device"):
        History(path)


# -- files that are no history


def foreign(path):
    with sqlite3.connect(path) as sql:
        sql.execute("CREATE TABLE mine (x)")
    sql.close()


def newer(path):
    History(path).close()
    with sqlite3.connect(path) as sql:
        sql.execute(f"PRAGMA user_version = {schema.SCHEMA + 1}")
    sql.close()


def damaged(path):
    with History(path) as history:
        history.end(night(1, *(cell(f"c{number}") for number in range(50))))
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"\xff" * 4000 + data[4100:])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("hello"), "no history, or a damaged one"),
        (lambda path: path.write_text("not a database\n" * 1000), "no history, or a damaged one"),
        (damaged, "no history, or a damaged one"),
        (foreign, "an SQLite file, and no history"),
        (newer, f"has schema {schema.SCHEMA + 1}, this tcelab reads schemas up to {schema.SCHEMA}"),
        (Path.mkdir, "cannot be opened"),
    ],
    ids=["short", "text", "damaged", "foreign", "newer", "folder"],
)
def test_a_file_that_is_no_history_is_wrong_usage_in_one_line_and_left_alone(tmp_path, make, said):
    path = tmp_path / "history.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UsageError, match=said) as failed:
        History(path)
    assert "\n" not in failed.value.message
    assert failed.value.next_step
    assert before == (path.read_bytes() if path.is_file() else None)


def test_damage_that_shows_later_is_told_in_the_same_words(path):
    with History(path) as history:
        history.end(night(1, *(cell(f"c{number}") for number in range(200))))
    data = path.read_bytes()
    path.write_bytes(data[:16384] + b"\xff" * (len(data) - 16384))
    with pytest.raises(UsageError, match="damaged"):
        again(path)


def test_an_empty_file_is_what_a_killed_process_leaves_and_becomes_a_history(path):
    path.parent.mkdir()
    path.touch()
    with History(path) as history:
        history.end(night(1, cell()))
    assert again(path) == night(1, cell())


def test_without_a_file_none_is_made_for_whoever_only_reads(path):
    with pytest.raises(UsageError, match="there is no history"):
        History(path, create=False)
    assert not path.parent.exists()


def test_text_that_is_half_a_character_is_kept_all_the_same(history):
    broken = msgspec.structs.replace(found(), message="\udc80 of a console")
    history.end(night(1, cell("a", "finding", findings=[broken])))
    assert history.night("night-1").cells[0].findings[0].message == "? of a console"
