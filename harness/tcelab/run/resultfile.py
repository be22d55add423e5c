"""`result.json`: what each of them holds, whichever verb wrote it, and how it is written."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from tcelab.errors import UsageError

T = TypeVar("T")

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


def decode(data: bytes, kind: type[T], schema: int, source: str, what: str) -> T:
    """Read back a file that has its schema in it.

    :param source: its name; `what` it should be: `a result`.
    :raise UsageError: it is none, or of another schema.
    """
    try:
        found = msgspec.json.decode(data, type=_SchemaHeader).schema
        if found != schema:
            raise UsageError(f"{source} has schema {found}, this tcelab reads schema {schema}")
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} is not {what}: {error}") from None


class _SchemaHeader(msgspec.Struct):
    schema: int
