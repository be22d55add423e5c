"""The recipes of docs/ci.md and docs/ci/ can be read by those whom they are for, their commands are ours, and their
shell does what each exit code asks for, in an environment of nothing.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from pagesteps import ROOT

from tcelab.cli import cli
from tcelab.testing.plugin import OPTIONS

DOCS = ROOT / "docs"
PAGE = (DOCS / "ci.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {path.name: path.read_text() for path in (DOCS / "ci").iterdir()}


class Strict(yaml.SafeLoader):
    """A key that is there twice is an error."""

    def construct_mapping(self, node, *_, **__):
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"twice in line {node.start_mark.line + 1}: {keys}"
        return super().construct_mapping(node, deep=True)


def read(name):
    return yaml.load(FILES[name], Strict)


GITHUB, GITLAB = read("github.yml"), read("gitlab-ci.yml")
STEPS = GITHUB["jobs"]["tcelab"]["steps"]
JOBS = {name: GITLAB[".tcelab"] | GITLAB[name] for name in ("tcelab", "tcelab-night")}


def scripts():
    """Every shell script of a recipe, by its name."""
    for i, (kind, text) in enumerate(BLOCKS):
        if kind == "sh":
            yield f"block {i}", text
        elif kind == "groovy":
            yield from ((f"block {i}", each) for each in re.findall(r"sh(?:\(script:)? '([^']*)'", text))
    yield from ((f"github: {step['name']}", step["run"]) for step in STEPS if "run" in step)
    for name, job in JOBS.items():
        # GitLab runs these as one script.
        yield f"gitlab: {name}", "\n".join([*job["before_script"], *job["script"]])
    yield from ((name, text) for name, text in FILES.items() if text.startswith("#!"))
    joined = FILES["Containerfile"].replace("\\\n", "")
    yield from (("Containerfile", each) for each in re.findall(r"^RUN (.*)$", joined, re.MULTILINE))


SCRIPTS = list(scripts())
LINES = [line for name, text in SCRIPTS if name != "Containerfile" for line in text.splitlines() if line[:1] != "#"]
FOUND = {each for line in LINES for each in re.findall(r"(?:^|[\s'`(])(tcelab(?: (?!\|\|)[^\s'`;>)]+)+)", line)}
COMMANDS = sorted(each for each in FOUND if '"$@"' not in each)


def test_each_kind_of_recipe_is_there_with_commands_of_ours_and_the_page_leads_to_each_file():
    assert {name.partition(":")[0] for name, _ in SCRIPTS} >= {"github", "gitlab", "Containerfile", "bisect-qemu"}
    assert {kind for kind, text in BLOCKS if "tcelab run" in text} >= {"sh", "groovy"}
    assert len(COMMANDS) >= 8
    pages = PAGE + (DOCS / "bisect.md").read_text()
    assert {name for name in FILES if f"](ci/{name})" in pages} == FILES.keys()


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_shell_reads_every_script(shell):
    for name, script in SCRIPTS:
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), name


def test_shellcheck_has_nothing_to_say():
    for name, script in SCRIPTS:
        check = [Path(sys.executable).with_name("shellcheck"), "--shell=sh", "--severity=warning", "-"]
        done = subprocess.run(check, input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, name + done.stdout


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_line_takes_the_command(line):
    """With its options and their values, as it would before anything is done."""
    command, words, context = cli, shlex.split(line)[1:], click.Context(cli)
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
    assert command.make_context(line, words)


class Bare:
    """A folder, and an environment with nothing in it but programs that say what they were called with."""

    def __init__(self, folder):
        self.folder, self.said = folder, folder / "said"
        (folder / "bin").mkdir()
        (folder / "home").mkdir()

    def program(self, name, script):
        path = self.folder / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.said}\n{script}\n')
        path.chmod(0o755)

    def run(self, script, *, shell="sh"):
        """Its exit code, and each call of a program."""
        self.said.write_text("")
        environment = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "HOME": str(self.folder / "home"),
            "GITHUB_ENV": str(self.folder / "env"),
            "GITHUB_PATH": str(self.folder / "path"),
        }
        done = subprocess.run(
            [shell, "-e"], input=script, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, self.said.read_text().splitlines()


@pytest.fixture
def bare(tmp_path):
    return Bare(tmp_path)


def ends(*codes):
    """A tcelab that ends with these codes, one for each `run`, `nightly` and `report`."""
    words = " ".join(map(str, codes))
    return f"""case $1 in run|nightly|report) ;; *) exit 0 ;; esac
