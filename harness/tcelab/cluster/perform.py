"""One task in a folder of its own: its result is on the disk, whole, before anybody is told."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from tcelab import userconfig
from tcelab.cluster.task import IN, OUT, OUTPUT, Returned, Task
from tcelab.errors import HarnessError
from tcelab.fuzz.piece import NAME as PIECE
from tcelab.history.signature import signature
from tcelab.judge import Finding
from tcelab.nightly.folder import put
from tcelab.nightly.process import Ended, Running
from tcelab.run.exitcode import COULD_NOT_JUDGE

_LOG: Final = logging.getLogger(__name__)

LIMIT: Final = 16 << 20
"""Bytes of files that go back to the client."""
_RETURNED: Final = "returned.msgpack"
_HEARD: Final = 5.0
"""Seconds in which a client's death is heard of."""
_LOOK: Final = 1.0
"""Seconds between two looks whether anybody wants it still."""
_FIRST: Final = ("result.json", PIECE, OUTPUT, "junit.xml", "bench.json")
"""Files without which nobody knows what came of it: they are packed first."""


class GoneError(Exception):
    """Nobody wants the task any more."""


class _Found(msgspec.Struct):
    finding: Finding


class _Pieces(msgspec.Struct):
    found: list[_Found]


class _Verdict(msgspec.Struct):
    findings: list[Finding] = []


class _Told(msgspec.Struct):
    verdict: _Verdict | str
    findings: list[Finding] = []


def store() -> Path:
    """Where the results of this machine lie until the client has them."""
    return userconfig.folder("state") / "cluster"


def perform(task: Task, worker: str, gone: Callable[[], bool], root: Path | None = None) -> Returned:
    """Run a task, or return what an earlier run of it has left here.

    :param gone: nobody wants it any more: it is asked each second.
    :param root: by default `store()`.
    :raise GoneError: likewise; its command has ended, and nothing of it is kept.
    """
    key = task.key()
    folder = (root or store()) / task.campaign / key
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock"), gone):
            kept = folder / _RETURNED
            if kept.exists():
                return msgspec.msgpack.decode(kept.read_bytes(), type=Returned)
            returned = _run(task, key, folder, worker, gone)
            put(kept, msgspec.msgpack.encode(returned))
            return returned
    except (OSError, HarnessError) as error:
        why = error.message if isinstance(error, HarnessError) else f"{error.filename or folder}: {error.strerror}"
        return Returned(
            key=key, code=COULD_NOT_JUDGE, verdict=str(COULD_NOT_JUDGE), why=f"worker {worker}: {why}", worker=worker
        )


def _run(task: Task, key: str, folder: Path, worker: str, gone: Callable[[], bool]) -> Returned:
    out, inputs, output = folder / "out", folder / "in", folder / OUTPUT
    shutil.rmtree(folder, ignore_errors=True)  # of a run that a killed worker has left
    for each in (out, inputs):
        each.mkdir(mode=0o700, parents=True)
    for name, data in task.files.items():
        (inputs / Path(name).name).write_bytes(data)
    words = [word.replace(OUT, str(out)).replace(IN, str(inputs)) for word in [*task.words, *task.more]]
    command = [sys.executable, "-m", "tcelab", *words] if task.own else words
    where = Path(task.folder) if task.folder else folder
    if not where.is_dir():
        raise HarnessError(f"there is no folder {where} here")
    cookie = f"{task.campaign}/{key}-{os.getpid()}"
    running = Running(command, output, cookie=cookie, limit=task.limit, folder=where)
    ended = _waited(running, gone)
    if output.exists():
        output.replace(out / OUTPUT)
    files, left_out = _packed(out)
    return Returned(
        key=key,
        code=ended.code,
        verdict=verdict(ended.code, out),
        began=ended.began,
        seconds=ended.seconds,
        cpu=ended.cpu,
        late=ended.late,
        files=files,
        left_out=left_out,
        worker=worker,
    )


def _waited(running: Running, gone: Callable[[], bool]) -> Ended:
    """:raise GoneError: nobody wants it any more; it has ended."""
    unwanted = False
    try:
        while not _ended(running):
            if not unwanted and gone():
                unwanted = True
                running.end()
            if time.monotonic() >= running.deadline:
                running.overdue()
    except BaseException:
        running.kill()
        running.reap()
        raise
    ended = running.reap()
    # Where the client is on this machine, its own guard ends the command, perhaps before we hear that the client died.
    until = time.monotonic() + (_HEARD if ended.code < 0 else 0.0)
    while not (unwanted := unwanted or gone()) and time.monotonic() < until:
        time.sleep(_HEARD / 20)
    if unwanted:
        raise GoneError
    return ended


def _ended(running: Running) -> bool:
    poll = select.poll()
    poll.register(running.descriptor, select.POLLIN)
    return bool(poll.poll(_LOOK * 1e3))


@contextmanager
def _alone(path: Path, gone: Callable[[], bool]) -> Iterator[None]:
    """While the block lasts, nobody else on this machine runs the same task."""
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if gone():
                    raise GoneError from None
                time.sleep(_LOOK)
        yield


def _packed(out: Path) -> tuple[dict[str, bytes], list[str]]:
    """Files for the client, the most important and the smallest ones first, and those for which there is no room."""
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    room = LIMIT
    there = [each for each in out.rglob("*") if each.is_file() and not each.is_symlink()]
    for path in sorted(there, key=lambda each: (each.name not in _FIRST, each.stat().st_size)):
        name = str(path.relative_to(out))
        if path.stat().st_size > room:
            left_out.append(name)
            continue
        files[name] = path.read_bytes()
        room -= len(files[name])
    return files, left_out


def verdict(code: int, out: Path) -> str:
    """Exit code and signatures of what was found: what must be the same whenever the task is run."""
    findings: list[Finding] = []
    with contextlib.suppress(OSError, msgspec.DecodeError):
        findings += [each.finding for each in msgspec.json.decode((out / PIECE).read_bytes(), type=_Pieces).found]
    if not findings:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            told = msgspec.json.decode((out / "result.json").read_bytes(), type=_Told)
            findings += told.findings or (told.verdict.findings if isinstance(told.verdict, _Verdict) else [])
    return " ".join([str(code), *sorted({signature(each).key() for each in findings})])


def forget(campaign: str, root: Path | None = None) -> None:
    """The client has all results of a campaign."""
    shutil.rmtree((root or store()) / Path(campaign).name, ignore_errors=True)
