"""The program itself, and its form on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from tcelab.errors import UsageError
from tcelab.program import expected, programjson
from tcelab.program.operations import Op
from tcelab.program.topology import Topology

FORMAT: Final = 1
"""Version of the JSON form. A reader refuses any other."""

_SAVED: Final = "give the program.json of a run, or the run's folder: tcelab runs list shows those that are kept"
_DAMAGED: Final = "the file is damaged or cut short; take another copy, or see docs/operations.md for the format"


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to do, and on which machine.

    :ivar seed: the seed that it was made from, if random; runs of one program repeat exactly.
    :ivar isolation: for a platform that isolates a PE when one of its devices does a DMA that its table forbids.
    :ivar test: the test that recorded it, empty if none did. The test's own assertions are not part of it.
    :ivar page_sizes: CPU page sizes, in bytes, of the kernels that it was made for. With any other it cannot judge:
        sizes that prove something with one page size may prove nothing with another. Empty: it suits any.
    :ivar shows: quirks that it is made to show. If one of them is declared and not met, that is a finding.
    """

    name: str
    topology: Topology
    ops: list[Op]
    seed: int = 0
    isolation: bool = False
    test: str = ""
    page_sizes: list[int] = []
    shows: list[str] = []
    format: int = FORMAT

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


class _Header(msgspec.Struct):
    format: int = FORMAT


def from_json(data: bytes, source: str) -> Program:
    """Decode and check a program.

    :param source: what to call the data in messages, usually the file's name.
    :raise UsageError: not a program, or of another format, in one line that names the place.
    """
    try:
        # Checked first: a newer format may have operations and fields that are unknown here.
        form = msgspec.json.decode(data, type=_Header).format
        if form != FORMAT:
            hint = "take a newer tcelab" if form > FORMAT else "make it anew"
            raise UsageError(f"{source} has format {form}, this tcelab reads format {FORMAT}", next_step=hint)
        program = programjson.decode(data, Program, source)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} is not a program: {error}", next_step=_DAMAGED) from None
    if wrong := expected.problem(program.ops):
        raise UsageError(f"{source}, {wrong}", next_step="mend the program; operations are counted from 0")
    return program


def load(path: Path) -> Program:
    """:raise UsageError: the file cannot be read or is not a program."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", next_step=_SAVED) from None
    return from_json(data, str(path))
