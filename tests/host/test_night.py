"""A night: what its cells end with, what interrupts it, and what is left on the disk. The cells are small commands."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from patience import PATIENCE
from tcelab import image
from tcelab.errors import HarnessError
from tcelab.history import nightfile
from tcelab.history.store import History
from tcelab.nightly import folder as folders
from tcelab.nightly import process

ONCE = "if mkdir once; then {first}; else {then}; fi"
OURS = f".{os.getpid():07}"
"""A fraction of a second: who sleeps so long sleeps for these tests, and not for those of another process."""


@pytest.fixture
def matrix(tmp_path, monkeypatch):
    """Writes a matrix of commands, by their names; in a folder of its own, with a state of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(process.COOKIE, raising=False)  # these tests may be a cell themselves
    monkeypatch.chdir(tmp_path)

    def write(head="", **commands):
        cells = [
            f"[[cell]]\nkind = 'command'\nname = '{name}'\ncommand = {json.dumps(line)}\n"
            for name, line in commands.items()
        ]
        (tmp_path / "m.toml").write_text(head + "".join(cells))
        return "m.toml"

    return write


def last():
    return folders.load(folders.find("last"))


def words(night=None):
    return {each.scenario: each.word for each in (night or last()).cells}


def test_each_cell_has_its_word_its_attempts_and_what_it_printed(matrix, tcelab):
    done = tcelab(
        "nightly",
        matrix(
            good="echo fine",
            bad="echo it broke; exit 1",
            unsure="exit 125",
            odd="exit 4",
            killed="kill -9 $$",
            flaky=ONCE.format(first="exit 1", then="exit 0"),
        ),
    )
    night = last()
    assert (done.code, night.exit_code) == (1, 1)
    assert words(night) == {
        "good": "pass",
        "bad": "finding",
        "unsure": "could-not-judge",
        "odd": "could-not-judge",
        "killed": "could-not-judge",
        "flaky": "flaky",
    }
    assert [len(each.attempts) for each in night.cells] == [1, 2, 2, 2, 2, 2]
    assert [each.word for each in night.cells[5].attempts] == ["finding", "pass"]
    assert [each.exit_code for each in night.cells[4].attempts] == [-9, -9]
    folder = folders.find("last")
    for cell in night.cells:
        assert len({each.folder for each in cell.attempts}) == len(cell.attempts)
        assert all((folder / each.folder / "output.txt").is_file() for each in cell.attempts)
    assert night.cells[1].findings[0].message == "exit code 1: it broke"
    assert (folder / night.cells[1].attempts[1].folder / "output.txt").read_text() == "it broke\n"
    assert done.out.startswith("FINDING (exit code 1): 5 of 6 cells did not end as they must")
    assert "with the same seed: finding (1 finding), pass (0 findings)" in done.out
    assert "1 cell ended as they must: 1 pass" in done.out


def test_a_night_in_which_all_is_right_passes_and_one_that_was_undecided_does_not(matrix, tcelab):
    assert tcelab("nightly", matrix(good="true")).code == 0
    assert tcelab("nightly", matrix(good="true", unsure="exit 125")).code == 125


def test_a_cell_that_must_find_something_is_wrong_when_it_passes(matrix, tcelab):
    head = "[[cell]]\nkind = 'command'\nname = 'mutant'\nexpect = 'finding'\ncommand = '{}'\n"
    done = tcelab("nightly", matrix(head.format("exit 1")))
    assert (done.code, len(last().cells[0].attempts)) == (0, 1)
    assert "1 finding" in done.out
    done = tcelab("nightly", matrix(head.format("exit 0")))
    assert (done.code, len(last().cells[0].attempts)) == (1, 2)
    assert "(must be: finding)" in done.out


def test_a_finding_with_another_signature_is_flaky_and_one_that_stays_is_a_finding(matrix, tcelab):
    Path("says").write_text(
        "echo \"<testsuite><testcase name='$1'><failure message='3 of 4'/></testcase></testsuite>\" >$2; exit 1\n"
    )
    one, two = (f"sh says {name} {{out}}/junit.xml" for name in ("one", "two"))
    tcelab("nightly", matrix(same=one, other=f"if mkdir once; then {one}; else {two}; fi"))
    same, other = last().cells
    assert (same.word, other.word) == ("finding", "flaky")
    assert [each.operation for each in same.findings] == ["one"]
    assert [each.difference for each in same.findings] == ["N of N"]
    assert [each.operation for each in other.findings] == ["one", "two"]


