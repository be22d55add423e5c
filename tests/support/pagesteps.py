"""Takes a page at its word: puts its code into a copy of the tree and runs its commands there.

Of the fenced blocks of a page, three kinds are steps, done in the order of the page:

- any language with `title="FILE"`: that file, whole, which must be new;
- `diff title="FILE"`: an edit. Its hunks need no numbers: the lines before must be in the file exactly once.
  `diff title="FILE: ..."`: an edit that lasts for the next block of commands alone;
- `console`: commands, each after `$ `, and of their output the lines that are shown, in order. `...` stands for any
  lines. `$ echo $?` shows how the command before it ended; where it does not follow, that must be 0.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from warm import Warm

ROOT = Path(__file__).parents[2]
TREE = ("harness", "guest/tceagent", "tests", "docs", "images", "pyproject.toml")
"""What is copied, the compiled modules too: nobody compiles them anew."""
PROGRAMS = {
    "tcelab": ("tcelab",),
    # Without what these tests do not need: starting it is what takes time.
    "pytest": (
        *("pytest", "-q", "--noconftest", "--override-ini", "addopts=--strict-config --import-mode=importlib"),
        *("-p", "no:cacheprovider", "-p", "no:tcelab", "-p", "no:xdist", "-p", "no:hypothesispytest"),
    ),
    "python": (),
}
"""Modules by the program that a page names, and what comes before its arguments."""
OTHERS = (
    *("asyncio", "click", "debian.deb822", "debian.debian_support", "elftools.elf.elffile", "msgspec", "numpy"),
    *("pexpect", "pytest", "qemu.qmp", "rich.console", "rich.table", "unittest.mock"),
)
"""What these programs import that is not in the tree."""

_FENCE = re.compile(r'^```(\w+)(?: +title="([^"]+)")?.*?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """:ivar kind: `file`, `edit` or `commands`. `file`: where, if it is no commands. `passing`: taken back soon."""

    kind: str
    text: str
    file: str = ""
    passing: bool = False


def steps(page: str) -> list[Step]:
    """The steps of a page, in order."""
    out = []
    for language, title, text in _FENCE.findall(page):
        file, colon, _ = title.partition(":")
        if language == "console":
            out.append(Step("commands", text))
        elif title:
            out.append(Step("edit" if language == "diff" else "file", text, file, passing=bool(colon)))
    return out


class Copy:
    """A copy of the tree in an empty folder.

    :param forks: of a process that has imported `OTHERS`. The first command is one that Python is started for.
    """

    def __init__(self, folder: Path, forks: Warm) -> None:
        self.folder = folder / "tcelab"
        for name in TREE:
            to = self.folder / name
            to.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-Rp", ROOT / name, to], check=True)
        self._forks = forks
        self._started = False
        paths = os.pathsep.join(str(self.folder / name) for name in ("harness", "guest"))
        self._environment = {**os.environ, "PYTHONPATH": paths, "XDG_STATE_HOME": str(folder / "state")}
        self._before: dict[Path, str] = {}

    def do(self, step: Step) -> None:
        path = self.folder / step.file
        if step.kind == "commands":
            self._run(step.text)
            for each, text in self._before.items():
                each.write_text(text)
            self._before.clear()
        elif step.kind == "file":
            assert not path.exists(), f"{step.file} is there already"
            path.parent.mkdir(exist_ok=True)
            path.write_text(step.text)
        else:
            text = path.read_text()
            if step.passing:
                self._before.setdefault(path, text)
            path.write_text(edited(text, step.text, step.file))

    def _run(self, text: str) -> None:
        code, said = 0, ""
        for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = block.partition("\n")
            if command == "echo $?":
                assert f"{code}\n" == shown, f"exit code {code}"
                code = 0
                continue
            assert code == 0, f"exit code {code}:\n{said}"
            code, said = self._command(command)
            assert_shown(shown, said)
        assert code == 0, f"exit code {code}:\n{said}"

    def _command(self, line: str) -> tuple[int, str]:
        line, _, into = line.partition(" > ")
        program, *arguments = shlex.split(line)
        if program == "python":
            minus_m, *arguments = arguments
            assert minus_m == "-m"
        words = [*PROGRAMS[program], *arguments]
        if self._started:
            done = self._forks.run(*words, cwd=self.folder, env=self._environment)
        else:
            self._started = True
            done = subprocess.run(
                [sys.executable, "-m", *words],
                cwd=self.folder,
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
            )
        if into:
            (self.folder / into).write_text(done.stdout)
        return done.returncode, done.stdout + done.stderr


def edited(text: str, diff: str, name: str) -> str:
    """A file after a diff."""
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[:1] in {" ", "-"})
        after = "".join(line[1:] for line in lines if line[:1] in {" ", "+"})
        if not before and not after:
            continue
        assert text.count(before) == 1, f"{name} has {text.count(before)} times:\n{before}"
        text = text.replace(before, after)
    return text


def assert_shown(shown: str, said: str) -> None:
    """The lines that a page shows are what a command said, in that order."""
    rest = said.splitlines()
    loose = True
    for line in shown.splitlines():
        if line == "...":
            loose = True
            continue
        here = next((i for i, each in enumerate(rest) if each.rstrip() == line.rstrip()), None)
        assert here is not None, f"it does not say {line!r}; it says:\n{said}"
        assert loose or here == 0, f"before {line!r} it says {rest[:here]}"
        rest, loose = rest[here + 1 :], False
