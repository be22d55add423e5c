"""What a worker is asked to do, named by the hash of what it runs."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

import tcelab

OUT: Final = "{tcelab-out}"
"""In a task's words, the folder of its artefacts, wherever that is."""
IN: Final = "{tcelab-in}"
"""The folder of its `files`, likewise."""
OUTPUT: Final = "output.txt"
"""All that a task's command printed, in its folder."""
_HEX: Final = 24


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One command.

    :ivar campaign: of which it is a part: a folder's name.
    :ivar title: for people.
    :ivar words: its command line; `own`: without what starts tcelab.
    :ivar more: words that do not change what it runs, as the time that is left.
    :ivar files: what must be in its folder before it begins, by name.
    :ivar limit: seconds that it may take.
    :ivar folder: where it is run; empty: in its own folder.
    :ivar machine: hash of image and QEMU that it is about; empty: none.
    :ivar name: within the campaign: a cell that is run again because its word was not the right one is another task.
    """

    campaign: str
    title: str
    words: list[str]
    own: bool = True
    more: list[str] = []
    files: dict[str, bytes] = {}
    limit: float
    folder: str = ""
    machine: str = ""
    name: str = ""

    def key(self) -> str:
        """24 hex digits, the same for the same words, files, tcelab, machine and campaign."""
        parts: list[Any] = [tcelab.__version__, self.machine, self.campaign, self.name, self.own, self.words]
        hashed = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(self.files.items())}
        return hashlib.sha256(msgspec.json.encode([*parts, hashed])).hexdigest()[:_HEX]


class Returned(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a task: all that the client learns.

    :ivar key: of the task.
    :ivar code: exit code of its command; negative: the signal that ended it.
    :ivar verdict: exit code and signatures: two runs of a task that differ in it are flaky.
    :ivar began: seconds since 1970 (UTC), by the worker's clock; for people alone.
    :ivar seconds: from its start to its end; `cpu`: CPU seconds of it and its children.
    :ivar late: it was ended because its time was up.
    :ivar why: why it could not be run, in one line; empty: it was.
    :ivar files: what it left, by the path in its folder, as far as there was room.
    :ivar left_out: files that were too large to be returned; they stay on the worker.
    :ivar worker: where it ran.
    """

    key: str
    code: int
    verdict: str
    began: float = 0.0
    seconds: float = 0.0
    cpu: float = 0.0
    late: bool = False
    why: str = ""
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    worker: str = ""