def test_a_cell_that_ends_otherwise_than_the_night_before_is_run_again(matrix, tcelab):
    attempts = []
    for expected, line in (("finding", "exit 1"), ("finding", "exit 1"), ("pass", "exit 0"), ("pass", "exit 0")):
        tcelab("nightly", matrix(f"[[cell]]\nkind='command'\nname='c'\nexpect='{expected}'\ncommand='{line}'\n"))
        attempts.append([each.word for each in last().cells[0].attempts])
        assert words() == {"c": expected}
    assert attempts == [["finding"], ["finding"], ["pass", "pass"], ["pass"]]


GONE = "for turn in $(seq 600); do grep -q . /proc/$(cat number)/cmdline || exit 0; sleep 0.1; done; exit 1"
"""A process whose number is in the file has ended; who is dead and not buried has no command line any more."""


def test_what_a_cell_started_ends_with_it_and_at_its_limit_it_ends_itself(matrix, tcelab):
    matrix(late=f"sleep 615{OURS} & sleep 615{OURS}", leaves=f"setsid sleep 615{OURS} & echo $! >number", looks=GONE)
    text = Path("m.toml").read_text()
    Path("m.toml").write_text(text.replace("name = 'late'\n", "name = 'late'\nlimit = 0.01\n"))
    done = tcelab("nightly", "m.toml", "--slots", "1")
    assert words() == {"late": "could-not-judge", "leaves": "pass", "looks": "pass"}
    assert last().cells[0].attempts[0].why == "it took longer than 0.01 minutes"
    assert done.code == 125
    assert soon(lambda: not sleeping("615"))


def sleeping(seconds):
    wanted = f"sleep\0{seconds}{OURS}\0".encode()
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    return wanted in lines


def soon(what):
    end = time.monotonic() + process.GRACE / 2
    while not (done := what()) and time.monotonic() < end:
        time.sleep(0.05)
    return done


STOPS = f"if mkdir once; then kill -TERM $PPID; sleep 625{OURS}; fi"


def test_an_interrupted_night_ends_its_cells_and_is_gone_on_with(matrix, tcelab):
    file = matrix(first="exit 1", stops=STOPS, later="true")
    done = tcelab("nightly", file, "--slots", "1")
    assert words() == {"first": "finding", "stops": "not-run", "later": "not-run"}
    assert last().stopped == "interrupted"
    assert done.code == 1
    assert "the rest: " in done.out
    assert soon(lambda: not sleeping("625"))
    before = last().cells[0].attempts
    done = tcelab("nightly", "--resume", "last")
    assert words() == {"first": "finding", "stops": "pass", "later": "pass"}
    assert last().cells[0].attempts == before
    assert (last().stopped, done.code) == ("", 1)
    with History() as history:
        assert words(history.night(last().id)) == words()
    before = last()
    assert tcelab("nightly", "--resume", before.id).code == 1
    assert (last().pace, last().cells) == (before.pace, before.cells)


def test_who_interrupts_twice_does_not_wait_for_a_cell_that_will_not_end(matrix, tcelab):
    stubborn = f"trap : TERM; kill -TERM $PPID; sleep 0.3; kill -TERM $PPID; while :; do sleep 675{OURS}; done"
    done = tcelab("nightly", matrix(stubborn=stubborn))
    assert (words(), done.code) == ({"stubborn": "not-run"}, 125)
    assert last().pace.wall < process.GRACE
    assert soon(lambda: not sleeping("675"))


def test_a_night_whose_time_is_up_says_so_and_is_no_pass(matrix, tcelab):
    done = tcelab("nightly", matrix(long=f"sleep 635{OURS}", later="true"), "--minutes", "0.01", "--slots", "1")
    assert words() == {"long": "not-run", "later": "not-run"}
    assert done.code == 125
    assert "stopped: the time was up: 0.01 minutes" in done.out
    assert soon(lambda: not sleeping("635"))


