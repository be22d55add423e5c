"""One record as one line of text: the same in log.txt and behind -v."""

from __future__ import annotations

import logging
import time
from typing import Final

from tcelab.logs import context

ROOT: Final = "tcelab"
"""The logger above all of ours."""
_INDENT: Final = "    "


def text(record: logging.LogRecord) -> str:
    """What a record says, with its subject and its traceback."""
    subject = context.subject()
    said = f"{subject}: {record.getMessage()}" if subject else record.getMessage()
    if record.exc_info:
        said = f"{said}\n{_TRACEBACKS.formatException(record.exc_info)}"
    return said


def line(record: logging.LogRecord) -> str:
    """Time (UTC), level, thread, guest, logger and text. Further lines of the text are indented; what is no printable
    character, as a console's escapes, is spelled out.
    """
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    guest = f" [{name}]" if (name := context.guest()) else ""
    said = text(record)
    if not said.isprintable():
        said = f"\n{_INDENT}".join(map(_printable, said.splitlines()))
    return f"{at}.{int(record.msecs):03}Z {record.levelname:7} {record.threadName}{guest} {record.name}: {said}"


def _printable(said: str) -> str:
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in said)


_TRACEBACKS: Final = logging.Formatter()
