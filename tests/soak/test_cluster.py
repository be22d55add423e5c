"""Nights on a cluster of real processes on loopback: what is lost, what is killed, who may take part. The cells are
small commands, and each of them is the one who kills.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from daskcluster import DaskCluster, certificates, wait

from tcelab.history.store import History
from tcelab.nightly import folder as folders
from tcelab.nightly import process

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

OURS = f".{os.getpid():07}"
"""A fraction of a second: who sleeps so long sleeps for these tests."""
NIGHT = [sys.executable, "-m", "tcelab", "nightly"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder and a state of their own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(process.COOKIE, raising=False)  # these tests may be a cell themselves
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cluster(place):
    with DaskCluster(place) as made:
        yield made


def matrix(**commands):
    cells = [
        f"[[cell]]\nkind = 'command'\nname = '{name}'\ncommand = {json.dumps(line)}\n"
        for name, line in commands.items()
    ]
    Path("m.toml").write_text("".join(cells))
    return "m.toml"


def night(*words, cluster=None):
    more = [] if cluster is None else ["--scheduler", cluster.address]
    return subprocess.run([*NIGHT, *words, *more], capture_output=True, text=True, check=False)


def words():
    return {each.scenario: each.word for each in folders.load(folders.find("last")).cells}


def sleeping(seconds):
    wanted = f"sleep\0{seconds}{OURS}\0".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if wanted in path.read_bytes():
                return True
        except OSError:
            continue
    return False


def ends(seconds):
    wait(lambda: not sleeping(seconds), f"sleep {seconds} is left")


def test_cells_run_on_workers_and_the_client_writes_the_history(cluster):
    cluster.worker()
    cluster.worker()
    done = night(matrix(good="echo fine; echo kept >{out}/file", bad="echo it broke; exit 1"), cluster=cluster)
    assert done.returncode == 1, done.stderr
    assert words() == {"good": "pass", "bad": "finding"}
    found = folders.load(folders.find("last"))
    folder = folders.find("last") / found.cells[0].attempts[0].folder
    assert (folder / "output.txt").read_text() == "fine\n"
    assert (folder / "file").read_text() == "kept\n"
    assert len({each.folder for each in found.cells[1].attempts}) == 2  # run again, and not taken for the same task
    with History() as history:
        assert {each.scenario: each.word for each in history.night(found.id).cells} == words()
    assert not list((Path("state") / "tcelab" / "cluster").rglob("returned.msgpack"))


def test_a_task_that_is_lost_with_its_worker_is_asked_for_again_and_counted(cluster):
    """The cell kills the worker, and what else it has started ends too."""
    cluster.worker()
    cluster.worker()
    line = f"if mkdir once; then sleep 715{OURS} & kill -KILL $PPID; wait; fi"
    done = night(matrix(kills=line, good="true"), cluster=cluster)
    assert done.returncode == 0, done.stderr
    assert words() == {"kills": "pass", "good": "pass"}
    assert "lost with their workers and run again: 1\n" in done.stderr
    ends("715")


def test_a_task_that_kills_every_worker_is_given_up_and_is_no_pass(cluster):
    cluster.worker()
    cluster.worker()
    done = night(matrix(kills="kill -KILL $PPID; sleep 9"), cluster=cluster)
    assert done.returncode == 125, done.stderr
    assert words() == {"kills": "could-not-judge"}
    assert "its worker was lost, 3 times" in done.stdout


def test_with_its_nanny_a_worker_ends_and_with_the_worker_what_it_runs(cluster):
    nanny = cluster.worker()
    cluster.worker()
    Path("nanny").write_text(str(nanny.pid))
    line = f"if mkdir once; then sleep 725{OURS} & kill -KILL $(cat nanny); wait; fi"
    done = night(matrix(kills=line, other=line), cluster=cluster)
    assert done.returncode in {0, 125}, done.stderr  # the other worker may be the one that has it
    ends("725")


def test_without_its_scheduler_a_night_ends_and_says_so_and_so_do_its_workers(cluster):
    cluster.worker()
    Path("scheduler").write_text(str(cluster.scheduler.pid))
    line = f"sleep 735{OURS} & kill -KILL $(cat scheduler); wait"
    done = night(matrix(good="true", kills=line, later="true"), cluster=cluster)
    assert done.returncode == 125, done.stderr
    assert "is gone" in done.stderr + done.stdout
    assert words()["kills"] != "pass"
    ends("735")


def test_a_client_that_is_killed_leaves_nothing_behind_and_goes_on_when_it_comes_back(cluster):
    cluster.worker()
    line = f"if mkdir once; then sleep 745{OURS} & kill -KILL $(cat client); wait; fi"
    file = matrix(first="true", kills=line)
    with subprocess.Popen([*NIGHT, file, "--scheduler", cluster.address], stderr=subprocess.PIPE) as client:
        Path("client").write_text(str(client.pid))
        client.communicate()
    assert client.returncode == -signal.SIGKILL
    ends("745")
    began = folders.load(folders.find("last")).cells[0].began
    again = night("--resume", cluster=cluster)
    assert again.returncode == 0, again.stderr
    assert words() == {"first": "pass", "kills": "pass"}
    assert not began or folders.load(folders.find("last")).cells[0].began == began


def test_an_interrupt_ends_what_the_workers_run(cluster):
    cluster.worker()
    line = f"sleep 755{OURS} & kill -INT $(cat client); wait"
    with subprocess.Popen(
        [*NIGHT, matrix(stops=line), "--scheduler", cluster.address], stdout=subprocess.PIPE, text=True
    ) as client:
        Path("client").write_text(str(client.pid))
        said, _ = client.communicate()
    assert (client.returncode, words()) == (125, {"stops": "not-run"})
    assert "interrupted" in said
    ends("755")


def test_a_worker_that_cannot_write_gives_no_verdict(cluster):
    cluster.worker(XDG_STATE_HOME="/dev/null/none")
    done = night(matrix(good="true"), cluster=cluster)
    assert (done.returncode, words()) == (125, {"good": "could-not-judge"})
    assert "/dev/null/none" in done.stdout


def test_workers_of_another_tcelab_and_those_that_offer_no_guests_are_refused(cluster, place):
    (place / "older.py").write_text("import tcelab\ntcelab.__version__ = '0.0'\n")
    cluster.worker("--preload", str(place / "older.py"))
    cluster.worker(vm=0)
    done = night(matrix(good="true"), cluster=cluster)
    assert done.returncode == 2
    assert "is refused: it has tcelab 0.0, and the client has" in done.stderr
    assert "is refused: it offers no guests" in done.stderr
    cluster.worker()
    assert night(matrix(good="true"), cluster=cluster).returncode == 0


def test_a_scheduler_that_runs_tasks_of_dead_workers_again_is_refused(place):
    with DaskCluster(place, rules={}) as made:
        made.worker()
        done = night(matrix(good="true"), cluster=made)
    assert done.returncode == 2
    assert "runs the task of a dead worker again by itself, 3 times" in done.stderr


def test_no_scheduler_is_one_line_and_wrong_usage(place):
    done = night(matrix(good="true"), "--scheduler", "tcp://127.0.0.1:9")
    assert done.returncode == 2
    assert [each for each in done.stderr.splitlines() if each.startswith("tcelab: ")] == [
        each for each in done.stderr.splitlines() if "no scheduler answers at tcp://127.0.0.1:9" in each
    ]
    assert "Traceback" not in done.stderr


def test_with_tls_a_night_passes_and_a_stranger_is_not_spoken_to(place):
    (place / "ours").mkdir()
    (place / "others").mkdir()
    ca, cert, key = certificates(place / "ours")
    options = ["--tls-ca-file", str(ca), "--tls-cert", str(cert), "--tls-key", str(key), "--protocol", "tls"]
    with DaskCluster(place, *options) as made:
        made.worker()
        assert made.address.startswith("tls://")
        ours = ["--tls-ca", str(ca), "--tls-cert", str(cert), "--tls-key", str(key)]
        done = night(matrix(good="true"), *ours, cluster=made)
        assert (done.returncode, words()) == (0, {"good": "pass"}), done.stderr
        others = certificates(place / "others")
        theirs = [word for name, path in zip(ours[::2], others, strict=True) for word in (name, str(path))]
        done = night(matrix(good="true"), *theirs, cluster=made)
        assert done.returncode == 2
        assert "no scheduler answers at tls://" in done.stderr
