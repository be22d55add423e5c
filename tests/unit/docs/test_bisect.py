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


def commit(number):
    """For git fast-import."""
    files = {
        "100755 configure": "#!/bin/sh\ntouch configured\n",
        "100644 .gitignore": "build-bisect\nvmlinux\n",
        "100644 state": f"{HISTORY[number]}\n",
        "100644 number": f"{number}\n",
    }
    head = f"commit refs/heads/main\ncommitter t <t@t> {number} +0000\ndata <<END\ncommit {number}\nEND\n"
    modes = ((*name.split(), text) for name, text in files.items())
    return head + "".join(f"M {mode} inline {name}\ndata {len(text)}\n{text}\n" for mode, name, text in modes)


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
        self.git("fast-import", "--quiet", stdin="".join(map(commit, range(len(HISTORY)))))
        self.git("checkout", "-q", "main")

    def _program(self, name, script):
        (self._bin / name).write_text(f"#!/bin/sh\n{script}")
        (self._bin / name).chmod(0o755)

    def git(self, *words, stdin=""):
        done = self._run("git", *words, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def bisect(self, *words, **more):
        self.git("bisect", "start", "HEAD", "HEAD~7")
        return self._run("git", "bisect", "run", self.script, *words, **more)

    def judge(self, *words, **more):
        """What the script says of the commit that is checked out."""
        return self._run(self.script, *words, **more).returncode

    def begin(self):
        """As after a clone."""
        self.git("bisect", "reset")
        self.git("checkout", "-q", "main")
        self.git("clean", "-q", "-d", "-x", "-f")
        self.calls.write_text("")

    def _run(self, *words, stdin="", **more):
        environment = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "HOME": str(self.folder.parent),
            "GIT_CONFIG_NOSYSTEM": "1",
            "CALLS": str(self.calls),
            **more,
        }
        return subprocess.run(
            words, cwd=self.folder, env=environment, input=stdin, capture_output=True, text=True, check=False
        )


SCRIPTS = {
    "bisect-qemu": ("--qemu", "build-bisect/qemu-system-ppc64"),
    "bisect-kernel": ("--kernel", "vmlinux"),
}


@pytest.fixture(scope="module", params=SCRIPTS)
def shared(request, tmp_path_factory):
    return Tree(tmp_path_factory.mktemp("tree"), request.param)


@pytest.fixture
def tree(shared):
    shared.begin()
    return shared


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
