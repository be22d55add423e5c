"""The scripts of docs/bisect.md find the commit, among some that do not build, do not start or cannot be judged."""

import os
import re
import subprocess
import tomllib

import pytest
from pagesteps import ROOT

FOLDER = ROOT / "docs" / "ci"
GOOD, BAD, UNJUDGED, BROKEN, EMPTY = "good", "bad", "unjudged", "does not build", "makes nothing"
HISTORY = [GOOD, GOOD, BROKEN, UNJUDGED, GOOD, BAD, EMPTY, BAD]
FIRST_BAD = 5

# What a commit's `state` says is what its build becomes, and what tcelab thinks of that.
BUILD = """case $(cat {state}) in "does not build") exit 1 ;; "makes nothing") exit 0 ;; esac
cp {state} {made}
chmod +x {made}
"""
TCELAB = """#!/bin/sh
echo "$*" >>"$CALLS"
case $(cat "$(eval echo \\${$#})") in good) exit 0 ;; bad) exit 1 ;; *) exit ${UNJUDGED:-125} ;; esac
"""


class Tree:
    """A source tree of 8 commits, and tools that build it."""

    def __init__(self, folder, script):
        self.folder, self.script = folder / "tree", FOLDER / script
        self.calls = folder / "calls"
        self._bin = folder / "bin"
        for each in (self.folder, self._bin):
            each.mkdir()
        qemu = BUILD.format(state="../state", made="qemu-system-ppc64")
        self._program("ninja", f"[ -e configured ] || exit 1\n{qemu}")
        vmlinux = BUILD.format(state="state", made="vmlinux")
        self._program("make", f'case "$*" in *olddefconfig*) exit 0 ;; esac\n{vmlinux}')
        (self._bin / "tcelab").write_text(TCELAB)
        (self._bin / "tcelab").chmod(0o755)
        self.git("init", "-q", "-b", "main")
        (self.folder / "configure").write_text("#!/bin/sh\ntouch configured\n")
        (self.folder / "configure").chmod(0o755)
        (self.folder / ".gitignore").write_text("build-bisect\nvmlinux\n")
        for number, state in enumerate(HISTORY):
            (self.folder / "state").write_text(f"{state}\n")
            (self.folder / "number").write_text(f"{number}\n")
            self.git("add", ".")
            self.git("commit", "-q", "-m", f"commit {number}")

    def _program(self, name, script):
        (self._bin / name).write_text(f"#!/bin/sh\n{script}")
        (self._bin / name).chmod(0o755)

    def git(self, *words, **more):
        done = self._run("git", "-c", "user.name=t", "-c", "user.email=t@t", *words, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def bisect(self, *words, **more):
        self.git("bisect", "start", "HEAD", "HEAD~7")
        return self._run("git", "bisect", "run", self.script, *words, **more)

    def judge(self, *words, **more):
        """What the script says of the commit that is checked out."""
        return self._run(self.script, *words, **more).returncode

    def _run(self, *words, **more):
        environment = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "HOME": str(self.folder.parent),
            "GIT_CONFIG_NOSYSTEM": "1",
            "CALLS": str(self.calls),
            **more,
        }
        return subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)


SCRIPTS = {
    "bisect-qemu": ("--qemu", "build-bisect/qemu-system-ppc64"),
    "bisect-kernel": ("--kernel", "vmlinux"),
}


@pytest.fixture(params=SCRIPTS)
def tree(request, tmp_path):
    return Tree(tmp_path, request.param)


def test_the_first_bad_commit_of_eight_is_found(tree):
    done = tree.bisect("program.json", "--boot")
    assert done.returncode == 0, done.stdout + done.stderr
    assert tree.git("log", "-1", "--format=%s", "bisect/bad") == f"commit {FIRST_BAD}\n"
    assert f"commit {FIRST_BAD}" in done.stdout
    option, path = SCRIPTS[tree.script.name]
    assert set(tree.calls.read_text().splitlines()) == {f"run program.json --boot {option} {path}"}


def test_each_commit_gets_its_code_and_an_old_build_is_never_judged(tree):
    codes = []
    for number in range(len(HISTORY)):
        tree.git("checkout", "-q", f"main~{len(HISTORY) - 1 - number}")
        codes.append(tree.judge())
    assert codes == [0, 0, 125, 125, 0, 1, 125, 1]
    assert {line.partition(" --qemu")[0].partition(" --kernel")[0] for line in tree.calls.read_text().splitlines()} == {
        "run flow --seed 1"
    }


def test_wrong_usage_ends_the_bisect(tree):
    tree.git("checkout", "-q", "main~4")
    assert tree.judge("program.json", UNJUDGED="2") == 255
    tree.git("checkout", "-q", "main")
    assert tree.bisect("program.json", UNJUDGED="2").returncode != 0


def test_the_page_points_a_night_at_trees_of_ones_own():
    page = (ROOT / "docs" / "bisect.md").read_text()
    (matrix,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    read = tomllib.loads(matrix)
    assert {*read["qemus"], *read["kernels"]} <= {*read["axes"]["qemu"], *read["axes"]["image"]}
    (script,) = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
    paths = [each["path"] for each in read["qemus"].values()] + [each["kernel"] for each in read["kernels"].values()]
    assert [path for path in paths if path.removeprefix("../") not in script] == []
