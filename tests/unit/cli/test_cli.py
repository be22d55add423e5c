"""The command line: its exit codes are the verdict's, its words are usable, and nothing it was given is lost."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import basetoy
import msgspec
import pytest
from click.testing import CliRunner
from fake_guest import abilities
from stand import WRONG, StandForks, raising, result
from story import story

import tcelab as tcelab_package
from tcelab import cli, image, program, scenarios
from tcelab.cli import doctor
from tcelab.errors import GuestLost, HarnessError, Scene, TcelabError, Unsupported, UsageError
from tcelab.image import bases, cures, known, mutants
from tcelab.job import setup
from tcelab.program import inject, load
from tcelab.qemu import fork, ram
from tcelab.qemu.probe import TRACES, Abilities

_LOG = logging.getLogger("tcelab.stand")
REAL_FORKS = fork.Forks
VERB = importlib.import_module("tcelab.cli.run")


# -- run: the verdict and its exit code


def test_an_honest_guest_passes_with_0(host, tcelab):
    done = tcelab("run", "story.json", "--out", "out")
    assert (done.code, "PASS (exit code 0)" in done.out) == (0, True)
    assert result(Path("out"))["verdict"]["result"] == "pass"
    assert {"result.json", "junit.xml", "program.json"} <= {each.name for each in Path("out").iterdir()}
    assert stat.S_IMODE(Path("out").stat().st_mode) == 0o700
    assert load(Path("out/program.json")) == story()
    assert host.made[0].digest == "digest"


def test_a_finding_is_1(host, tcelab):
    host.lies = WRONG
    done = tcelab("run", "story.json", "--out", "out")
    assert done.code == 1
    assert "finding 1" in done.out
    assert result(Path("out"))["verdict"]["exit_code"] == 1


def test_a_lie_that_was_injected_is_found(host, tcelab):
    done = tcelab("run", "story.json", "--inject", "flip", "--out", "out")
    assert done.code == 1
    assert load(Path("out/program.json")) == inject.flip(story())


def test_a_view_that_is_missing_is_125(host, tcelab):
    host.lies = {"cannot": {"stream": "no"}}
    assert tcelab("run", "story.json").code == 125


@pytest.mark.parametrize(("died", "code"), [(True, 1), (False, 125)])
def test_a_lost_guest_is_a_finding_only_if_its_kernel_died(host, tcelab, died, code):
    host.lies = {"tamper": raising(GuestLost("gone", kernel_died=died))}
    done = tcelab("run", "story.json", "--out", "out")
    assert done.code == code
    assert result(Path("out"))["ended"]["report"][:2] == ["tcelab: gone", "  phase:     perform, after 1.5 s"]


@pytest.mark.parametrize("error", [GuestLost("no agent"), HarnessError("no QEMU"), Unsupported("no room")])
def test_a_guest_that_never_came_up_is_125_with_a_result(host, tcelab, error):
    host.fails = error
    done = tcelab("run", "story.json", "--out", "out")
    assert done.code == 125
    assert result(Path("out"))["verdict"]["could_not"] == [error.message]
    assert result(Path("out"))["versions"]["provenance"] == {"kernel": "/k"}
    assert f"  artefacts: {host.home / 'out'}" in result(Path("out"))["ended"]["report"]
    assert error.message in done.out


def test_an_internal_error_is_125_with_a_traceback_and_a_result(host, tcelab):
    host.lies = {"tamper": raising(ZeroDivisionError("by nothing"))}
    done = tcelab("run", "story.json", "--out", "out")
    assert done.code == 125
    assert "Traceback" in done.err
    assert "please report it" in done.out + done.err
    assert result(Path("out"))["verdict"]["exit_code"] == 125
    assert "ZeroDivisionError" in result(Path("out"))["verdict"]["could_not"][0]


@pytest.mark.parametrize("where", ["boot", "run"])
def test_an_interrupt_is_125_with_a_result(host, tcelab, where):
    if where == "boot":
        host.fails = KeyboardInterrupt()
    else:
        host.lies = {"tamper": raising(KeyboardInterrupt())}
    assert tcelab("run", "story.json", "--out", "out").code == 125
    assert "interrupted" in " ".join(result(Path("out"))["ended"]["report"])


def test_an_interrupt_before_anything_ran_is_said(tcelab, monkeypatch, host):
    monkeypatch.setattr(VERB, "program_of", raising(KeyboardInterrupt()))
    done = tcelab("run")
    assert (done.code, done.err.strip()) == (125, "tcelab: interrupted")


def test_an_interrupt_while_a_failure_is_written_down_is_said(host, tcelab, monkeypatch):
    host.fails = HarnessError("no QEMU")
    monkeypatch.setattr(VERB.report, "failed", raising(KeyboardInterrupt()))
    done = tcelab("run", "story.json")
    assert (done.code, done.err.strip().splitlines()[-1]) == (125, "tcelab: interrupted")
    assert "Traceback" not in done.err


def test_an_interrupt_while_all_is_put_away_changes_no_verdict(host, tcelab):
    host.__exit__ = raising(KeyboardInterrupt())
    assert tcelab("run", "story.json").code == 0


def test_a_time_limit_of_ci_is_an_interrupt(host, tcelab):
    tcelab("--version")
    assert callable(signal.getsignal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


# -- run: wrong usage


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "none"], "no scenario 'none'; there are: main"),
        (["run", "none.json"], "cannot read none.json"),
        (["replay", "none.json"], "cannot read none.json"),
        (["run", "--limit", "lunch=3"], "no phase 'lunch'"),
        (["run", "--keep"], "--keep needs a terminal"),
        (["run", "--json", "no/such/folder.json"], "there is no folder"),
        (["run", "--json", "."], "--json .: that is a folder"),
        (["bench", "boot", "--json", "no/such/folder.json"], "--json no/such/folder.json: there is no folder"),
        (["bench", "batch", "--json", "no/such/folder.json"], "--json no/such/folder.json: there is no folder"),
        (["bench", "batch", "--plot", "no/such/folder.svg"], "--plot no/such/folder.svg: there is no folder"),
        (["bench", "batch", "--plot", "picture.pdf"], "--plot picture.pdf: a picture ends with .svg or .png"),
        (["bench", "batch", "--sizes", "1..x"], "--sizes 1..x: sizes are pages, as in 1..32 or 1,2,4"),
        (["bench", "batch", "--sizes", "0..4"], "--sizes 0..4: sizes are pages"),
        (["bench", "batch", "--sizes", "4..1"], "--sizes 4..1: sizes are pages"),
        (["bench", "batch", "--sizes", "1,2049"], "batches of 2049 pages: 128 of them must fit the window, so 2048"),
        (["bench", "table", "--limit", "lunch=3"], "no phase 'lunch'"),
        (["run", "story.json", "--out", "."], "is not empty"),
        (["shell"], "tcelab shell needs a terminal"),
        (["image", "clean", "other"], "no recipe 'other'; there are:"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong_first(host, tcelab, words, said, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    done = tcelab(*words)
    assert done.code == 2
    assert said in done.err.splitlines()[0]
    assert "Traceback" not in done.err
    assert done.out == ""
    assert host.chosen == []


@pytest.mark.parametrize(
    ("words", "step"),
    [
        (["run", "flwo"], "did you mean flow?"),
        (["run", "none.json"], "give the program.json of a run, or the run's folder"),
        (["replay", "none.json"], "give the program.json of a run, or the run's folder"),
        (["replay", "cut.json"], "the file is damaged or cut short"),
        (["rum"], "No such command 'rum': did you mean run?"),
    ],
)
def test_wrong_usage_that_can_be_guessed_says_what_to_do_next(host, tcelab, words, step):
    Path("cut.json").write_bytes(story().to_json()[:99])
    done = tcelab(*words)
    assert done.code == 2
    assert step in done.err.splitlines()[-1]


@pytest.mark.parametrize("verb", ["run", "replay", "watch", "diff"])
@pytest.mark.parametrize("option", ["seed", "topology_name"])
def test_options_of_a_scenario_say_so(verb, option):
    (found,) = [each for each in cli.cli.get_command(None, verb).params if each.name == option]
    assert "Wrong with a saved program, which has its own" in found.help
    assert not found.show_default


def test_the_topologies_that_run_takes_by_default_are_told():
    (found,) = [each for each in cli.cli.get_command(None, "run").params if each.name == "topology_name"]
    told = found.help.partition("By default two-pe; ")[2].rstrip(".")
    for names, topologies in (each.split(": ") for each in told.split("; ")):
        for name in names.split(", "):
            assert scenarios.SCENARIOS[name].topologies == tuple(topologies.removesuffix(" in turn").split(", "))
    assert [name for name, each in scenarios.SCENARIOS.items() if each.topologies and name not in told] == []


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--no-such"],
        ["jump"],
        ["run", "--seed", "-1"],
        ["run", "--inject", "x"],
        ["bench", "table", "--repeat", "0"],
    ],
)
def test_what_click_refuses_is_2_as_well(host, tcelab, words):
    done = tcelab(*words)
    assert done.code == 2
    assert "Error" in done.err
    assert host.chosen == []


def test_a_program_that_is_not_whole_is_refused_before_anything_is_prepared(host, tcelab):
    broken = json.loads(story().to_json())
    broken["ops"].append({"op": "close", "file": "never opened"})
    Path("broken.json").write_text(json.dumps(broken))
    done = tcelab("run", "broken.json", "--out", "out")
    assert done.code == 2
    assert "no file 'never opened'" in done.err
    assert host.chosen == []
    assert not Path("out").exists()


def test_a_choice_that_cannot_be_is_wrong_usage_also_when_prepare_finds_it(host, tcelab, monkeypatch):
    monkeypatch.setattr(setup, "prepare", raising(UsageError("no initrd x")))
    done = tcelab("run", "story.json")
    assert (done.code, done.err.splitlines()[-1]) == (2, "tcelab: no initrd x")


def test_a_folder_named_without_json_is_a_program_when_it_has_a_slash(host, tcelab):
    Path("sub").mkdir()
    Path("sub/program").write_bytes(story().to_json())
    assert tcelab("run", "sub/program").code == 0


# -- run: what it writes


def test_json_on_standard_output_is_alone_there(host, tcelab):
    done = tcelab("run", "story.json", "--json", "-", "--out", "out")
    assert json.loads(done.out) == result(Path("out"))
    assert "PASS (exit code 0)" in done.err


def test_json_in_a_file_is_the_result(host, tcelab):
    host.lies = WRONG
    done = tcelab("run", "story.json", "--json", "mine.json", "--out", "out")
    assert (done.code, "FINDING" in done.out) == (1, True)
    assert Path("mine.json").read_bytes() == Path("out/result.json").read_bytes()


@pytest.mark.parametrize("more", [[], ["--json", "-"]], ids=["text", "json"])
def test_a_reader_that_leaves_changes_no_exit_code(host, more):
    script = (
        "import pytest, stand; from tcelab import cli; patch = pytest.MonkeyPatch()\n"
        "patch.setattr(stand.fork, 'Forks', stand.StandForks)\n"
        "options = stand.setup.machine.QemuOptions('/k', '/i', stand.story().topology)\n"
        "patch.setattr(stand.setup, 'prepare', lambda *_: stand.setup.PreparedMachine(None, options, '', {}))\n"
        "cli.main()"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "story.json", *more],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    os.close(writer)
    # Not 1: that is how rich ends a program whose reader left.
    assert done.returncode == 0, done.stderr.decode()
    assert b"BrokenPipe" not in done.stderr
    assert len(list(host.runs.glob("*/junit.xml"))) == 1


def test_one_seed_makes_one_program(host, tcelab):
    for out, seed in (("one", 7), ("two", 7), ("three", 8)):
        assert tcelab("run", "flow", "--topology", "one-pe", "--seed", seed, "--out", out).code == 0
    one, two, three = (Path(out, "program.json").read_bytes() for out in ("one", "two", "three"))
    assert one == two != three
    assert json.loads(one)["seed"] == 7


def test_a_seed_that_is_drawn_is_told(host, tcelab, monkeypatch):
    monkeypatch.setattr(VERB.secrets, "randbelow", lambda most: most - 5)
    tcelab("run", "flow", "--topology", "one-pe", "--out", "out")
    assert result(Path("out"))["program"]["seed"] == (1 << 32) - 5


def test_a_program_brings_its_own_topology(host, tcelab):
    tcelab("run", "story.json", "--memory", "768", "--limit", "boot=7")
    assert host.chosen[0].topology == story().topology
    assert host.chosen[0].memory == 768
    assert host.made[0].limits.boot == 7.0


@pytest.mark.parametrize(
    ("option", "value"), [("--topology", "one-pe"), ("--topology", "two-pe"), ("--seed", "7")], ids=str
)
@pytest.mark.parametrize("verb", [["run"], ["replay"], ["diff"], ["watch"], ["table", "dump"]], ids=" ".join)
def test_an_option_that_a_program_ignores_is_wrong_usage(host, tcelab, verb, option, value):
    done = tcelab(*verb, "story.json", option, value)
    assert done.code == 2
    assert f"{option} is about a scenario, and story.json is a program" in done.err.splitlines()[0]
    assert host.chosen == []


@pytest.mark.parametrize("verb", ["run", "replay", "diff"])
@pytest.mark.parametrize("name", ["out", "./out"])
def test_the_folder_of_a_run_is_its_program(host, tcelab, verb, name):
    assert tcelab("run", "story.json", "--out", "out").code == 0
    done = tcelab(verb, name, "--out", "again")
    assert done.code == 0, done.err
    assert load(Path("again/program.json")) == story()


def test_a_folder_with_several_programs_names_them(host, tcelab):
    for name in ("one-pe", "pair"):
        Path("out", name).mkdir(parents=True)
        Path("out", name, "program.json").write_bytes(story().to_json())
    Path("out/finding-1.json").write_bytes(story().to_json())
    done = tcelab("run", "out")
    assert (done.code, host.chosen) == (2, [])
    assert done.err.splitlines() == [
        "tcelab: out is no folder of one run: it has no program.json",
        "  next step: name one of those in it: finding-1.json, one-pe/program.json, pair/program.json",
    ]


def test_a_folder_that_is_called_as_a_scenario_is_not_taken_for_it(host, tcelab):
    Path("flow").mkdir()
    assert tcelab("run", "flow", "--topology", "one-pe", "--seed", "1").code == 0


@pytest.mark.parametrize(
    ("word", "hint"), [("ENXYO", "; ENXIO is one"), ("OK", ""), ("fine", ""), ("errno", ""), ("5", "")], ids=str
)
def test_what_no_operation_can_give_is_not_to_be_expected(host, tcelab, word, hint):
    wrong = json.loads(story().to_json())
    wrong["ops"][3]["expect"] = word
    Path("wrong.json").write_text(json.dumps(wrong))
    done = tcelab("run", "wrong.json")
    assert (done.code, host.chosen) == (2, [])
    assert f"wrong.json, operation 3: expect {word!r} is neither" in done.err.splitlines()[0]
    assert done.err.splitlines()[0].endswith(f"errno's name{hint}")


@pytest.mark.parametrize("word", ["ok", "ENXIO", "EDEADLOCK", "errno 524", 5, None])
def test_what_an_operation_can_give_may_be_expected(host, tcelab, word):
    wrong = json.loads(story().to_json())
    wrong["ops"][3]["expect"] = word
    assert program.from_json(json.dumps(wrong).encode(), "it").ops[3].expect == word


def replayed(host, tcelab, *words):
    """Words of the replay command that a finding tells."""
    host.lies = WRONG
    done = tcelab("run", "story.json", "--out", "my out", *words)
    (line, *_) = [line for line in done.out.splitlines() if "replay:" in line]
    return shlex.split(line.partition("replay:")[2])


def test_a_replay_names_the_program_and_nothing_that_is_usual(host, tcelab):
    assert replayed(host, tcelab) == ["tcelab", "run", str(host.home / "my out" / "program.json")]


def test_a_replay_has_every_option_that_matters_quoted_for_a_shell(host, tcelab):
    words = {
        "--qemu": "qemu-10.0",
        "--image": "guest-64k",
        "--kernel": "a b/vmlinux",
        "--modules": "a b/lib/modules",
        "--initrd": "i",
        "--mutant": "lost-write",
        "--append": "debug x='1'",
        "--memory": "256",
        "--firmware": "slof",
        "--limit": "boot=9",
    }
    given = [word for pair in words.items() for word in pair]
    got = replayed(host, tcelab, *given, "--limit", "close=2")
    assert got[:3] == ["tcelab", "run", str(host.home / "my out" / "program.json")]
    absolute = {"a b/vmlinux", "a b/lib/modules", "i"}
    told = [str(host.home / word) if word in absolute else word for word in given]
    assert got[3:] == [*told, "--limit", "close=2"]


def test_a_guest_that_was_booted_for_the_run_is_booted_for_its_replay(host, tcelab):
    replay = replayed(host, tcelab, "--boot", "--limit", "boot=9")
    assert replay[3:] == ["--boot", "--limit", "boot=9"]
    assert result(Path("my out"))["options"]["boot"] is True


@pytest.mark.parametrize("words", [[], ["--boot"]])
def test_a_guest_is_a_fork_unless_a_boot_is_asked_for(host, tcelab, words):
    assert tcelab("run", "story.json", "--limit", "fork=7", *words).code == 0
    (given,) = host.forks.given
    assert given.boot is bool(words)
    assert (given.limits.fork, given.digest) == (7.0, "digest")


@pytest.mark.parametrize("fails", [None, HarnessError("no QEMU")])
def test_the_guest_ends_before_what_it_came_from_is_let_go(host, tcelab, fails):
    host.fails = fails
    tcelab("run", "story.json")
    assert host.forks.closed == [0]


def test_why_there_are_no_forks_is_told(host, tcelab):
    done = tcelab("run", "story.json")
    assert "no forks, each guest is booted: it is a stand" in done.out + done.err


def test_the_version_is_told():
    assert CliRunner().invoke(cli.cli, ["--version"]).output == f"tcelab, version {tcelab_package.__version__}\n"


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("table dump", ("--platform", "--profile", "--qemu", "--limit", "--boot", "--liobn", "--after", "--seed")),
        ("image build", ("--archive", "--missing")),
        ("image clean", ("--bases",)),
        ("diff", ("--qemu", "--limit", "--against-qemu", "--against-modules", "--json")),
        ("run", ("--qemu", "--platform", "--json", "--keep", "--guard")),
        ("fuzz", ("--qemu", "--steps", "--minutes", "--limit")),
        ("leakcheck", ("--qemu", "--json", "--limit")),
        ("watch", ("--qemu", "--limit", "--guard")),
        ("runs prune", ("--count", "--size", "--findings")),
    ],
)
def test_a_command_has_its_own_options_and_those_of_its_kind(tcelab, verb, options):
    said = tcelab(*verb.split(), "--help").out.split()
    assert [each for each in options if each not in said] == []


def test_the_stand_has_the_shape_of_the_forks():
    for name in ("__init__", "open", "close"):
        stand, real = (inspect.signature(getattr(each, name)).parameters for each in (StandForks, REAL_FORKS))
        assert [(each.name, each.kind) for each in stand.values()] == [(each.name, each.kind) for each in real.values()]


def test_the_replay_of_an_injected_lie_is_its_program_alone(host, tcelab):
    assert "--inject" not in replayed(host, tcelab, "--inject", "flip")


def test_the_result_tells_options_timings_and_files(host, tcelab):
    tcelab("run", "story.json", "--out", "out", "--limit", "boot=9")
    told = result(Path("out"))
    assert told["options"]["target"] == "story.json"
    assert told["options"]["limits"] == ["boot=9"]
    assert set(told["timings"]) == {"provision", "start", "run"}
    files = {"program": "program.json", "log": "log.txt", "junit": "junit.xml", "tables": "tables.npz"}
    assert told["artefacts"] == files
    assert told["versions"]["provenance"] == {"kernel": "/k"}


# -- errors, as they are told


def test_an_error_tells_all_that_is_known_in_a_fixed_order():
    scene = Scene("boot", 12.34, ["line one", "line two"], Path("/runs/7"))
    error = HarnessError("it failed", next_step="do that", scene=scene)
    assert error.report().splitlines() == [
        "tcelab: it failed",
        "  phase:     boot, after 12.3 s",
        "  console:   line one",
        "  console:   line two",
        "  artefacts: /runs/7",
        "  next step: do that",
    ]


def test_an_error_tells_nothing_that_is_not_known():
    assert TcelabError("it failed").report() == "tcelab: it failed"
    assert HarnessError("x", scene=Scene("boot")).report().splitlines()[1] == "  phase:     boot"


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError, 2), (Unsupported, 125), (HarnessError, 125), (GuestLost, 125), (TcelabError, 125)],
)
def test_an_error_outside_of_a_run_ends_with_its_own_code_and_report(tcelab, monkeypatch, error, code):
    monkeypatch.setattr(image, "build", raising(error("no luck", next_step="try again")))
    done = tcelab("image", "build", "guest")
    assert (done.code, done.err) == (code, "tcelab: no luck\n  next step: try again\n")


def test_a_defect_outside_of_a_run_is_125_and_never_a_finding(tcelab, monkeypatch):
    monkeypatch.setattr(image, "build", raising(KeyError("x")))
    done = tcelab("image", "build", "guest")
    assert done.code == 125
    assert done.err.endswith("tcelab: internal error, please report it\n")
    assert "Traceback" in done.err


def test_help_and_version_are_0(tcelab):
    done = tcelab("--help")
    assert done.code == 0
    assert [verb for verb in cli.VERBS if verb not in done.out] == []
    assert tcelab("--version").code == 0


# -- image


def statuses(monkeypatch, **states):
    asked = []
    made = SimpleNamespace(packages=[1, 2], date="2026-07-05")

    def status(name, *, full):
        asked.append((name, full))
        state = states[name]
        return SimpleNamespace(
            state=state,
            size=3_000_000 if state != "absent" else 0,
            manifest=made if state == "ok" else None,
            problems=["vmlinux: another hash"] if state == "damaged" else [],
        )

    monkeypatch.setattr(image, "status", status)
    monkeypatch.setattr(image, "recipe_names", lambda: list(states))
    monkeypatch.setattr(image, "on_request", lambda name: name == "kernel")
    return asked


def test_a_list_without_damage_is_0(tcelab, monkeypatch):
    asked = statuses(monkeypatch, guest="ok", other="absent", old="outdated")
    done = tcelab("image", "list")
    assert done.code == 0
    assert "2 packages, built 2026-07-05" in done.out
    assert asked == [("guest", True), ("other", True), ("old", True)]


def test_a_damaged_image_is_1_with_what_to_do(tcelab, monkeypatch):
    asked = statuses(monkeypatch, guest="damaged", other="ok")
    done = tcelab("image", "list", "--quick")
    assert done.code == 1
    assert "vmlinux: another hash" in done.out
    assert "tcelab image build" in done.err
    assert asked == [("guest", False), ("other", False)]


def test_only_what_is_missing_is_built_when_asked_so(tcelab, monkeypatch):
    statuses(monkeypatch, guest="ok", other="absent", bad="damaged")
    built = []
    monkeypatch.setattr(image, "build", lambda name, *, newest: built.append(f"{name} newest" if newest else name))
    tcelab("image", "build", "--missing")
    assert built == ["other", "bad"]
    tcelab("image", "build")
    assert built[2:] == ["guest", "other", "bad"]
    tcelab("image", "build", "guest", "--newest")
    assert built[5:] == ["guest newest"]
    assert tcelab("image", "build", "--newest", "--missing").code == 2


def test_a_kernel_is_built_only_when_it_is_named(tcelab, monkeypatch):
    statuses(monkeypatch, guest="ok", kernel="absent")
    built = []
    monkeypatch.setattr(image, "build", lambda name, *, newest: built.append((name, newest)))
    tcelab("image", "build")
    tcelab("image", "build", "--missing")
    assert built == [("guest", False)]
    tcelab("image", "build", "kernel")
    assert built == [("guest", False), ("kernel", False)]


def test_a_replay_has_the_cures_and_several_may_be_given_at_once(host, tcelab):
    given = ["--cure", "pin-for-write,window-not-at-zero", "--cure", "rollback-loses-entries"]
    assert replayed(host, tcelab, *given)[3:] == [
        *("--cure", "pin-for-write", "--cure", "window-not-at-zero", "--cure", "rollback-loses-entries"),
    ]


def test_the_cures_are_listed_with_where_they_are_built(tcelab):
    lines = tcelab("image", "cures").out.splitlines()
    known = cures.known()
    assert [line.split()[0] for line in lines] == [cure.quirk for cure in known.cure]
    for line, cure in zip(lines, known.cure, strict=True):
        assert ("vfio_iommu_spapr_tce: " in line) is known.of_module(cure)
        assert line.endswith(cure.fix)


def test_the_mutants_are_listed_with_what_they_break(tcelab):
    lines = tcelab("image", "mutants").out.splitlines()
    assert lines[0].split()[:2] == ["clean", "vfio_iommu_spapr_tce"]
    assert [line.split(maxsplit=1) for line in lines[1:]] == [
        [each.name, each.breaks] for each in (*mutants.known().fault, *mutants.known_of_kernel().fault)
    ]


def test_cleaning_tells_what_it_freed(tcelab, monkeypatch):
    statuses(monkeypatch, guest="ok")
    monkeypatch.setattr(image, "clean", lambda names: 5_000_000 * (1 + len(names)))
    assert tcelab("image", "clean").out == "5 MB freed\n"
    assert tcelab("image", "clean", "guest").out == "10 MB freed\n"


@pytest.fixture
def guests(monkeypatch, tmp_path):
    """A cache with a base, one that was written to, and one that is refused."""
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))
    for key in ("a" * 16, "b" * 16):
        basetoy.store(key)
    (tmp_path / "cache/bases" / ("b" * 16) / "ram").chmod(0o600)
    bases.refuse("c" * 16, "a fork of this guest does not work: no agent")
    statuses(monkeypatch, guest="ok")
    return tmp_path / "cache/bases"


def test_a_list_has_the_guests_that_are_kept_and_a_damaged_one_is_1(tcelab, guests):
    done = tcelab("image", "list")
    told = {line[:16]: line for line in done.out.splitlines() if line[:1] in "abc"}
    assert done.code == 1
    assert told["a" * 16].split()[1] == "ok"
    assert "6.12 64K, built 2030-01-02T03:04:05+00:00" in told["a" * 16]
    assert told["b" * 16].split()[1] == "damaged"
    assert "ram has mode 0600, not 0400" in done.out
    assert "a fork of this guest does not work: no agent" in told["c" * 16]
    assert "tcelab image clean --bases" in done.err


def test_a_guest_that_is_refused_is_no_damage(tcelab, guests):
    (guests / ("b" * 16) / "ram").chmod(0o400)
    assert tcelab("image", "list").code == 0


def test_guests_are_cleaned_alone_or_with_all_else_and_not_with_one_image(tcelab, guests, monkeypatch):
    cleaned = []
    monkeypatch.setattr(image, "clean", lambda names: cleaned.append(names) or 0)
    assert tcelab("image", "clean", "guest").code == 0
    assert len(list(guests.iterdir())) == 3
    assert tcelab("image", "clean", "--bases").out.endswith(" MB freed\n")
    assert (cleaned, list(guests.iterdir())) == ([("guest",)], [])
    basetoy.store("d" * 16)
    assert tcelab("image", "clean").code == 0
    assert list(guests.iterdir()) == []
    for module, name, size in ((image, "clean", 1), (bases, "clean", 2), (known, "forget", 4)):
        monkeypatch.setattr(module, name, lambda *_, size=size: size * 10**6)
    assert tcelab("image", "clean").out == "7 MB freed\n"


# -- doctor


@pytest.fixture
def healthy(monkeypatch, tmp_path):
    """A host on which the main job can run."""
    found = doctor.archive.Archive("http://archive.example/debian", "", (tmp_path,), "the host's apt")
    monkeypatch.setattr(doctor.archive, "find", lambda: found)
    statuses(monkeypatch, **{"guest": "ok", setup.DEFAULT_QEMU: "ok", "guest-64k": "absent"})
    monkeypatch.setattr(image, "cache_dir", lambda: tmp_path)
    build = SimpleNamespace(name="q", argv=("q",), environment={})
    monkeypatch.setattr(image, "ensure_qemu", lambda *_: build)
    monkeypatch.setattr(doctor.probe, "probe", lambda _: abilities())
    monkeypatch.setattr(doctor.shutil, "which", lambda program: f"/bin/{program}")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 40))
    monkeypatch.setattr(doctor.ram, "available", lambda: 1 << 40)
    monkeypatch.setattr(doctor, "_KEYRING", tmp_path)


def lines(done):
    """What doctor said of each thing: its state."""
    return {line[4:18].strip(): line[:2].strip() for line in done.out.splitlines() if line[:2].strip()}


def test_a_host_that_can_do_the_main_job_is_0(tcelab, healthy):
    done = tcelab("doctor")
    assert done.code == 0
    told = lines(done)
    assert {"python", "setpriv", "apt-get", "dpkg-deb", "gpgv", "keyring", "memory", "cache", "live view"} <= set(told)
    assert set(told.values()) == {"ok", "-"}
    assert told["guest-64k"] == "-"
    assert "ok  archive        http://archive.example/debian, by the host's apt\n" in done.out
    assert re.search(r"fix: \S*tcelab image build guest-64k", done.out)
    (told,) = [line for line in done.out.splitlines() if "  qemu  " in line]
    assert told == (
        "ok  qemu           9.9.9: forks, VOF, both firmware files, edu, every CPU of --cpu, live tables,"
        " the state stream, refused accesses told in full, ends with its parent; without virtio-blk, memory to plug in,"
        " iommu-testdev, vfio-user-pci, versioned machine types, save and load"
    )
    assert done.out.count("fix:") == 1


@pytest.mark.parametrize(
    "lost",
    [
        {"private_ram": False},
        {"traces": TRACES[1:]},
        {"log_flags": ("guest_errors",)},
        {"firmware_sha256": {"slof.bin": ""}},
    ],
)
def test_what_a_qemu_cannot_do_is_told_in_words(lost):
    (name,) = lost
    whole = {
        "virtio_blk": True,
        "dimm": True,
        "testdev": True,
        "vfio_user": True,
        "machines": ("pseries-10.0",),
        "mapped_ram": True,
    }
    told = doctor.abilities(abilities(**whole, **lost))
    assert told.partition("; without ")[2] == doctor._ABILITIES[name]
    assert "without" not in doctor.abilities(abilities(**whole))


def test_all_that_is_asked_of_a_qemu_has_a_word():
    assert {*doctor._ABILITIES, "version"} == {each.name for each in msgspec.structs.fields(Abilities)}


@pytest.mark.parametrize(
    ("change", "what", "fix"),
    [
        (("shutil", "which", lambda name: None if name == "setpriv" else name), "setpriv", "util-linux"),
        (("ram", "available", lambda: 640 * ram.MIB - 1), "memory", "--memory 256"),
        (("probe", "probe", raising(HarnessError("does not answer", next_step="by hand"))), "qemu", "by hand"),
        (("os", "open", raising(PermissionError(1, "Not permitted"))), "live view", "ptrace_scope"),
    ],
)
def test_what_is_in_the_way_of_the_main_job_is_1_with_the_fix(tcelab, healthy, change, what, fix):
    module, name, value = change
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(getattr(doctor, module), name, value)
        done = tcelab("doctor")
    assert done.code == 1
    assert {thing for thing, state in lines(done).items() if state == "no"} == {what}
    assert fix in " ".join(line for line in done.out.splitlines() if "fix:" in line)


def test_a_missing_keyring_is_in_the_way(tcelab, healthy, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_KEYRING", tmp_path / "none")
    done = tcelab("doctor")
    assert (done.code, lines(done)["keyring"]) == (1, "no")


def test_memory_that_just_suffices_does(tcelab, healthy, monkeypatch):
    monkeypatch.setattr(doctor.ram, "available", lambda: 640 * ram.MIB)
    assert lines(tcelab("doctor"))["memory"] == "ok"


def test_little_disk_and_what_is_not_built_yet_are_only_worth_knowing(tcelab, healthy, monkeypatch):
    statuses(monkeypatch, **{"guest": "absent", setup.DEFAULT_QEMU: "absent"})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    done = tcelab("doctor")
    told = lines(done)
    assert done.code == 0
    assert (told["cache"], told["guest"], told["qemu"]) == ("-", "-", "-")
    assert done.out.count("not built, the first run builds it") == 2
