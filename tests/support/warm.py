"""Runs `python -m MODULE ...` as a process that need not import everything anew: a fork of one that has done so.

It has its own descriptors, environment, folder and arguments, and ends as Python does, so that what a command says and
returns, also where it cannot say it, is that of a process. What it must not share is when its interpreter starts: tests
keep a real process beside it for each kind of thing.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

CLOSED = "closed"
LEFT = "left"
"""A pipe of which nobody reads the other end."""

INPUT = Path(os.devnull)


class Warm:
    """:ivar pid: of the process that has imported all."""

    def __init__(self, server) -> None:
        self._server = server
        self.pid = server.pid

    def run(self, module, *words, stdout=None, stderr=None, stdin=INPUT, cwd=None, env=None):
        """The same as `subprocess.run(..., text=True)` of it; streams: a path, `CLOSED` or `LEFT`, None: captured."""
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, name) for name in ("out", "err")]
            streams = [stdin, stdout or files[0], stderr or files[1]]
            order = {
                "module": module,
                "words": [str(word) for word in words],
                "streams": [str(stream) for stream in streams],
                "cwd": str(cwd or Path.cwd()),
                "env": dict(os.environ if env is None else env),
            }
            print(json.dumps(order), file=self._server.stdin, flush=True)
            code = int(self._server.stdout.readline())
            said = [path.read_text() if path.exists() else None for path in files]
            return subprocess.CompletedProcess([module, *words], code, *said)


@contextmanager
def warm(*modules):
    """A process that has imported these modules."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        [sys.executable, __file__, *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
    )
    with server:
        yield Warm(server)


# -- in the other process


def _serve():
    """Fork for each line: what is to be run, in the fork, None when there are no more."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return None


def _become(order) -> None:
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    before = os.environ.get("PYTHONPATH", "")
    sys.path[:1] = [order["cwd"], *before.split(os.pathsep)] if before else [order["cwd"]]
    sys.argv[1:] = order["words"]
    for number, (name, where) in enumerate(zip(("stdin", "stdout", "stderr"), order["streams"], strict=True)):
        stream = _stream(number, where)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _stream(number, where):
    """As the interpreter makes it when it starts."""
    if where == CLOSED:
        os.close(number)
        return None
    if where == LEFT:
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(where, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY)
    os.dup2(writer, number)
    os.close(writer)
    if not number:
        return open(number, encoding="utf-8", closefd=False)
    errors, by_line = ("backslashreplace", True) if number == 2 else ("strict", False)
    return open(number, "w", 1 if by_line else -1, "utf-8", errors, closefd=False)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        importlib.import_module(each)
    if (ordered := _serve()) is not None:
        _become(ordered)
        runpy.run_module(ordered["module"], run_name="__main__", alter_sys=True)
