"""A disk that is full, a file that cannot be written, a reader that has left: the verdict is told first, and stands."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from broken_guests import BROKEN, commands
from stand import WRONG
from stand_series import EMULATED
from warm import CLOSED, LEFT, warm

from tcelab.errors import HarnessError
from tcelab.fuzz import campaign
from tcelab.job import artefacts, keeping
from tcelab.run import exitcode

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full(monkeypatch):
    """From now on, no file but those named can be written, and no folder of a run be made once `folders` is set."""
    write, mkdir = Path.write_bytes, Path.mkdir

    def fill(*fitting, folders=()):
        def refuse(path, data):
            if path.name not in fitting:
                write(path, data[: len(data) // 2])
                raise FULL
            return write(path, data)

        def no_folder(path, *given, **more):
            if path.name in folders:
                raise FULL
            return mkdir(path, *given, **more)

        monkeypatch.setattr(Path, "write_bytes", refuse)
        monkeypatch.setattr(Path, "mkdir", no_folder)

    return fill


@pytest.mark.parametrize(("lies", "code"), [({}, 0), (WRONG, 1)])
def test_a_verdict_is_told_before_what_could_not_be_kept(host, tcelab, full, lies, code):
    host.lies = lies
    word = "FINDING" if code else "PASS"
    full("program.json")
    done = tcelab("run", "story.json", "--out", "out")
    assert done.code == code
    *_, verdict, last = done.out.splitlines()
    assert verdict.startswith(f"{word} (exit code {code})")
    assert last == (
        f"could not keep tables.npz, result.json, junit.xml in {host.home / 'out'}: No space left on device"
    )
    assert "Traceback" not in done.err
    assert sorted(each.name for each in Path("out").iterdir()) == ["log.txt", "program.json"]  # and no half of a file


def test_a_disk_that_is_full_from_the_start_is_125_in_few_lines_and_nothing_is_booted(host, tcelab, full):
    full()
    done = tcelab("run", "story.json", "--out", "out")
    assert (done.code, done.out, host.chosen) == (125, "", [])
    assert done.err.splitlines()[0].endswith("No space left on device")
    assert "make room" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("number", sorted(keeping.NO_ROOM))
def test_a_disk_that_fills_while_a_guest_is_opened_is_125_with_the_reason(host, tcelab, number):
    host.fails = OSError(number, os.strerror(number), "console.log")
    done = tcelab("run", "story.json", "--out", "out")
    assert done.code == 125
    assert f"cannot write console.log: {os.strerror(number)}" in done.out
    assert "Traceback" not in done.err
    assert "internal error" not in done.out + done.err


def test_an_error_that_is_not_the_disks_is_still_one_of_ours(host, tcelab):
    host.fails = OSError(errno.EBADF, "Bad file descriptor")
    done = tcelab("run", "story.json", "--out", "out")
    assert (done.code, "internal error" in done.out + done.err) == (125, True)


def test_a_folder_that_finds_no_room_is_125_and_one_that_may_not_be_made_is_2(tmp_path, monkeypatch, full):
    full(folders=["out"])
    with pytest.raises(HarnessError, match="No space left"):
        artefacts.folder(tmp_path / "out")


def test_a_series_whose_disk_fills_tells_what_it_had_and_that_the_rest_was_not_run(two, tcelab, full):
    full(*("program.json", "result.json", "junit.xml", "tables.npz", "isolation.log"), folders=["pair"])
    done = tcelab("run", "isolation", *EMULATED, "--out", "out")
    assert done.code == 125
    assert "topologies: one-pe pass, pair not run" in done.out
    assert "No space left on device" in done.err


def test_a_series_that_found_something_before_its_disk_was_full_is_1(two, tcelab, full):
    full("program.json", folders=["pair"])
    done = tcelab("run", "isolation", *EMULATED, "--inject", "flip", "--out", "out")
    assert done.code == 1
    assert "could not keep result.json, junit.xml in" in done.out.splitlines()[-1]


def test_what_fuzz_found_is_told_where_it_cannot_be_saved_and_its_line_is_the_campaigns(
    guests, tcelab, full, monkeypatch
):
    monkeypatch.setattr(campaign, "TRIES", 2)
    full()
    words = ["fuzz", "--kernel", BROKEN, "--topology", "one-pe", "--seed", "1", "--steps", "60"]
    done = tcelab(*words, "--out", "o")
    assert done.code == 1
    assert "FINDING (exit code 1)" in done.out
    (again,) = commands(done.out)
    assert again[0] == "fuzz"
    assert " ".join(again).count("--seed 1 --steps 60") == 1
    assert str(Path(BROKEN).absolute()) in again
    assert done.out.splitlines()[-1].startswith(
        "could not keep finding-1.original.json, finding-1.json, result.json in "
    )


# -- files that are asked for


UNWRITABLE = ("/proc/self/none.json", "x" * 300)


@pytest.mark.parametrize("path", UNWRITABLE)
@pytest.mark.parametrize(
    "words",
    [
        ["run", "story.json", "--json"],
        ["diff", "story.json", "--json"],
        ["leakcheck", "--json", "PATH", "--", "true"],
        ["bench", "boot", "--json"],
        ["table", "dump", "story.json", "-o"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_file_that_cannot_be_written_is_2_before_anything_boots(host, tcelab, words, path):
    there = [path if word == "PATH" else word for word in words]
    done = tcelab(*(there if path in there else [*there, path]))
    assert done.code == 2
    assert "cannot be written" in done.err.splitlines()[0]
    assert (done.out, host.chosen) == ("", [])


def test_a_file_that_can_be_written_is_left_as_it_was_when_the_rest_is_wrong(host, tcelab):
    Path("there.json").write_text("mine")
    for name in ("there.json", "new.json"):
        assert tcelab("run", "none.json", "--json", name).code == 2
    assert Path("there.json").read_text() == "mine"
    assert not Path("new.json").exists()


def test_a_link_to_a_file_that_is_not_there_yet_is_written_through(host, tcelab):
    Path("link.json").symlink_to("target.json")
    assert tcelab("run", "story.json", "--json", "link.json").code == 0
    assert json.loads(Path("target.json").read_bytes())["verdict"]["result"] == "pass"
    Path("bad.json").symlink_to("/proc/self/none.json")
    assert tcelab("run", "story.json", "--json", "bad.json").code == 2


@pytest.mark.parametrize("kind", ["loop", "pipe"])
def test_a_loop_of_links_is_wrong_usage_and_a_pipe_is_not_waited_for(host, tcelab, kind):
    if kind == "loop":
        Path("x.json").symlink_to("x.json")
        assert tcelab("run", "story.json", "--json", "x.json").code == 2
    else:
        os.mkfifo("x.json")
        assert tcelab("run", "none", "--json", "x.json").code == 2


@pytest.mark.parametrize(("lies", "code"), [({}, 125), (WRONG, 1)])
def test_a_result_that_cannot_be_delivered_is_no_pass_and_a_finding_stands(host, tcelab, lies, code):
    host.lies = lies
    done = tcelab("run", "story.json", "--json", "/dev/full")
    assert done.code == code
    assert ("FINDING" if lies else "PASS") in done.out
    assert "cannot write /dev/full: No space left on device" in done.err
    numbers = [line for line in done.out.splitlines() if "(exit code " in line]
    assert f"(exit code {code})" in numbers[-1]  # what was printed last is what is returned


def test_a_figure_that_cannot_be_delivered_is_125(host, tcelab, monkeypatch):
    bench = sys.modules.get("tcelab.cli.bench") or __import__("tcelab.cli.bench", fromlist=["x"])
    figure = bench.Figure("f", "s", [1.0])
    with pytest.raises(bench.click.exceptions.Exit) as ended:
        bench._show(bench.Measured(figures=[figure]), Path("/dev/full"))
    assert exitcode.of_error(ended.value) == 125


# -- standard output


@pytest.fixture(scope="module")
def forks():
    """Of a process that has imported all that these commands import."""
    with warm("tcelab.cli.run", "tcelab.cli.image") as forks:
        yield forks


REAL = ("full_is_125_and_a_finding_stands[finding]", "closed_is_125_and_a_finding_stands[all]", "any_verb[finding]")
"""The cases for which Python itself is started, with its streams as they are."""


@pytest.fixture
def ended(request, tmp_path, forks):
    """What a command ended with, and what it said on standard error."""

    def emulated(*words, stdin=os.devnull, stdout=None, stderr=None):
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
        if not request.node.name.endswith(REAL):
            done = forks.run("tcelab", *words, stdin=stdin, stdout=stdout, stderr=stderr, env=environment)
            return done.returncode, done.stderr or ""
        redirected = [
            f"{number}>&-" if where == CLOSED else f"{number}{'>' if number else '<'} {where}"
            for number, where in enumerate((stdin, stdout, stderr))
            if where not in {None, LEFT}
        ]
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {" ".join(redirected)}', "sh", sys.executable, "-m", "tcelab", *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
            text=True,
        )
        os.close(writer)
        return done.returncode, done.stderr

    return emulated


RUN = ("run", "flow", "--topology", "one-pe", "--platform", "emulator", "--seed", "1")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (RUN, 125),
        ((*RUN, "--json", "-"), 125),
        ((*RUN, "--inject", "flip"), 1),
        (("--help",), 125),
        (("image", "mutants"), 125),
        (("run", "none"), 2),
    ],
    ids=["pass", "json", "finding", "help", "list", "usage"],
)
def test_standard_output_that_is_full_is_125_and_a_finding_stands(ended, words, code):
    returned, said = ended(*words, stdout="/dev/full")
    assert returned == code, said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    if code != 2:
        assert said.splitlines()[-1] == ("tcelab: standard output cannot be written: No space left on device")


@pytest.mark.parametrize(
    ("words", "code", "closed"),
    [
        (RUN, 125, ("stdout",)),
        (RUN, 125, ("stdin", "stdout", "stderr")),
        ((*RUN, "--json", "-"), 125, ("stdin", "stdout")),
        ((*RUN, "--inject", "flip"), 1, ("stdout",)),
        (("--help",), 125, ("stdout",)),
        (("image", "mutants"), 125, ("stdout",)),
        (("run", "none"), 2, ("stdout",)),
    ],
    ids=["pass", "all", "json", "finding", "help", "list", "usage"],
)
def test_standard_output_that_is_closed_is_125_and_a_finding_stands(ended, words, code, closed):
    returned, said = ended(*words, **dict.fromkeys(closed, CLOSED))
    assert returned == code, said
    assert "Traceback" not in said
    if code != 2 and "stderr" not in closed:
        assert said.splitlines()[-1] == "tcelab: standard output cannot be written: Bad file descriptor"


@pytest.mark.parametrize(
    ("words", "code"), [((*RUN, "--inject", "flip"), 1), (("image", "mutants"), 0)], ids=["finding", "list"]
)
def test_a_reader_that_has_left_changes_no_exit_code_of_any_verb(ended, words, code):
    returned, said = ended(*words, stdout=LEFT)
    assert returned == code, said
    assert "Traceback" not in said
    assert "cannot be written" not in said


def test_a_full_standard_error_changes_no_verdict(tmp_path, forks):
    state = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    done = forks.run("tcelab", *RUN, "--json", "-", stderr="/dev/full", env=state)
    assert done.returncode == 0
    assert json.loads(done.stdout)["verdict"]["result"] == "pass"
    assert msgspec.json.decode(done.stdout)
