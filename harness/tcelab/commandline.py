"""Commands that are printed for a person to type: they begin with the path by which tcelab was started."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

NAME: Final = "tcelab"
VERBS: Final = (
    *("run", "diff", "fuzz", "replay", "watch", "table", "leakcheck", "doctor", "image", "runs", "shell", "bench"),
    *("nightly", "history", "report", "coverage", "export"),
)
"""By which a command of ours is known in the middle of a sentence."""

_COMMAND: Final = re.compile(rf"(?<![\w/.-]){NAME}(?= (?:{'|'.join(VERBS)})\b)")


def started() -> list[str]:
    """The words that start this tcelab again, from any folder: its name alone where a shell finds just this one."""
    own = Path(sys.argv[0])
    script = own.absolute() if own.name == NAME and own.is_file() else Path(sys.executable).with_name(NAME)
    if not script.is_file():
        return [sys.executable, "-m", NAME]
    found = shutil.which(NAME)
    if found is not None and Path(found).is_absolute() and Path(found).resolve() == script.resolve():
        return [NAME]
    return [str(script)]


def typed(words: Iterable[str]) -> str:
    """A command as a line for a shell.

    :param words: what comes after tcelab itself.
    """
    return shlex.join([*started(), *words])


def spelled(text: str) -> str:
    """A text with each command of ours in it begun as it must be typed here."""
    return _COMMAND.sub(lambda _: shlex.join(started()), text) if _COMMAND.search(text) else text
