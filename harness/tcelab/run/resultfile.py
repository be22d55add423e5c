"""`result.json`: what each of them holds, whichever verb wrote it, and how it is written."""

from __future__ import annotations

from typing import Any, Final

import msgspec

SCHEMA: Final = 1
"""Raised when a field changes its meaning or goes away; new fields do not raise it."""


class ResultFile(msgspec.Struct, kw_only=True):
    """What the result of every verb has.

    :ivar schema: version of this format.
    :ivar tcelab: version of tcelab.
    :ivar versions: versions of the guest's kernel, QEMU, firmware and image, or of the emulator.
    :ivar options: the command's options.
    :ivar timings: seconds that each part of the run took.
    :ivar artefacts: name of each kind of file, relative to the folder that holds this file.
    :ivar laws: name and meaning of each law.
    :ivar replay: the command that repeats the run.
    """

    schema: int = SCHEMA
    tcelab: str
    versions: dict[str, Any] = {}
    options: dict[str, Any] = {}
    timings: dict[str, float] = {}
    artefacts: dict[str, str] = {}
    laws: dict[str, str] = {}
    replay: str = ""


def to_json(result: ResultFile) -> bytes:
    """Indented JSON; what JSON cannot say (paths) is written as text."""
    return msgspec.json.format(msgspec.json.encode(result, enc_hook=str), indent=1) + b"\n"