n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) >n
set -- {words}; shift $n; exit $1"""


def step(name):
    (found,) = [each["run"] for each in STEPS if each.get("name") == name]
    return found


RUN = step("run")
NIGHTS = {"github": step("night"), "gitlab": "\n".join(JOBS["tcelab-night"]["script"])}


@pytest.mark.parametrize(
    ("codes", "ended", "runs"),
    [((0,), 0, 1), ((1,), 1, 1), ((2,), 2, 1), ((125, 0), 0, 2), ((125, 1), 1, 2), ((125, 125), 125, 2)],
    ids=str,
)
def test_the_job_of_github_tries_what_could_not_be_judged_once_more_and_takes_no_other_code_for_it(
    bare, codes, ended, runs
):
    bare.program("tcelab", ends(*codes))
    code, said = bare.run(RUN)
    assert code == ended
    assert len([line for line in said if line.startswith("tcelab run main")]) == runs


@pytest.mark.parametrize("night", NIGHTS.values(), ids=NIGHTS)
@pytest.mark.parametrize(
    ("codes", "ended"), [((0, 0), 0), ((1, 0), 1), ((125, 0), 125), ((0, 1), 125), ((1, 1), 1)], ids=str
)
def test_a_night_is_reported_whatever_became_of_it_and_is_no_pass_without_a_report(bare, night, codes, ended):
    bare.program("tcelab", ends(*codes))
    code, said = bare.run(night)
    assert code == ended
    assert [line.split()[1] for line in said] == ["nightly", "report"]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_of_gitlab_installs_what_it_needs_and_ends_with_our_code(bare, name):
    bare.program("apt-get", "")
    bare.program("python3", "mkdir -p venv/bin; ln -sf ../../bin/pip venv/bin/pip")
    bare.program("pip", "ln -sf ../../bin/tcelab venv/bin/tcelab")
    bare.program("tcelab", ends(125, 0))
    script = "\n".join([*JOBS[name]["before_script"], *JOBS[name]["script"]])
    code, said = bare.run(script, shell="bash")
    assert code == 125
    assert [line.split()[0] for line in said[:4]] == ["apt-get", "apt-get", "python3", "pip"]


def test_the_steps_of_github_hand_on_what_the_next_ones_need(bare):
    bare.program("python3", "mkdir -p venv/bin; ln -sf ../../bin/pip venv/bin/pip")
    bare.program("pip", "")
    assert bare.run(step("folders"))[0] == bare.run(step("set up"))[0] == 0
    told = dict(line.split("=", 1) for line in (bare.folder / "env").read_text().splitlines())
    cached = [each["with"]["path"] for each in STEPS if each.get("uses", "").startswith("actions/cache")]
    assert {Path(each).parts[0] for each in cached} == {Path(each).name for each in told.values()}
    assert (bare.folder / "path").read_text().strip() == str(bare.folder / "venv/bin")


def test_the_jobs_know_what_125_is_and_keep_what_a_person_needs():
    job = JOBS["tcelab"]
    assert job["allow_failure"]["exit_codes"] == job["retry"]["exit_codes"] == [125]
    assert job["artifacts"]["when"] == "always"
    assert [each.get("if") for each in STEPS if "upload-artifact" in each.get("uses", "")] == ["always()"]
    assert re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE) == ["0", "1", "2", "125"]
    assert GITHUB[True]["schedule"]  # `on` is a YAML boolean
    assert all(each.get("run") or each.get("uses") for each in STEPS)


def test_a_cache_of_images_is_keyed_by_their_locks():
    keys = [each["with"]["key"] for each in STEPS if each.get("with", {}).get("path") == "cache/images"]
    assert "images/*" in keys[0]
    (files,) = [each["key"]["files"] for each in JOBS["tcelab"]["cache"] if each["paths"] == ["cache/images"]]
    assert all((ROOT / name).is_file() and name.endswith(".lock") for name in files)


def test_the_container_runs_as_a_user_who_is_not_root():
    lines = re.findall(r"^([A-Z]+) (.*)$", FILES["Containerfile"], re.MULTILINE)
    kinds = [kind for kind, _ in lines]
    assert dict(lines)["USER"] == "tcelab"
    assert "RUN" not in kinds[kinds.index("USER") :]
    images = [text for kind, text in lines if kind == "FROM"]
    assert images == [GITHUB["jobs"]["tcelab"]["container"]] == list({job["image"] for job in JOBS.values()})


def test_the_options_of_pytest_are_the_plugins():
    assert set(re.findall(r"--tcelab-([\w-]+)", PAGE)) <= OPTIONS.keys()


def test_scripts_to_copy_can_be_executed():
    ours = [DOCS / "ci" / name for name, text in FILES.items() if text.startswith("#!")]
    assert len(ours) == len([path for path in ours if os.access(path, os.X_OK)]) == 2