def test_a_night_that_is_killed_loses_nothing_that_it_told_and_leaves_nothing_behind(matrix):
    """By a cell, when the one before it was told as done."""
    file = matrix(first="true", kills=f"if mkdir once; then sleep 645{OURS} & kill -KILL $PPID; wait; fi")
    night = [sys.executable, "-m", "tcelab", "nightly"]
    killed = subprocess.run([*night, file, "--slots", "1"], capture_output=True, text=True, check=False)
    assert killed.returncode == -9
    assert "first: pass" in killed.stderr
    assert soon(lambda: not sleeping("645"))
    assert words() == {"first": "pass", "kills": "not-run"}
    with History() as history:
        assert words(history.night(last().id))["first"] == "pass"
    began = last().cells[0].began
    again = subprocess.run([*night, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert words() == {"first": "pass", "kills": "pass"}
    assert last().cells[0].began == began


def test_a_matrix_that_was_changed_is_not_gone_on_with(matrix, tcelab):
    tcelab("nightly", matrix(stops=STOPS))
    matrix(stops=STOPS, more="true")
    done = tcelab("nightly", "--resume")
    assert done.code == 2
    assert "m.toml was changed since the night" in done.err
    assert words() == {"stops": "not-run"}


def test_a_cell_whose_image_cannot_be_had_costs_no_other(matrix, tcelab, monkeypatch):
    def broken(name, *_):
        raise HarnessError(f"{name} has no archive")

    monkeypatch.setattr(image, "ensure_guest", broken)
    file = matrix("[[cell]]\nkind = 'command'\nname = 'guest'\nimage = 'guest'\ncommand = 'true'\n", other="true")
    done = tcelab("nightly", file)
    assert (words(), done.code) == ({"guest": "could-not-judge", "other": "pass"}, 125)
    assert "no image guest: guest has no archive" in done.out
    monkeypatch.setattr(image, "ensure_guest", lambda *_: None)
    assert tcelab("nightly", "--resume").code == 0
    assert words() == {"guest": "pass", "other": "pass"}


def test_a_full_disk_ends_the_night_with_what_is_there(matrix, tcelab, monkeypatch):
    save = folders.save

    def full(night, folder):
        if any(each.scenario == "second" and each.attempts for each in night.cells):
            raise HarnessError("cannot write night.json: No space left on device")
        save(night, folder)

    monkeypatch.setattr(folders, "save", full)
    done = tcelab("nightly", matrix(first="true", second="true", third="true"), "--slots", "1")
    assert done.code == 125
    assert "stopped: cannot write night.json: No space left on device" in done.out
    assert "begins: third" not in done.err
    assert words() == {"first": "pass", "second": "not-run", "third": "not-run"}
    with History() as history:
        assert words(history.night(last().id)) == words()


def test_a_night_that_cannot_write_down_its_end_is_no_pass(matrix, tcelab, monkeypatch):
    monkeypatch.setattr(History, "end", lambda *_: (_ for _ in ()).throw(HarnessError("no room")))
    done = tcelab("nightly", matrix(first="true"))
    assert (done.code, words()) == (125, {"first": "pass"})
    assert "COULD NOT JUDGE (exit code 125): all of 1 cell ended as they must" in done.out
    assert "stopped: no room" in done.out


def test_a_finding_stands_when_the_night_itself_fails(matrix, tcelab, monkeypatch):
    monkeypatch.setattr(History, "last", lambda *_: 1 / 0)
    done = tcelab("nightly", matrix(first="true", bad="exit 1"), "--slots", "1")
    assert done.code == 125
    monkeypatch.setattr(History, "last", lambda _, name, __: 1 / (not name.startswith("bad")))
    assert tcelab("nightly", matrix(first="true", bad="exit 1", more=f"sleep 685{OURS}"), "--slots", "2").code == 1
    assert soon(lambda: not sleeping("685"))


def test_a_kernel_that_is_not_there_is_told_beforehand_and_costs_its_own_cells(matrix, tcelab):
    head = "[kernels.next]\nkernel = 'vmlinux'\n[[cell]]\nscenario = 'flow'\nimage = 'next'\n"
    done = tcelab("nightly", matrix(head, other="true"), "--dry-run")
    assert (done.code, "m.toml:2: there is no vmlinux: cells that need it" in done.err) == (0, True)


def test_night_json_is_written_whole_or_not_at_all(matrix, tcelab, monkeypatch):
    tcelab("nightly", matrix(first="true"))
    night, folder = last(), folders.find("last")
    before = (folder / nightfile.NAME).read_bytes()
    night.stopped = "x"
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(HarnessError, match="No space left on device"):
        folders.save(night, folder)
    assert (folder / nightfile.NAME).read_bytes() == before
    assert [each.name for each in folder.glob("*.new")] == []


def test_who_reads_night_json_has_one_whole_state_of_it(matrix, tcelab):
    tcelab("nightly", matrix(first="true"))
    night, folder = last(), folders.find("last")
    with (folder / nightfile.NAME).open("rb") as reader:
        begun = reader.read(10)
        night.stopped = "later"
        folders.save(night, folder)
        assert nightfile.load(begun + reader.read()).stopped == ""
    assert last().stopped == "later"


def test_a_second_night_waits_for_the_first_or_says_that_it_does_not(matrix, tcelab, monkeypatch):
    file = matrix(first="true")
    folders.root().parent.mkdir(parents=True)
    held = (folders.root().parent / "nightly.lock").open("a+")
    held.write("4242")
    held.flush()
    fcntl.flock(held, fcntl.LOCK_EX)
    done = tcelab("nightly", file, "--no-wait")
    assert (done.code, "another night goes on: process 4242" in done.err) == (125, True)
    with monkeypatch.context() as within:
        within.setenv(process.COOKIE, "night/1")
        assert "and this is one of its cells" in tcelab("nightly", file).err
    assert not folders.root().exists()
    waits = []
    flock = fcntl.flock

    def waited(file, how):
        if how == fcntl.LOCK_EX:
            waits.append(how)
            threading.Thread(target=held.close).start()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", waited)
    done = tcelab("nightly", file)
    assert (done.code, waits) == (0, [fcntl.LOCK_EX])
    assert "another night goes on, process 4242: waiting for its end" in done.err


def test_others_can_read_what_became_of_it(matrix, tcelab):
    file = matrix(good="true", bad="echo 'it <broke>\x1b'; exit 1", unsure="exit 125")
    done = tcelab("nightly", file, "--json", "night.json", "--out", "here", "--report", "night.html")
    assert "it &lt;broke&gt;" in Path("night.html").read_text()
    told = nightfile.load(Path("night.json").read_bytes())
    assert (told.exit_code, done.code) == (1, 1)
    assert words(told) == words(folders.load(Path("here")))
    suite = ET.parse("here/junit.xml").find("testsuite")
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
    }
    assert suite[1].find("failure").get("message") == "finding, not pass: exit code 1: it <broke>?"
    assert tcelab("nightly", file, "--out", "here").code == 2


def test_a_dry_run_lists_the_cells_with_their_commands_and_runs_nothing(matrix, tcelab):
    done = tcelab("nightly", matrix("[axes]\nscenario = 'flow'\n", bad="exit 1"), "--dry-run")
    assert done.code == 0
    assert "001 run flow guest qemu-11.1 power9 seed 1\n" in done.out
    assert " run flow --qemu qemu-11.1 --image guest --cpu power9 --seed 1\n" in done.out
    assert done.out.endswith("2 cells\n")
    assert not folders.root().exists()


def test_a_run_of_a_program_is_a_cell_with_its_result(matrix, tcelab):
    options = "options = { platform = 'emulator', inject = 'flip' }\nexpect = 'finding'\n"
    done = tcelab("nightly", matrix(f"[[cell]]\nscenario = 'flow'\n{options}"))
    assert done.code == 0, done.out + done.err
    (cell,) = last().cells
    assert cell.findings[0].law
    assert cell.findings[0].replay.startswith("tcelab")
    assert cell.versions
    assert (folders.find("last") / cell.attempts[0].folder / "result.json").is_file()


def test_the_kernel_ends_a_command_whose_night_is_killed(tmp_path):
    said = tmp_path / "said"
    night = (
        "import os, pathlib, time; from tcelab.nightly.process import Running; said = pathlib.Path(os.environ['SAID']);"
        f"Running(['sh', '-c', 'echo on; exec sleep 665{OURS}'], said, cookie='x', limit=9, folder=pathlib.Path('/'))\n"
        "while not said.read_text(): time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", night], check=False, env={**os.environ, "SAID": str(said)})
    assert done.returncode == -9
    assert soon(lambda: not sleeping("665"))


def test_killing_by_cookie_spares_others(monkeypatch):
    mine = subprocess.Popen(["sleep", "655"], env={**os.environ, process.COOKIE: "night/2"})
    other = subprocess.Popen(["sleep", "655"], env={**os.environ, process.COOKIE: "night/22"})
    try:
        assert process.kill_all("night/2") == 1
        assert mine.wait(PATIENCE) == -9
        assert other.poll() is None
        assert process.kill_all("night/") == 1
    finally:
        other.wait(PATIENCE)
