"""`tcelab run isolation`: all its topologies, each a run of its own, and one result; and `--guard`."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from stand import result
from stand_series import EMULATED, NAMES

from tcelab import report
from tcelab.errors import Unsupported
from tcelab.job import job, platforms
from tcelab.program import load


def run_isolation(tcelab, *words):
    return tcelab("run", "isolation", *EMULATED, "--out", "out", *words)


def test_all_topologies_are_run_and_have_one_result(two, tcelab):
    done = run_isolation(tcelab)
    assert (done.code, done.out.splitlines()[-1]) == (0, f"PASS (exit code 0); artefacts in {Path('out').absolute()}")
    whole = report.load(Path("out/result.json").read_bytes())
    assert (whole.verdict.result, whole.program.topology) == ("pass", "one-pe, pair")
    assert [each.program.topology for each in whole.runs] == list(NAMES)
    assert whole.replay.endswith(" run isolation --seed 3 --platform emulator")
    for name in NAMES:
        own = report.load((Path("out") / name / "result.json").read_bytes())
        assert (own.program.topology, own.program.seed, own.verdict.exit_code) == (name, 3, 0)
        assert own.timeline
        assert load(Path("out") / name / "program.json").topology.name == name
        assert whole.artefacts[name] == f"{name}/result.json"
        log = (Path("out") / name / "isolation.log").read_text().splitlines()
        assert len([line for line in log if "; isolated after " in line]) == sum(row.isolated for row in own.isolations)
        assert own.artefacts["isolations"] == "isolation.log"
        assert "[guest 1] tcelab.run.loop: " in (Path("out") / name / "log.txt").read_text()
    whole_log = Path("out/log.txt").read_text()
    assert whole.artefacts["log"] == "log.txt"
    assert "topology pair: pass" in whole_log
    assert "tcelab.run.loop" not in whole_log
    suites = ET.parse("out/junit.xml").getroot().findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["tcelab isolation on one-pe", "tcelab isolation on pair"]
    assert Path("out").stat().st_mode & 0o777 == 0o700


def test_the_text_ends_with_the_table_of_violations_and_topologies(two, tcelab):
    lines = run_isolation(tcelab).out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("isolated/expected"))
    assert lines[head].split()[1:] == ["one", "pair"]
    rows = [re.split(" {2,}", line) for line in lines[head + 2 : -3]]
    assert ["hole", "2/2 ok", "4/4 ok"] in rows
    assert lines[-3] == "topologies: one-pe pass, pair pass"


def test_one_that_is_named_is_run_alone(two, tcelab):
    done = run_isolation(tcelab, "--topology", "pair")
    assert done.code == 0
    own = report.load(Path("out/result.json").read_bytes())
    assert (own.program.topology, own.runs) == ("pair", [])
    assert not (Path("out") / "pair").exists()
    # The default of other scenarios, named, is one topology as well.
    assert tcelab("run", "isolation", *EMULATED, "--topology", "two-pe", "--out", "two").code == 0
    assert report.load(Path("two/result.json").read_bytes()).program.topology == "two-pe"


def test_a_seed_that_is_drawn_is_that_of_all(two, tcelab):
    assert tcelab("run", "isolation", "--platform", "emulator", "--out", "out").code == 0
    seeds = {result(Path("out") / name)["program"]["seed"] for name in NAMES}
    assert seeds == {result(Path("out"))["program"]["seed"]}


def test_without_a_guard_it_fails_with_1_and_the_right_words(two, tcelab):
    done = run_isolation(tcelab, "--guard", "off")
    assert done.code == 1
    assert "must be isolated by the DMA of operation" in done.out
    assert "topologies: one-pe finding, pair finding" in done.out
    replay = next(line for line in done.out.splitlines() if "replay: " in line)
    assert shlex.split(replay)[-2:] == ["--guard", "off"]
    assert "0/2 BAD" in done.out


def test_the_result_goes_to_stdout_when_asked_for(two, tcelab):
    done = run_isolation(tcelab, "--json", "-")
    assert json.loads(done.out)["verdict"]["exit_code"] == done.code == 0
    assert "PASS (exit code 0)" in done.err


@pytest.mark.parametrize(("guard", "code"), [("freeze", 125), ("off", 1)])
def test_one_that_cannot_be_run_makes_it_125_unless_there_is_a_finding(two, tcelab, monkeypatch, guard, code):
    prepare = platforms.prepare

    def prepared(name, choice, *arguments, **more):
        if choice.topology.name == "pair":
            raise Unsupported("this QEMU cannot do that")
        return prepare(name, choice, *arguments, **more)

    monkeypatch.setattr(job.platforms, "prepare", prepared)
    done = run_isolation(tcelab, "--guard", guard)
    assert done.code == code
    assert f"(exit code {code})" in done.out.splitlines()[-1]
    assert result(Path("out"))["verdict"]["could_not"] == ["pair: this QEMU cannot do that"]
    assert "this QEMU cannot do that" in done.out


def test_an_interrupt_ends_all_and_what_was_not_run_is_said(two, tcelab, monkeypatch):
    perform = job.ParallelRun.run

    def interrupted(self):
        perform(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(job.ParallelRun, "run", interrupted)
    done = run_isolation(tcelab)
    assert done.code == 125
    assert "pair: it was not run" in result(Path("out"))["verdict"]["could_not"]
    assert not (Path("out") / "pair").exists()
    assert "topologies: one-pe could-not-judge, pair not run" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guard", "maybe"], "'maybe' is not one of"),
        (["--topology", "none"], "'none' is not one of"),
        (["--qemu", "qemu-10.0"], "the emulator runs no kernel: --qemu"),
        (["--out", "."], "is not empty"),
    ],
)
def test_wrong_usage_is_2(two, tcelab, words, message):
    done = tcelab("run", "isolation", *EMULATED, *words)
    assert done.code == 2
    assert message in done.err


def test_a_console_is_that_of_one_guest(two, tcelab, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    done = tcelab("run", "isolation", "--keep")
    assert done.code == 2
    assert "--topology one-pe" in done.err


# -- who guards what


def chosen(host):
    return [(choice.isolates, choice.guard) for choice in host.chosen]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "story.json"], (False, "off")),
        (["run", "story.json", "--guard", "observe"], (False, "observe")),
        (["run", "story.json", "--guard", "freeze"], (True, "freeze")),
        (["replay", "story.json", "--guard", "off"], (False, "off")),
        (["run", "about.json"], (True, "freeze")),
        (["run", "about.json", "--guard", "off"], (True, "off")),
        (["run", "about.json", "--guard", "observe"], (True, "observe")),
        (["diff", "about.json"], (True, "freeze")),
    ],
    ids=str,
)
def test_a_program_about_isolation_is_guarded_and_another_one_if_that_is_asked_for(host, tcelab, words, expected):
    about = json.loads(Path("story.json").read_bytes()) | {"isolation": True}
    Path("about.json").write_text(json.dumps(about))
    tcelab(*words, "--out", "out")
    assert chosen(host) == [expected]
    assert load(Path("out/program.json")).isolation == expected[0]
