"""A piece of a campaign: one program, run in a process of its own, or one finding that such a process shrinks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from tcelab.errors import UsageError
from tcelab.fuzz.tally import Found, Tally
from tcelab.judge import Finding
from tcelab.program import load

NAME: Final = "piece.json"
"""What a piece leaves in its folder, beside the programs that it names."""


class PieceFound(msgspec.Struct, frozen=True, kw_only=True):
    """A finding of a piece; see `Found`.

    :ivar program: name of its file; `original`: likewise, the program by which it was found, whole.
    """

    number: int
    finding: Finding
    program: str
    original: str
    known: list[str]
    missed: bool = False


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What a piece did; see `Tally`."""

    programs: int
    operations: int
    checkpoints: int
    entries: int
    quirks: dict[str, int]
    left_out: dict[str, int]
    could_not: list[str]
    found: list[PieceFound]


def of(tally: Tally) -> Piece:
    """From what the process did, all of whose programs are saved."""
    return Piece(
        programs=tally.programs,
        operations=tally.operations,
        checkpoints=tally.checkpoints,
        entries=tally.entries,
        quirks=dict(tally.quirks),
        left_out=dict(tally.left_out),
        could_not=[each.partition("\n")[0] for each in tally.could_not],
        found=[
            PieceFound(
                number=each.number,
                finding=each.finding,
                program=each.file.name,
                original=original_of(each.file).name,
                known=sorted(each.known),
                missed=each.missed,
            )
            for each in tally.found
        ],
    )


def original_of(file: Path) -> Path:
    """Where the program is by which a finding was found."""
    return file.with_suffix(".original.json")


def add(tally: Tally, piece: Piece) -> None:
    """Count a piece; its findings are the caller's."""
    for name in ("programs", "operations", "checkpoints", "entries"):
        setattr(tally, name, getattr(tally, name) + getattr(piece, name))
    tally.quirks.update(piece.quirks)
    tally.left_out.update(piece.left_out)


def to_json(piece: Piece | PieceFound) -> bytes:
    """As a file."""
    return msgspec.json.encode(piece) + b"\n"


def read(data: bytes, source: str) -> Piece:
    """:raise UsageError: it is no piece."""
    try:
        return msgspec.json.decode(data, type=Piece)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} is no piece of a campaign: {error}") from None


def read_found(path: Path) -> PieceFound:
    """A finding that is to be shrunk; its program lies beside it.

    :raise UsageError: it is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=PieceFound)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no finding of a piece: {error}") from None


def found(each: PieceFound, source: Path, folder: Path, number: int) -> Found:
    """Save the programs of a finding under the campaign's own number for it.

    :param source: the folder of the piece.
    :raise OSError: a program is not there, or cannot be written.
    """
    file = folder / f"finding-{number}.json"
    file.write_bytes((source / each.program).read_bytes())
    original_of(file).write_bytes((source / each.original).read_bytes())
    known = frozenset(each.known)
    return Found(each.finding, load(file), load(original_of(file)), file, known, each.missed, each.number)
