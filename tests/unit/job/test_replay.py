"""Every replay line replays: what is printed is run, from another folder, and must find the same again."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import msgspec
import pytest
from broken_guests import BROKEN, commands
from stand_leakcheck import LEAK

from tcelab import cli, commandline
from tcelab.errors import UsageError
from tcelab.fuzz import campaign
from tcelab.job import platforms, replayline, setup
from tcelab.program import Ioctl, Program, inject
from tcelab.program.topology import topology
from tcelab.qemu.limits import Limits
from tcelab.quirks import MISALIGNED, ONE_PAGE
from tcelab.scenarios import proof
from tcelab.scenarios import vocabulary as b
from tcelab.ssh.choice import SshChoice


def findings(folder):
    """What was found, without what no two guests have in common."""
    found = json.loads((folder / "result.json").read_bytes())["verdict"]["findings"]
    return [(each["law"], each["step"], each.get("expected"), each.get("seen"), each.get("quirk")) for each in found]


@pytest.fixture
def again(tcelab, monkeypatch, tmp_path):
    """Run the only replay line of a text from another folder; what it finds, and its exit code."""

    def run(text, verb="run"):
        (words,) = commands(text)
        assert words[0] == verb
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        done = tcelab(*words, "--out", "again")
        return SimpleNamespace(code=done.code, found=findings(elsewhere / "again"), words=words)

    return run


def misaligned():
    """A program that shows the defect."""
    where = topology("two-small")
    pe = b.pes(where, "buffer")[0]
    ops = [*b.buffer("buffer", 1, 1), *b.bind(pe), *b.open_container(pe), *b.enable(pe)]
    ops += [
        Ioctl(file=pe.container, request="UNMAP_DMA", fields={"flags": 0, "iova": pe.start + 1, "size": 4096}),
        *b.checkpoint("after it", stream=True),
        *proof.ops(where),
    ]
    return Program(name="misaligned", topology=where, ops=ops)


# -- each kind of command


def test_a_run_on_the_emulator_as_its_printed_line_for_a_shell(tmp_path, monkeypatch, tcelab):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    tell = ["run", "flow", "--topology", "one-pe"]
    tell += ["--platform", "emulator", "--inject", "flip", "--profile", "linux-v2", "--out", "my out"]
    first = tcelab(*tell)
    assert first.code == 1, first.out + first.err
    line = next(each.partition("replay:")[2] for each in first.out.splitlines() if "replay:" in each)
    second = subprocess.run(
        f"{line} --out {shlex.quote(str(tmp_path / 'again'))}",
        shell=True,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1, second.stdout + second.stderr
    assert findings(tmp_path / "again") == findings(tmp_path / "my out") != []


@pytest.mark.parametrize("verb", ["run", "replay", "watch"])
def test_a_run_on_a_kernel_of_ones_own(guests, tcelab, again, verb):
    Path("m.json").write_bytes(misaligned().to_json())
    done = tcelab(verb, "m.json", "--kernel", BROKEN, "--out", "out")
    assert done.code == 1, done
    told = again(done.out)
    assert (told.code, told.found) == (1, findings(Path("../out")))


def test_the_same_program_passes_on_the_kernel_of_the_image(guests, tcelab):
    Path("m.json").write_bytes(misaligned().to_json())
    assert tcelab("run", "m.json").code == 0


def test_a_diff_of_two_guests(guests, tcelab, again):
    Path("m.json").write_bytes(misaligned().to_json())
    done = tcelab("diff", "m.json", "--kernel", "good", "--against-kernel", BROKEN, "--out", "out")
    assert done.code == 1, done
    told = again(done.out, "diff")
    assert (told.code, told.found) == (1, findings(Path("../out")))


def test_a_fuzz_campaign_on_a_kernel_of_ones_own(guests, tcelab, again, monkeypatch):
    monkeypatch.setattr(campaign, "TRIES", 6)  # how small it gets is not the point
    done = tcelab("fuzz", "--kernel", BROKEN, "--topology", "one-pe", "--seed", "1", "--steps", "60", "--out", "o")
    assert done.code == 1, done
    told = again(done.out, "replay")
    assert told.code == 1
    assert {each[-1] for each in told.found} == {MISALIGNED}


def test_a_fuzz_finding_that_came_after_another_one_was_explained_has_that_one_declared(guests, monkeypatch):
    """Else its line would find the first one again."""
    chosen = setup.MachineChoice(topology=topology("one-pe"), kernel=Path("k"), without_quirks=(ONE_PAGE,))
    verb = sys.modules["tcelab.cli.fuzz"]
    found = SimpleNamespace(file=Path("f.json"), known=frozenset({MISALIGNED, ONE_PAGE}))
    words = shlex.split(verb._replay(chosen, Limits(), found, platform="qemu", boot=False))
    declared = words[words.index("--kernel") + 2 :]
    assert declared[::2] == ["--expect-quirk"] * 2
    assert sorted(declared[1::2]) == sorted([MISALIGNED, ONE_PAGE])


def test_each_run_of_a_series(two, tcelab, again):
    done = tcelab("run", "isolation", "--platform", "emulator", "--seed", "3", "--inject", "flip", "--out", "out")
    assert done.code == 1
    *lines, of_all = commands(done.out)
    assert [Path(words[1]).parent.name for words in lines] == ["one-pe", "pair"]
    told = again("replay: " + commandline.typed(lines[1]))
    assert (told.code, told.found) == (1, findings(Path("../out/pair")))
    assert of_all[:2] == ["run", "isolation"]
    assert tcelab(*of_all, "--out", "anew").code == 1


def test_a_leak_check(leakcheck):
    finding = LEAK
    given = ["--kernel", "a b/vmlinux", "--append", "debug", "--timeout", "7", "--any-status", "--", "echo", "a  b"]
    code, _, said, checked = leakcheck(*given, findings=[finding])
    (words,) = commands(said)
    assert words[0] == "leakcheck"
    assert str(Path("a b/vmlinux").absolute()) in words
    shutil.rmtree(next(Path(line.rpartition(" in ")[2]) for line in said.splitlines() if "artefacts in" in line))
    once_more, _, told, same = leakcheck(*words[1:], findings=[finding])
    assert (code, once_more, same.plan) == (1, 1, checked.plan)
    assert list(commands(told)) == [words]


# -- the words


def test_every_field_of_a_choice_is_said_or_has_a_reason_not_to_be():
    assert {*replayline.OPTIONS, *replayline.ELSEWHERE} == {
        each.name for each in msgspec.structs.fields(setup.MachineChoice)
    }


@pytest.mark.parametrize("verb", ["run", "replay", "diff", "leakcheck"])
def test_every_option_of_a_verb_is_said_or_changes_nothing_of_a_saved_program(verb):
    """A new option must be thought of here."""
    said = {*replayline.OPTIONS.values(), "--guard", "--platform", "--boot", "--limit", "--against-qemu"}
    said |= {
        "--against-image",
        "--against-kernel",
        "--against-modules",
        "--timeout",
        "--settle",
        "--any-status",
        "--any-direction",
    }
    there = SshChoice(host_key=Path("k"), keys=(Path("k"),), jumps=("j",), devices=("d",))
    said |= {option for option, _ in there._options()}
    nothing = {
        "--archive",
        "--cache-size",
        "--coverage",
        "--coverage-of",
        "--coverage-fail-under",
        "--topology",
        "--seed",
        "--tap",
        "--inject",
        "--out",
        "--json",
        "--keep",
        "--passthrough",  # the program's topology says so
        "-v",
        "--verbose",
    }
    command = cli.cli.get_command(click.Context(cli.cli), verb)
    there = {name for each in command.params if isinstance(each, click.Option) for name in each.opts}
    assert there <= said | nothing


def test_paths_are_absolute_and_all_is_quoted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "my qemu").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "my qemu").chmod(0o755)
    chosen = setup.MachineChoice(
        topology=topology("one-pe"), qemu="bin/my qemu", kernel=Path("k"), modules=Path("m"), append="-x 'y'"
    )
    line = replayline.line("run", Path("p.json"), chosen, limits=Limits(boot=1.25, perform=1234567.0))
    words = shlex.split(line)[len(commandline.started()) :]
    assert words == [
        *("run", f"{tmp_path}/p.json"),
        *("--qemu", f"{tmp_path}/bin/my qemu"),
        *("--kernel", f"{tmp_path}/k"),
        *("--modules", f"{tmp_path}/m"),
        *("--append", "-x 'y'"),
        *("--limit", "boot=1.25", "--limit", "perform=1234567"),
    ]


def test_a_recipe_stays_a_name(monkeypatch):
    assert replayline.chosen(setup.MachineChoice(topology=topology("one-pe"), qemu="qemu-10.0")) == [
        "--qemu",
        "qemu-10.0",
    ]


def test_what_the_emulator_does_not_know_is_not_said_of_it():
    chosen = setup.MachineChoice(topology=topology("one-pe"), kernel=Path("k"), expect_quirks=(MISALIGNED,))
    words = replayline.chosen(chosen, of_a_guest=False)
    assert words == ["--expect-quirk", MISALIGNED]
    platforms.EmulatorPlatform(setup.MachineChoice(topology=topology("one-pe"), expect_quirks=(MISALIGNED,)))


def test_the_lie_is_in_the_program_itself():
    assert len(inject.flip(misaligned()).ops) == len(misaligned().ops) + 4


# -- the path by which it was started


@pytest.fixture
def script(monkeypatch, tmp_path):
    """A tcelab in a folder of its own, by which it was started."""
    own = tmp_path / "a venv" / "bin" / "tcelab"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(own)])
    return own


def test_a_command_begins_with_the_path_by_which_tcelab_was_started(script, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert commandline.started() == [str(script)]
    assert commandline.typed(["run", "a b"]) == f"'{script}' run 'a b'"


def test_where_a_shell_finds_just_that_one_its_name_will_do(script, monkeypatch):
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    assert commandline.started() == ["tcelab"]


def test_another_one_that_a_shell_finds_is_not_taken_for_it(script, monkeypatch, tmp_path):
    other = tmp_path / "tcelab"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commandline.started() == [str(script)]


def test_a_relative_path_is_made_absolute(script, monkeypatch, tmp_path):
    monkeypatch.chdir(script.parents[1])
    monkeypatch.setattr(sys, "argv", ["bin/tcelab"])
    monkeypatch.setenv("PATH", "bin")
    assert commandline.started() == [str(script)]


def test_python_m_tcelab_without_a_script_is_said_so(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "__main__.py")])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert commandline.started() == [str(tmp_path / "python"), "-m", "tcelab"]


def test_commands_in_what_is_said_begin_so_as_well(script, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    said = commandline.spelled("see tcelab image list, or tcelab run; tcelab says /opt/tcelab run and my-tcelab run")
    assert said == f"see '{script}' image list, or '{script}' run; tcelab says /opt/tcelab run and my-tcelab run"


def test_an_error_says_the_next_step_as_it_must_be_typed(script, monkeypatch, tcelab):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    error = UsageError("x", next_step="see tcelab image list")
    assert error.report().splitlines()[1] == f"  next step: see '{script}' image list"


def test_every_verb_is_known_in_a_sentence():
    assert set(commandline.VERBS) >= set(cli.VERBS)
